"""`accelerate launch recipes/NAME.yaml`, literally, and the two forms beside it."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from toolgenesis_sft.runs import RunFolder

pytestmark = [pytest.mark.slow, pytest.mark.timeout(600)]

ROOT = Path(__file__).resolve().parents[2]
RECIPE = "recipes/tiny_cpu.yaml"
SMALLER = (
    "data.max_scenarios=2",
    "train.epochs=2",
    "train.global_batch_size=2",
    "model.random={hidden_size: 64, num_layers: 2, intermediate_size: 128}",
)
RUN = RunFolder(Path("runs/tiny-cpu"))


@pytest.fixture(scope="module")
def built(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A working folder with recipes/, launch/ and a built training set."""
    folder = tmp_path_factory.mktemp("built")
    for name in ("recipes", "launch", "data"):
        (folder / name).symlink_to(ROOT / name)
    command = [sys.executable, "-m", "toolgenesis_sft.cli", "build", RECIPE, *SMALLER]
    subprocess.run(command, cwd=folder, check=True)
    return folder


@pytest.fixture
def shell(built: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """In a copy of that folder, with this interpreter first on the PATH and a cache of its own."""
    folder = tmp_path / "here"
    shutil.copytree(built, folder, symlinks=True)
    monkeypatch.chdir(folder)
    monkeypatch.setenv("HF_HOME", str(tmp_path / "cache"))
    monkeypatch.setenv("PATH", f"{Path(sys.executable).parent}:{os.environ['PATH']}")
    for name in [name for name in os.environ if name.startswith(("ACCELERATE_", "TOOLGENESIS_"))]:
        monkeypatch.delenv(name)


def launch(*command: str) -> None:
    done = subprocess.run([*command, *SMALLER], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr[-4000:]


def assert_trained_on_two_ranks_under_zero3() -> None:
    facts = json.loads(RUN.provenance.read_bytes())["train"]
    assert (facts["zero_stage"], facts["world_size"]) == (3, 2)
    assert RUN.metrics.read_bytes().count(b"\n") == 2


def test_with_the_configuration_installed_no_flag_is_needed(shell: None) -> None:
    subprocess.run(
        ["launch/install_accelerate_config.sh", "launch/accelerate_cpu.yaml"], check=True
    )
    launch("accelerate", "launch", RECIPE)
    assert_trained_on_two_ranks_under_zero3()


def test_the_supported_form_names_the_configuration(shell: None) -> None:
    config = ("--config_file", "launch/accelerate_cpu.yaml")
    launch("accelerate", "launch", *config, "--no_python", RECIPE)
    assert_trained_on_two_ranks_under_zero3()


def test_the_module_form_works_with_any_configuration(shell: None) -> None:
    text = Path("launch/accelerate_cpu.yaml").read_text(encoding="utf-8")
    plain = Path("plain.yaml")
    plain.write_text(text.replace("  no_python: true\n", ""), encoding="utf-8")
    module = ("-m", "toolgenesis_sft.training")
    launch("accelerate", "launch", "--config_file", str(plain), *module, RECIPE)
    assert_trained_on_two_ranks_under_zero3()


def test_installing_keeps_the_former_default(shell: None) -> None:
    default = Path(os.environ["HF_HOME"]) / "accelerate" / "default_config.yaml"
    default.parent.mkdir(parents=True)
    default.write_text("num_processes: 1\n", encoding="utf-8")
    for _ in range(2):
        subprocess.run(["launch/install_accelerate_config.sh"], check=True)
    assert default.read_bytes() == (ROOT / "launch" / "accelerate_zero3.yaml").read_bytes()
    before = default.with_name("default_config.yaml.before")
    assert before.read_text(encoding="utf-8") == "num_processes: 1\n"
