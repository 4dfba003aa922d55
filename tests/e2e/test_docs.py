"""The commands in README.md and docs/ are run here, but for those marked as needing more."""

from __future__ import annotations

import re
import shlex
import subprocess
import sys
from pathlib import Path

import pytest

from toolgenesis_sft.cli import make_parser
from toolgenesis_sft.records import FIGURES, LayerScores
from toolgenesis_sft.runs import read_records

ROOT = Path(__file__).resolve().parent.parent.parent
PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md")), ROOT / "eval" / "README.md"]
NEEDS_MORE = ("# needs", "# after")


def blocks(page: Path) -> list[str]:
    return re.findall(r"```bash\n(.*?)```", page.read_text(encoding="utf-8"), re.DOTALL)


def commands(marked: bool) -> list[str]:
    """Lines of ours, in the order of the pages, each once."""
    lines = [
        line.split(" #")[0].strip()
        for page in PAGES
        for block in blocks(page)
        if block.startswith(NEEDS_MORE) is marked
        for line in block.splitlines()
        if not line.startswith("#")
    ]
    return list(dict.fromkeys(line for line in lines if line))


@pytest.mark.parametrize("command", commands(marked=True) + commands(marked=False))
def test_every_command_names_options_and_files_that_exist(command: str) -> None:
    words = shlex.split(command)
    if words[0] == "toolgenesis-sft" and "RECIPE" not in words:
        make_parser().parse_args(words[1:])
    for word in words:
        if word.startswith(("recipes/", "launch/", "eval/", "data/mini")):
            assert (ROOT / word).exists(), word


@pytest.fixture
def checkout(tmp_path: Path) -> Path:
    """A folder that looks like the checkout and has a runs/ of its own."""
    for name in ("recipes", "launch", "eval", "data"):
        (tmp_path / name).symlink_to(ROOT / name)
    return tmp_path


def test_the_commands_for_a_laptop_run_and_the_reference_servers_score_one(
    checkout: Path,
) -> None:
    for command in commands(marked=False):
        words = shlex.split(command)
        if words[0] != "toolgenesis-sft":
            continue
        done = subprocess.run(
            [sys.executable, "-m", "toolgenesis_sft.cli", *words[1:]],
            cwd=checkout,
            capture_output=True,
            text=True,
            check=False,
        )
        assert done.returncode == 0, (command, done.stderr)
    records = read_records(checkout / "runs" / "reference" / "scores.jsonl", LayerScores)
    assert len(records) == 36
    for record in records:
        assert {name: figure.value for name, figure in record.figures.items()} == dict.fromkeys(
            FIGURES, 1.0
        ), record.slug
