"""data/mini is what recording it gives, server by server."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest

from tests.corpus.conftest import MINI
from toolgenesis_sft.corpus.record import main, record
from toolgenesis_sft.errors import UserError

SLUGS = ("triangle-solver", "nim-table", "stockroom", "bakers-percent")


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Four servers of data/mini: stateless, stateful, App convention, both import styles."""
    for part, suffix in (("scenarios", "yaml"), ("servers", "py")):
        (tmp_path / part).mkdir()
        for slug in SLUGS:
            shutil.copy(MINI / part / f"{slug}.{suffix}", tmp_path / part)
    return tmp_path


def test_recording_again_gives_the_same_items(folder: Path) -> None:
    recorded = {item["server_slug"]: item for item in json.loads(record(folder)["benchmark.json"])}
    stored = {
        item["server_slug"]: item for item in json.loads((MINI / "benchmark.json").read_text())
    }
    assert recorded == {slug: stored[slug] for slug in sorted(SLUGS)}


def test_check_says_whether_the_files_are_as_recorded(folder: Path, capsys) -> None:
    for slug in SLUGS[1:]:
        (folder / "scenarios" / f"{slug}.yaml").unlink()
    assert main([str(folder), "--check"]) == 1
    assert main([str(folder)]) == 0
    assert main([str(folder), "--check"]) == 0
    assert "as recorded" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("right", "wrong", "rule"),
    [
        ("kind: negative", "kind: boundary", "is boundary, but gave"),
        ("equals: [1, 4, 5]", "equals: [9, 9, 9]", "does not hold"),
    ],
)
def test_a_scenario_that_claims_what_does_not_hold_is_refused(
    folder: Path, right: str, wrong: str, rule: str
) -> None:
    for path in (folder / "scenarios").iterdir():
        if path.stem != "nim-table":
            path.unlink()
    path = folder / "scenarios" / "nim-table.yaml"
    text = path.read_text()
    assert right in text
    path.write_text(text.replace(right, wrong, 1))
    with pytest.raises(UserError, match=rule):
        record(folder)
