"""Files of rows, however they are packed; and what is said where they break off."""

from __future__ import annotations

import gzip
import json
from pathlib import Path

import pytest

from toolgenesis_sft.corpus import text_files
from toolgenesis_sft.corpus.text_files import file_rows
from toolgenesis_sft.errors import UserError

ROWS = [{"text": f"row {number} \u00e9 [,] }}", "deep": [{"n": number}]} for number in range(7)]


def decoded(path: Path) -> list[object]:
    return [json.loads(text) for _, text in file_rows(path)]


def test_lines_keep_their_numbers_and_blank_ones_go(tmp_path: Path) -> None:
    path = tmp_path / "rows.jsonl"
    path.write_bytes(b'{"a": 1}\r\n\r\n{"a": 2}')
    assert [where for where, _ in file_rows(path)] == ["line 1", "line 3"]


@pytest.mark.parametrize("indent", [None, 2])
@pytest.mark.parametrize("chars_at_once", [1, 16, 1 << 20])
def test_a_list_is_read_item_by_item_wherever_it_is_cut(
    tmp_path: Path, indent: int | None, chars_at_once: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(text_files, "CHARS_AT_ONCE", chars_at_once)
    path = tmp_path / "rows.json"
    path.write_text("\ufeff \n" + json.dumps(ROWS, indent=indent) + "\n", encoding="utf-8")
    assert decoded(path) == ROWS
    assert [where for where, _ in file_rows(path)][-1] == "item 7"


def test_gzip_is_known_by_its_first_bytes(tmp_path: Path) -> None:
    path = tmp_path / "rows.jsonl"
    path.write_bytes(gzip.compress("".join(json.dumps(row) + "\n" for row in ROWS).encode()))
    assert decoded(path) == ROWS
    path.write_bytes(gzip.compress(json.dumps(ROWS).encode()))
    assert decoded(path) == ROWS


@pytest.mark.parametrize(
    ("content", "rule"),
    [
        # Without the time of packing, which would be in the test's name and differ between workers.
        (gzip.compress(b"x" * 10_000, mtime=0)[:-9], "cannot be read to its end"),
        (b'[{"a": 1}, {"a": ]', "item 2 of its list is broken JSON"),
        (b'[{"a": 1}', "item 2 of its list is broken JSON"),
        (b'[{"a": 1}] [{"a": 2}]', "goes on behind its list"),
        (b'[{"a": "\xe9"}]', "cannot be read to its end"),
    ],
)
def test_a_file_that_breaks_off_is_refused_with_its_place(
    tmp_path: Path, content: bytes, rule: str
) -> None:
    path = tmp_path / "rows.json"
    path.write_bytes(content)
    with pytest.raises(UserError, match=rule):
        list(file_rows(path))
