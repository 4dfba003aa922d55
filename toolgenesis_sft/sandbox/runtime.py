"""The servers' own environment: where its interpreter lies, which Python, what is installed."""

from __future__ import annotations

import functools
import json
import os
import subprocess
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from toolgenesis_sft.errors import UserError

SYSTEM_LIBRARIES = ("/usr/lib", "/usr/lib32", "/usr/lib64", "/usr/local/lib", "/usr/share/zoneinfo")


@dataclass(frozen=True)
class Runtime:
    """Where the servers' interpreter and its environment lie."""

    python: Path
    prefix: Path
    base_prefix: Path
    real_prefix: Path
    stdlib: Path
    digest: str
    num_packages: int


PROBE = """
import hashlib, importlib.metadata, json, sys, sysconfig
packages = {d.metadata["Name"].lower() + "==" + d.version
            for d in importlib.metadata.distributions()}
lines = sorted(packages | {"python==%d.%d" % sys.version_info[:2]})
print(json.dumps({
    "prefix": sys.prefix, "base_prefix": sys.base_prefix, "stdlib": sysconfig.get_path("stdlib"),
    "digest": hashlib.sha256("\\n".join(lines).encode()).hexdigest(),
    "num_packages": len(packages)}))
"""


@functools.cache
def runtime(server_python: Path) -> Runtime:
    """Ask the interpreter where it lies and what is installed. Raises UserError."""
    python = Path(os.path.abspath(server_python))  # noqa: PTH100  symlinks make the environment
    try:
        done = subprocess.run(
            [str(python), "-I", "-c", PROBE],
            capture_output=True,
            check=True,
            timeout=60,
            env={},
        )
    except (OSError, subprocess.SubprocessError) as error:
        raise UserError(
            "score.server_python",
            str(server_python),
            f"cannot be run ({error})",
            "run `make setup`, or name the interpreter of an environment built from"
            " eval/server_runtime.txt",
        ) from error
    found: dict[str, Any] = json.loads(done.stdout)
    return Runtime(
        python=python,
        prefix=Path(found["prefix"]),
        base_prefix=Path(found["base_prefix"]),
        real_prefix=python.resolve().parent.parent,
        stdlib=Path(found["stdlib"]),
        digest=found["digest"],
        num_packages=found["num_packages"],
    )


def visible_folders(where: Runtime) -> list[Path]:
    """The interpreter, its environment and the system's libraries, outermost folders only. An
    interpreter of the system shows its own file and not the rest of /usr/bin."""
    wanted = {Path(folder) for folder in SYSTEM_LIBRARIES if Path(folder).is_dir()}
    for prefix in (where.prefix, where.base_prefix, where.real_prefix):
        if prefix in (Path("/"), Path("/usr"), Path("/usr/local")):
            wanted |= {where.stdlib, where.python.resolve(), *_links(where.python)}
        else:
            wanted.add(prefix)
    return sorted(path for path in wanted if not any(parent in wanted for parent in path.parents))


def _links(python: Path) -> list[Path]:
    """The symlinks in /usr/bin and the like on the way to the interpreter's own file."""
    found = []
    while python.is_symlink():
        python = Path(os.path.abspath(python.parent / python.readlink()))  # noqa: PTH100
        found.append(python)
    return found
