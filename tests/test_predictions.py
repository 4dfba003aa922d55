"""Predictions in every layout, and the reference harness's registry.json in both directions."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from toolgenesis_sft.errors import UserError
from toolgenesis_sft.predictions import read_predictions, write_registry
from toolgenesis_sft.prompts import parse_prediction, schema_tools
from toolgenesis_sft.records import Json, ServerPrediction
from toolgenesis_sft.runs import write_json

CODE = 'from mcp.server.fastmcp import FastMCP\n\nmcp = FastMCP("größer")\n'
SCHEMA = {"tools": [{"name": "add", "description": "Add.", "inputSchema": {"type": "object"}}]}


def prediction(slug: str, **more: Any) -> ServerPrediction:
    fields: dict[str, Any] = {
        "model": "trained",
        "strategy": "direct_two_calls",
        "completion": f"```python\n{CODE}```",
        "schema_completion": json.dumps(SCHEMA),
        "finish_reason": "stop",
        **more,
    }
    return ServerPrediction(slug=slug, **fields)


def test_json_lines_are_read_in_order(tmp_path: Path) -> None:
    path = tmp_path / "predictions.jsonl"
    written = [prediction("b"), prediction("a", sample_index=1)]
    path.write_text("".join(one.to_line() for one in written))
    assert list(read_predictions(path)) == list(read_predictions(tmp_path)) == written


def test_a_torn_last_line_of_a_run_is_no_prediction(tmp_path: Path) -> None:
    write_json(tmp_path / "provenance.json", {"generate": {}})
    path = tmp_path / "predictions.jsonl"
    line = prediction("a").to_line()
    path.write_text(line + line[:-20])
    assert list(read_predictions(path)) == [prediction("a")]
    path.write_text(line + "\n" + line.rstrip("\n"))
    assert list(read_predictions(path)) == [prediction("a")] * 2


@pytest.mark.parametrize(
    ("name", "provenance", "last"),
    [
        ("predictions.jsonl", None, '{"slug": "b", "compl'),
        ("predictions.jsonl", {"score": {}}, '{"slug": "b", "compl'),
        ("mine.jsonl", {"generate": {}}, '{"slug": "b", "compl'),
        ("predictions.jsonl", {"generate": {}}, '{"slug": "b", "completion": "x"}'),
    ],
    ids=["no run", "only scored here", "beside a run's", "JSON without a model"],
)
def test_a_broken_last_line_that_no_run_was_writing_is_named_without_a_newline_too(
    tmp_path: Path, name: str, provenance: Json, last: str
) -> None:
    if provenance is not None:
        write_json(tmp_path / "provenance.json", provenance)
    for end in ("", "\n"):
        (tmp_path / name).write_text(prediction("a").to_line() + last + end)
        with pytest.raises(UserError, match=f"{name}: line 2"):
            list(read_predictions(tmp_path / name))


def test_a_byte_order_mark_is_no_part_of_a_prediction(tmp_path: Path) -> None:
    path = tmp_path / "mine.jsonl"
    path.write_text(prediction("a").to_line().rstrip(), encoding="utf-8-sig")
    assert list(read_predictions(path)) == [prediction("a")]
    (tmp_path / "b.py").write_text(CODE, encoding="utf-8-sig")
    [b] = read_predictions(tmp_path)
    assert b.completion == CODE


@pytest.mark.parametrize(
    ("line", "words"),
    [("{broken}", "line 2"), ('{"slug": "a", "modle": "b"}', "line 2 = model")],
)
def test_a_broken_line_in_the_middle_is_named(tmp_path: Path, line: str, words: str) -> None:
    path = tmp_path / "predictions.jsonl"
    good = prediction("a").to_line()
    path.write_text(f"{good}{line}\n{good}")
    with pytest.raises(UserError, match=words):
        list(read_predictions(path))


def test_a_registry_that_we_write_reads_back_as_the_same_code_and_schema(tmp_path: Path) -> None:
    write_registry([prediction("b"), prediction("a", schema_completion=None)], tmp_path)
    registry = json.loads((tmp_path / "registry.json").read_text())
    assert registry["b"] == {
        "server_id": None,
        "server_name": "b",
        "server_slug": "b",
        "json_schema_path": "b/tool_schema.json",
        "env_code_path": "b/env_code.py",
        "strategy": "direct_two_calls",
    }
    for path in (tmp_path, tmp_path / "registry.json"):
        a, b = read_predictions(path)
        assert (a.slug, b.slug) == ("a", "b")
        assert a.strategy == b.strategy == "imported"
        assert parse_prediction(b).code == CODE
        assert [tool.name for tool in schema_tools(parse_prediction(b).schema)] == ["add"]
        assert a.schema_completion is None


def test_a_registry_of_the_reference_harness_is_read_after_it_was_moved(tmp_path: Path) -> None:
    folder = tmp_path / "moved"
    (folder / "a").mkdir(parents=True)
    (folder / "a" / "env_code.py").write_text(CODE)
    (folder / "a" / "tool_schema.json").write_text(json.dumps({"metadata": {}, **SCHEMA}))
    entry = {
        "server_id": "1",
        "server_name": "A",
        "server_slug": "a",
        "json_schema_path": "/elsewhere/a/tool_schema.json",
        "env_code_path": "/elsewhere/a/env_code.py",
        "strategy": "coder_agent",
    }
    nothing = {**entry, "server_slug": "z", "env_code_path": None, "json_schema_path": None}
    (folder / "registry.json").write_text(json.dumps({"z": nothing, "a": entry}))
    first, second = read_predictions(folder)
    assert (first.slug, first.completion) == ("a", CODE)
    assert parse_prediction(first).schema["tools"][0]["name"] == "add"
    assert parse_prediction(second).fault == "empty_completion"


def test_a_registry_needs_one_prediction_a_server(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="choose one model, one strategy and one sample"):
        write_registry([prediction("a"), prediction("a", sample_index=1)], tmp_path)


def test_folders_of_programs_are_read_by_slug(tmp_path: Path) -> None:
    (tmp_path / "b.py").write_text(CODE)
    (tmp_path / "a").mkdir()
    (tmp_path / "a" / "env_code.py").write_bytes(b"x = '\xff'\n")
    (tmp_path / "README.md").write_text("no prediction")
    a, b = read_predictions(tmp_path)
    assert (a.slug, b.slug) == ("a", "b")
    assert b.completion == CODE
    assert a.completion == "x = '\ufffd'\n"


def test_an_empty_set_of_predictions_is_one(tmp_path: Path) -> None:
    assert list(read_predictions(tmp_path)) == []
    (tmp_path / "predictions.jsonl").touch()
    assert list(read_predictions(tmp_path)) == []


@pytest.mark.parametrize("name", ["none.jsonl", "notes.txt"])
def test_a_path_in_no_known_layout_is_refused(tmp_path: Path, name: str) -> None:
    (tmp_path / "notes.txt").write_text("hello")
    with pytest.raises(UserError, match=r"predictions = .*; give predictions\.jsonl"):
        list(read_predictions(tmp_path / name))
    with pytest.raises(UserError, match="holds no predictions"):
        list(read_predictions(tmp_path))


@pytest.mark.parametrize("content", ["[]", '{"a": 1}', "{"])
def test_a_broken_registry_is_one_line(tmp_path: Path, content: str) -> None:
    (tmp_path / "registry.json").write_text(content)
    with pytest.raises(UserError):
        list(read_predictions(tmp_path))
