"""The rules of the house that a machine can check."""

from __future__ import annotations

import argparse
import ast
import os
import re
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from toolgenesis_sft.cli import make_parser
from toolgenesis_sft.config import load_recipe
from toolgenesis_sft.yaml_text import read_yaml

ROOT = Path(__file__).resolve().parent.parent
PACKAGE = ROOT / "toolgenesis_sft"

# Lower may not import higher; of one tier, packages may not import each other.
TIERS = (
    ("errors", "records"),
    (
        "config",
        "runs",
        "benchmark",
        "prompts",
        "predictions",
        "chat_protocol",
        "client",
        "progress",
        "tracking",
        "yaml_text",
        "orphans",
        "sections",
        "python_source",
    ),
    ("sandbox",),
    ("training", "generation", "scoring", "reporting", "cluster"),
    ("corpus",),
    ("cli", "__main__"),
)
MAY_SHARE_A_TIER = {0, 1, 5}  # modules of these are single files that build on each other
HOMES = {"torch": "training", "deepspeed": "training", "mcp": "sandbox", "fastmcp": "sandbox"}
ANSWER_KEY_HOMES = ("scoring/", "reporting/", "corpus/verify.py", "benchmark.py", "records.py")


def tier_of(part: str) -> int:
    return next(number for number, names in enumerate(TIERS) if part in names)


def modules() -> list[Path]:
    return sorted(
        path
        for path in PACKAGE.rglob("*.py")
        if "shim" not in path.parts and path.name != "zygote.py"
    )


def imports(path: Path) -> Iterator[tuple[str, tuple[str, ...]]]:
    """(module, names) of every import of a file, those inside functions too."""
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            for alias in node.names:
                yield alias.name, ()
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path}: relative import"
            yield node.module or "", tuple(alias.name for alias in node.names)


def part_of(path: Path) -> str:
    relative = path.relative_to(PACKAGE)
    return relative.parts[0] if len(relative.parts) > 1 else relative.stem


def test_imports_only_point_down() -> None:
    wrong = []
    for path in modules():
        part = part_of(path)
        if part == "__init__":
            continue
        for module, names in imports(path):
            if module == "toolgenesis_sft":
                targets = [name for name in names if name != "__version__"]
            elif module.startswith("toolgenesis_sft."):
                targets = [module.split(".")[1]]
            else:
                continue
            for target in targets:
                if target == part:
                    continue
                here, there = tier_of(part), tier_of(target)
                if there > here or (there == here and here not in MAY_SHARE_A_TIER):
                    wrong.append(f"{path.relative_to(ROOT)} imports {target}")
    assert not wrong


def test_records_and_errors_need_only_the_standard_library_and_pydantic() -> None:
    for name in ("records.py", "errors.py"):
        for module, _ in imports(PACKAGE / name):
            top = module.split(".")[0]
            assert top in sys.stdlib_module_names | {"pydantic", "toolgenesis_sft"}, (name, module)


def test_torch_stays_in_training_and_mcp_in_the_sandbox() -> None:
    for path in modules():
        for module, _ in imports(path):
            home = HOMES.get(module.split(".")[0])
            assert home is None or part_of(path) == home, f"{path.relative_to(ROOT)}: {module}"


def test_only_scoring_verification_and_reporting_see_the_answer_key() -> None:
    for path in modules():
        relative = str(path.relative_to(PACKAGE))
        if relative.startswith(ANSWER_KEY_HOMES):
            continue
        for _, names in imports(path):
            assert not {"AnswerKey", "load_answer_keys", "UnitTest"} & set(names), relative


def test_nothing_imports_from_a_top_level_folder() -> None:
    folders = {"recipes", "data", "launch", "eval", "tests", "benchmarks"}
    for path in modules():
        for module, _ in imports(path):
            assert module.split(".")[0] not in folders or module == "eval", path


def test_no_module_is_named_after_nothing() -> None:
    names = {path.stem for path in modules()}
    assert not names & {"utils", "common", "helpers", "base", "misc"}


OPTIONS = {
    "build": "--dry-run --help --run --show",
    "plan": "--dry-run --help --json --run",
    "train": "--dry-run --help --run",
    "export": "--dry-run --help --run",
    "generate": "--dry-run --help --run",
    "score": "--benchmark --dry-run --help --json --layers --out --predictions --profile --run"
    " --workers",
    "report": "--benchmark --dry-run --help --json --out --predictions --run",
    "compare": "--force --help --json --out",
    "run": "--dry-run --help --run",
    "submit": "--cluster --dry-run --help --print --run",
    "doctor": "--help",
}


def test_the_options_of_the_command_line_are_these() -> None:
    actions = [a for a in make_parser()._actions if isinstance(a, argparse._SubParsersAction)]
    found = {
        verb: " ".join(
            sorted(
                option
                for action in parser._actions
                for option in action.option_strings
                if option.startswith("--")
            )
        )
        for verb, parser in actions[0].choices.items()
    }
    assert found == OPTIONS


def tracked(*suffixes: str) -> list[Path]:
    """Files of the repository; where it is no checkout, files that are not build outputs."""
    listed = subprocess.run(
        ["git", "-C", str(ROOT), "ls-files", "-co", "--exclude-standard"],
        capture_output=True,
        text=True,
        check=True,
    )
    return [ROOT / line for line in listed.stdout.splitlines() if line.endswith(suffixes)]


@pytest.mark.parametrize("path", tracked(".yaml", ".yml"), ids=lambda path: path.name)
def test_every_yaml_of_the_repository_parses(path: Path) -> None:
    assert read_yaml(path) is not None


@pytest.mark.parametrize("path", sorted((ROOT / "recipes").glob("*.yaml")), ids=lambda p: p.name)
def test_every_recipe_loads_and_is_executable(path: Path) -> None:
    load_recipe(path)
    assert os.access(path, os.X_OK)
    first = path.read_text(encoding="utf-8").splitlines()[0]
    assert first == "#!/usr/bin/env -S python -m toolgenesis_sft.training"


def shell_scripts() -> list[Path]:
    return [*tracked(".sh"), ROOT / ".ci" / "run"]


@pytest.mark.parametrize("path", shell_scripts(), ids=lambda path: path.name)
def test_every_shell_script_passes_bash_n_and_shellcheck(path: Path) -> None:
    subprocess.run(["bash", "-n", str(path)], check=True)
    shellcheck = shutil.which("shellcheck")
    assert shellcheck, "run launch/setup.sh dev, which installs shellcheck"
    done = subprocess.run([shellcheck, "--shell=bash", str(path)], capture_output=True, text=True)
    assert done.returncode == 0, done.stdout


LIGHT_VERBS = (
    "import toolgenesis_sft.cli",
    "import toolgenesis_sft.scoring.score",
    "import toolgenesis_sft.reporting.report",
    "import toolgenesis_sft.reporting.compare",
    "import toolgenesis_sft.training.plan",
)


@pytest.mark.parametrize("statement", LIGHT_VERBS)
def test_score_report_and_plan_do_not_load_torch(statement: str) -> None:
    code = (
        f"{statement}\nimport sys\nsys.exit(bool({{'torch', 'transformers'}} & set(sys.modules)))"
    )
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


def test_help_loads_no_third_party_package() -> None:
    """`--help` answers at once because nothing is imported for it."""
    code = (
        "import sys\nfrom toolgenesis_sft.cli import main\n"
        "try: main(['--help'])\nexcept SystemExit: pass\n"
        "loaded = {name.split('.')[0] for name in sys.modules}\n"
        "sys.exit(bool(loaded & {'pydantic', 'numpy', 'rich', 'yaml', 'torch'}))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert "build" in done.stdout


def test_no_file_speaks_of_the_machine_it_was_written_on() -> None:
    paths = re.compile(r"(?<![\w.])/(?:root|work|farm)/")
    for path in tracked(".py", ".md", ".yaml", ".sh", ".toml", ".json", ".html", "Makefile"):
        if path == Path(__file__):
            continue
        assert not paths.search(path.read_text(encoding="utf-8")), path


def test_every_worker_names_the_tests_alike(request: pytest.FixtureRequest) -> None:
    # pytest-xdist ends with an error when two workers disagree. A name that holds a time, an
    # address or a set's order does so only now and then; collected again, later, it always shows.
    listed = subprocess.run(
        [sys.executable, "-m", "pytest", "--collect-only", "-q"],
        cwd=ROOT,
        env={**os.environ, "PYTHONHASHSEED": "1"},
        capture_output=True,
        text=True,
        check=True,
    )
    assert {item.nodeid for item in request.session.items} <= set(listed.stdout.splitlines())
