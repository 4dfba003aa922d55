"""A wheel, built and installed away from the checkout, does what the checkout does."""

from __future__ import annotations

import json
import os
import re
import shutil
import stat
import subprocess
import sys
import sysconfig
import venv
from pathlib import Path

import pytest

from toolgenesis_sft.config import server_python

ROOT = Path(__file__).resolve().parent.parent
MINI = ROOT / "data" / "mini"


@pytest.fixture(scope="module")
def installed(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The bin/ of an environment that holds the wheel; its dependencies come from this one."""
    folder = tmp_path_factory.mktemp("wheel")
    listed = subprocess.run(
        ["git", "-C", str(ROOT), "ls-files", "-co", "--exclude-standard"],
        capture_output=True,
        text=True,
        check=True,
    )
    for name in listed.stdout.splitlines():
        (folder / "source" / name).parent.mkdir(parents=True, exist_ok=True)
        shutil.copy2(ROOT / name, folder / "source" / name)
    offline = ["--no-deps", "--no-index", "--quiet", "--disable-pip-version-check"]
    pip = [sys.executable, "-m", "pip"]
    subprocess.run(
        [*pip, "wheel", *offline, "--no-build-isolation", "-w", str(folder), folder / "source"],
        check=True,
    )
    environment = folder / "environment"
    venv.create(environment, with_pip=False)
    python = environment / "bin" / "python"
    (wheel,) = folder.glob("*.whl")
    subprocess.run([*pip, "--python", str(python), "install", *offline, str(wheel)], check=True)
    (site,) = environment.glob("lib/python3*/site-packages")
    # A path in a .pth file, unlike the environment's own, does not bring the editable checkout.
    (site / "dependencies.pth").write_text(sysconfig.get_path("purelib") + "\n", encoding="utf-8")
    return python.parent


def attempt(
    installed: Path, folder: Path, *arguments: str, **variables: str
) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [str(installed / arguments[0]), *arguments[1:]],
        cwd=folder,
        env=os.environ | variables,
        capture_output=True,
        text=True,
        check=False,
    )


def run(installed: Path, folder: Path, *arguments: str) -> str:
    servers = str(server_python(None))
    done = attempt(installed, folder, *arguments, TOOLGENESIS_SERVER_PYTHON=servers)
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_it_is_the_wheel_that_runs(installed: Path, tmp_path: Path) -> None:
    code = "import toolgenesis_sft; print(toolgenesis_sft.__file__)"
    assert str(installed.parent) in run(installed, tmp_path, "python", "-c", code)


def test_recipes_launch_files_and_templates_are_found_from_anywhere(
    installed: Path, tmp_path: Path
) -> None:
    recipe, cluster = "recipes/qwen3_8b_sft.yaml", "launch/cluster.example.yaml"
    submit = ("toolgenesis-sft", "submit", recipe, "--print", "--cluster", cluster)
    assert "#SBATCH --nodes=1" in run(installed, tmp_path, *submit)
    plan = run(installed, tmp_path, "toolgenesis-sft", "plan", recipe)
    assert "117 in all" in plan


@pytest.mark.parametrize(
    ("arguments", "names"),
    [
        (("submit", "recipes/tiny_cpu.yaml", "--print"), r"copy (\S+) to cluster.yaml"),
        (("doctor",), r"install -r (\S+);"),
    ],
)
def test_what_an_error_says_to_take_is_there_without_a_checkout(
    installed: Path, tmp_path: Path, arguments: tuple[str, ...], names: str
) -> None:
    done = attempt(installed, tmp_path, "toolgenesis-sft", *arguments, TOOLGENESIS_SERVER_PYTHON="")
    assert done.returncode == 2
    found = re.search(names, done.stderr)
    assert found, done.stderr
    assert (tmp_path / found[1]).exists()


def test_installed_recipes_are_executable_and_nothing_tracked_is_left_out(installed: Path) -> None:
    (site,) = installed.parent.glob("lib/python3*/site-packages")
    package, source_folder = site / "toolgenesis_sft", installed.parent.parent / "source"
    for recipe in (package / "share" / "recipes").glob("*.yaml"):
        assert recipe.stat().st_mode & stat.S_IXUSR
    for source in (source_folder / "toolgenesis_sft").rglob("*"):
        assert (site / source.relative_to(source_folder)).exists(), source
    for folder in ("recipes", "launch", "eval", "data/mini"):
        for source in (source_folder / folder).rglob("*"):
            assert (package / "share" / source.relative_to(source_folder)).exists(), source


def test_it_scores_servers(installed: Path, tmp_path: Path) -> None:
    predictions = tmp_path / "predictions"
    predictions.mkdir()
    server = MINI / "servers" / "molar-mass.py"
    (predictions / server.name).write_bytes(server.read_bytes())
    command = ("score", "--benchmark", "data/mini/benchmark.json", "--predictions", "predictions")
    options = ("--out", "out", "--layers", "L1,L2", "--json")
    report = json.loads(run(installed, tmp_path, "toolgenesis-sft", *command, *options))
    figures = {group["scenarios"]: group["figures"] for group in report["groups"]}
    assert figures["train"]["launch"]["outcomes"]["scored"] == 1
    assert figures["train"]["ut_hard"]["mean_reached"] == 1
    assert (tmp_path / "out" / "report.html").exists()
    compared = run(installed, tmp_path, "toolgenesis-sft", "compare", "out", "out", "--json")
    assert {pair["num_servers"] for pair in json.loads(compared)["pairs"]} == {12, 24, 36}


def test_the_readmes_command_finds_the_reference_servers(installed: Path, tmp_path: Path) -> None:
    mini = ("--benchmark", "data/mini/benchmark.json", "--predictions", "data/mini/servers")
    run(installed, tmp_path, "toolgenesis-sft", "score", *mini, "--out", "out", "--dry-run")
    assert list(tmp_path.iterdir()) == []
