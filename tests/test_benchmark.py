from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from toolgenesis_sft.benchmark import (
    is_error_text,
    load_answer_keys,
    load_benchmark,
)
from toolgenesis_sft.errors import UserError

ROOT = Path(__file__).resolve().parent.parent
SUBSET = ROOT.parent / "shared" / "tool_genesis_v3_subset" / "tool_genesis_v3_subset.json"


def item(slug: str = "adder", **changes: Any) -> dict[str, Any]:
    return {
        "server_id": None,
        "server_name": "Adder",
        "server_slug": slug,
        "primary_label": "Math",
        "secondary_labels": [],
        "agent_input_prompt": "Adds numbers.",
        "task_example": ["Add 1 and 2."],
        "tool_definitions": [{"name": "add", "description": "adds", "input_schema": {}}],
        "unit_test": {
            "add": [{"function_name": "add", "arguments": {"a": 1}, "function_output_content": "1"}]
        },
        "server_class": "stateless",
        "requires_api": False,
        "sandbox_level": "L1",
        **changes,
    }


def test_case(arguments: Any, output: Any) -> dict[str, Any]:
    return {"function_name": "add", "arguments": arguments, "function_output_content": output}


test_case.__test__ = False  # type: ignore[attr-defined]


def written(tmp_path: Path, items: Any) -> Path:
    path = tmp_path / "benchmark.json"
    path.write_text(items if isinstance(items, str) else json.dumps(items), encoding="utf-8")
    return path


def test_scenarios_and_answer_keys_come_apart(tmp_path: Path) -> None:
    path = written(tmp_path, [item()])
    scenario = load_benchmark(path).scenarios[0]
    key = load_answer_keys(path)["adder"]
    assert "add" not in scenario.model_dump_json().replace("adder", "")
    assert key.unit_tests[0].expected == "1"
    assert key.tasks[0].prompt == "Add 1 and 2."


@pytest.mark.parametrize(
    ("items", "says"),
    [
        ("{", "is not JSON"),
        ("[]", "non-empty JSON list"),
        ('{"a": 1}', "non-empty JSON list"),
        ([item(), item()], "item 1: server_slug = adder.*slug of item 0"),
        ([item("../x")], "server_slug = ../x"),
        ([item(), 5], "item 1.*must be a JSON object"),
        ([item(agent_input_prompt=5)], "item 0.*is broken.*prompt"),
        ([{"server_slug": "x"}], "agent_input_prompt.*is missing"),
    ],
)
def test_a_broken_benchmark_names_the_item_and_the_rule(
    tmp_path: Path, items: Any, says: str
) -> None:
    with pytest.raises(UserError, match=says):
        load_benchmark(written(tmp_path, items))


def test_a_missing_file_is_named(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"nowhere\.json.*cannot be read"):
        load_benchmark(tmp_path / "nowhere.json")


def test_arguments_that_are_broken_text_make_a_test_unanswerable_not_absent(
    tmp_path: Path,
) -> None:
    tests = [test_case('{"a": 1}', "1"), test_case("{broken", "1"), test_case([1], "1")]
    key = load_answer_keys(written(tmp_path, [item(unit_test={"add": tests})]))["adder"]
    assert [test.arguments for test in key.unit_tests] == [{"a": 1}, None, None]
    assert [test.unanswerable for test in key.unit_tests] == [False, True, True]


def test_faults_of_the_collecting_harness_are_told_from_errors_of_the_server(
    tmp_path: Path,
) -> None:
    tests = [
        test_case({}, "Error: Request failed with status code 429"),
        test_case({}, "connect ECONNREFUSED 127.0.0.1:80"),
        test_case({}, "Error executing tool add: a must be positive"),
        test_case({}, '{"rate limit": 5}'),
    ]
    key = load_answer_keys(written(tmp_path, [item(unit_test={"add": tests})]))["adder"]
    assert [test.unanswerable for test in key.unit_tests] == [True, True, False, False]
    assert [test.expects_error for test in key.unit_tests] == [True, True, True, False]


@pytest.mark.parametrize(
    ("text", "failed"),
    [
        ("Error executing tool add: no", True),
        ("Error calling tool 'add': no", True),
        ("1 validation error for addArguments", True),
        ('{"error": "no such city"}', True),
        ('{"success": false, "message": "no"}', True),
        ('{"ok": true, "errors": []}', False),
        ('{"error": null, "value": 3}', False),
        ("the error rate fell to 3 %", False),
        ("42", False),
    ],
)
def test_an_error_is_told_from_an_answer_about_errors(text: str, failed: bool) -> None:
    assert is_error_text(text) is failed


def test_a_recorded_text_block_is_unwrapped(tmp_path: Path) -> None:
    block = json.dumps({"type": "text", "text": '{"sum": 3}'})
    tests = {"add": [test_case({}, block)]}
    key = load_answer_keys(written(tmp_path, [item(unit_test=tests)]))["adder"]
    assert key.unit_tests[0].expected == '{"sum": 3}'


def test_a_server_cannot_be_in_both_splits(tmp_path: Path) -> None:
    path = written(tmp_path, [item()])
    (tmp_path / "splits.json").write_text('{"train": ["adder"], "held_out": ["adder"]}')
    with pytest.raises(UserError, match="either for training or held out"):
        load_benchmark(path)


def test_without_splits_every_server_is_held_out(tmp_path: Path) -> None:
    assert load_benchmark(written(tmp_path, [item()])).held_out == ("adder",)


def test_a_unit_test_of_a_tool_that_nothing_declares_is_a_fault_of_the_benchmark(
    tmp_path: Path,
) -> None:
    path = written(tmp_path, [item(unit_test={"subtract": [test_case({}, "1")]})])
    [test] = load_answer_keys(path)["adder"].unit_tests
    assert test.unanswerable


ADD = {"tool": "add", "arguments": {"a": 1}}
CHECK = {"call": 0, "equals": 1}


@pytest.mark.parametrize(
    ("plan", "outcome", "says"),
    [
        ([ADD, {**ADD, "tool": "ad"}], [CHECK], r"plan\.1\.tool = ad: is no tool .*rename it"),
        ([ADD], [{**CHECK, "call": 1}], r"outcome\.0\.call = 1: .*has 1, counted from 0"),
        ([ADD], [CHECK, {**CHECK, "call": -1}], r"outcome\.1\.call = -1: is no call"),
        ([{**ADD, "arguments": {"a": [{"$from": "0.x"}]}}], [CHECK], r"plan\.0\.\$from = 0\.x"),
        ([ADD, {**ADD, "arguments": {"a": {"$from": "id"}}}], [CHECK], r"plan\.1\.\$from = id"),
    ],
)
def test_a_task_that_no_server_can_do_names_its_file_item_and_rule(
    tmp_path: Path, plan: Any, outcome: Any, says: str
) -> None:
    path = written(tmp_path, [item()])
    good = {"prompt": "Add.", "plan": [ADD, ADD], "outcome": [{"call": 1, "equals": 1}]}
    tasks = {"adder": [good, {"prompt": "Add.", "plan": plan, "outcome": outcome}]}
    (tmp_path / "tasks.json").write_text(json.dumps(tasks))
    with pytest.raises(UserError, match=rf"^tasks\.json: adder: task 1: {says}"):
        load_answer_keys(path)


if SUBSET.exists():

    def test_the_thirteen_real_servers_load_whole() -> None:
        benchmark, keys = load_benchmark(SUBSET), load_answer_keys(SUBSET)
        assert len(benchmark.scenarios) == len(keys) == 13
        assert sum(len(key.tools) for key in keys.values()) == 41
        assert sum(len(key.unit_tests) for key in keys.values()) == 189
