"""What pyproject.toml cannot say: a wheel carries the files that people run and edit.

In a checkout they lie in top-level folders; in an installed package in toolgenesis_sft/share
(toolgenesis_sft.config.resolve_path knows both).
"""

import shutil
from pathlib import Path

from setuptools import setup
from setuptools.command.build_py import build_py

SHARED = ("recipes", "launch", "eval", "data/mini", "data/sources.yaml")


class BuildWithShared(build_py):
    def run(self) -> None:
        super().run()
        if self.editable_mode:
            return
        for name in SHARED:
            target = Path(self.build_lib, "toolgenesis_sft", "share", name)
            target.parent.mkdir(parents=True, exist_ok=True)
            if Path(name).is_dir():
                shutil.copytree(name, target, dirs_exist_ok=True)
            else:
                shutil.copy2(name, target)


setup(cmdclass={"build_py": BuildWithShared})
