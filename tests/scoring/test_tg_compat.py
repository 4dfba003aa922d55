"""The published formulas on cases computed by hand; each defect of the reference is one of them."""

from __future__ import annotations

from typing import Any

import pytest

from toolgenesis_sft.records import Json, ToolSchema
from toolgenesis_sft.scoring import tg_compat
from toolgenesis_sft.scoring.embedding import cosine
from toolgenesis_sft.scoring.tg_compat import NO_ANSWER, CallScore, call_score, structure, text_of


def file_tool(name: str, **args: str) -> dict[str, Any]:
    """A tool of a schema file that keeps to the harness's subset."""
    return {
        "name": name,
        "description": "",
        "inputSchema": {
            "type": "object",
            "properties": {arg: {"type": kind} for arg, kind in args.items()},
            "required": list(args),
            "additionalProperties": False,
        },
    }


def schema_file(*tools: Json) -> dict[str, Any]:
    return {"server_name": "x", "tools": list(tools)}


def gold(*tools: dict[str, Any]) -> list[ToolSchema]:
    return [ToolSchema(name=t["name"], input_schema=t["inputSchema"]) for t in tools]


def block(text: str) -> dict[str, Json]:
    return {"type": "text", "text": text}


FOUR = [
    file_tool("add_item", sku="string", count="integer"),
    file_tool("remove_item", sku="string"),
    file_tool("item_status", sku="string"),
    file_tool("reorder_list", margin="integer"),
]


# --- layer 1 ---------------------------------------------------------------------------------


def test_a_schema_file_in_the_harness_subset_complies() -> None:
    nested = {"type": "array", "items": FOUR[0]["inputSchema"]}
    tool = file_tool("f")
    tool["inputSchema"]["properties"] = {"rows": nested, "on": {"type": "boolean"}}
    assert tg_compat.compliance(schema_file(*FOUR, tool))
    renamed = {**tool, "input_schema": tool["inputSchema"]}
    del renamed["inputSchema"]
    assert tg_compat.compliance(schema_file(renamed))


def with_input(**changes: Json) -> dict[str, Any]:
    return {**FOUR[0], "inputSchema": {**FOUR[0]["inputSchema"], **changes}}


@pytest.mark.parametrize(
    "broken",
    [
        None,
        [],
        {"tools": []},
        {"tools": {}},
        schema_file("no object"),
        schema_file({**FOUR[0], "name": 3}),
        schema_file({k: v for k, v in FOUR[0].items() if k != "description"}),
        schema_file({**FOUR[0], "parameters": {}}),
        schema_file({**FOUR[0], "inputSchema": {}}),
        schema_file(with_input(type=["object"])),
        schema_file(with_input(type="dict")),
        schema_file(with_input(required=["nowhere"])),
        schema_file(with_input(additionalProperties=True)),
        schema_file(with_input(items={"type": "string"})),
        schema_file(with_input(properties={"x": {"type": "array"}}, required=[])),
        schema_file(with_input(properties={"x": {"type": "string", "items": {}}}, required=[])),
        # As real FastMCP emits Optional, and an object without additionalProperties.
        schema_file(with_input(properties={"x": {"anyOf": [{"type": "string"}]}}, required=[])),
        schema_file({**FOUR[0], "inputSchema": {"type": "object", "properties": {}}}),
    ],
)
def test_a_schema_file_outside_the_subset_does_not_comply(broken: Json) -> None:
    assert not tg_compat.compliance(broken)


def test_launch_is_a_share_of_three_and_the_gate_needs_both() -> None:
    assert tg_compat.launch(2) == pytest.approx(2 / 3)
    assert tg_compat.gate(True, 1)
    assert not tg_compat.gate(False, 3)
    assert not tg_compat.gate(True, 0)


# --- schema F1 -------------------------------------------------------------------------------


def test_an_identical_server_with_arguments_has_one() -> None:
    match = tg_compat.match_schema(gold(*FOUR), schema_file(*FOUR))
    assert (match.tool_f1, match.args_f1, match.schema_f1) == (1.0, 1.0, 1.0)


def test_an_identical_server_without_arguments_has_one_half() -> None:
    plain = [file_tool("status"), file_tool("reset")]
    assert tg_compat.match_schema(gold(*plain), schema_file(*plain)).schema_f1 == 0.5


def test_all_types_wrong_has_one() -> None:
    wrong = [file_tool("add_item", sku="array", count="boolean"), *FOUR[1:]]
    assert tg_compat.match_schema(gold(*FOUR), schema_file(*wrong)).schema_f1 == 1.0


def test_one_of_four_tools_has_seven_tenths() -> None:
    match = tg_compat.match_schema(gold(*FOUR), schema_file(FOUR[0]))
    assert (match.tool_f1, match.args_f1) == (0.4, 1.0)
    assert match.schema_f1 == pytest.approx(0.70)


def test_a_tripled_tool_has_one() -> None:
    match = tg_compat.match_schema(gold(FOUR[0]), schema_file(*[FOUR[0]] * 3))
    assert (match.tool_f1, match.schema_f1) == (1.0, 1.0)


def test_extra_tools_and_arguments_cost_precision() -> None:
    extra = file_tool("origami_crane", paper="string")
    assert tg_compat.match_schema(gold(FOUR[0]), schema_file(FOUR[0], extra)).tool_f1 == (
        pytest.approx(2 / 3)
    )
    wide = file_tool("add_item", sku="string", count="integer", zebra="string")
    match = tg_compat.match_schema(gold(FOUR[0]), schema_file(wide))
    assert match.args_f1 == pytest.approx(2 * 2 / (3 + 2))


def test_names_match_without_underscores_and_case_then_by_meaning() -> None:
    live = [file_tool("AddItem", sku="string"), file_tool("delete_item", sku="string")]
    match = tg_compat.match_schema(gold(*FOUR[:2]), schema_file(*live))
    assert match.tools == {"AddItem": "add_item", "delete_item": "remove_item"}
    dashed = tg_compat.match_schema(gold(FOUR[0]), schema_file(file_tool("zz-9")))
    assert (dashed.tools, dashed.schema_f1) == ({}, 0.0)


@pytest.mark.parametrize("nothing", [None, [], {}, {"tools": []}, {"tools": ["x"]}])
def test_a_file_without_tools_has_zero(nothing: Json) -> None:
    assert tg_compat.match_schema(gold(*FOUR), nothing).schema_f1 == 0.0


# --- unit tests ------------------------------------------------------------------------------


def test_a_call_is_renamed_and_unmapped_arguments_are_dropped() -> None:
    live = file_tool("addItem", sku="string")
    match = tg_compat.match_schema(gold(FOUR[0]), schema_file(live))
    call = tg_compat.planned_call(match, "add_item", {"sku": "A", "count": 2, "stray": 1})
    assert call == ("addItem", {"sku": "A"})
    assert tg_compat.planned_call(match, "add_item", None) == ("addItem", {})
    assert tg_compat.planned_call(match, "remove_item", {}) is None


def test_the_text_of_an_object_is_its_first_filled_key() -> None:
    assert text_of('{"message": "ok", "data": 1}') == "ok"
    assert text_of({"text": "", "result": 5}) == "5"
    assert text_of({"type": "text", "text": '{"content": "inner"}'}) == "inner"
    assert text_of('{"b": 1, "a": 2}') == '{"a": 2, "b": 1}'
    assert text_of([block("x")]) == '[{"type": "text", "text": "x"}]'
    assert text_of(" {broken ") == "{broken"
    assert text_of(None) == ""


def test_structure_sees_key_paths_and_no_values() -> None:
    assert structure("7", "5") == 1.0
    assert structure('{"a": 1, "b": [1]}', '{"a": 2, "b": [3]}') == 1.0
    # a, b against a, b, b[0]
    assert structure('{"a": 1, "b": []}', '{"a": 1, "b": [3]}') == pytest.approx(2 * 2 / 5)
    assert structure("{}", '{"a": 1}') == 0.0
    assert structure("Same Text", "same text") == 1.0
    assert structure("one text", "another") == 0.0


def test_an_answer_identical_to_the_expected_json_has_structure_zero() -> None:
    expected = '{"level": 80, "must_reorder": false}'
    score = call_score(expected, [block(expected)])
    blocks = '[{"type": "text", "text": "{\\"level\\": 80, \\"must_reorder\\": false}"}]'
    assert score.passed
    assert score.score == pytest.approx(0.5 * 0 + 0.5 * cosine(blocks, expected))
    assert score.score < 0.5


def test_seven_against_five_passes_because_values_are_never_compared() -> None:
    assert call_score("5", [block("7")]).passed


def test_an_unknown_tool_passes_and_an_empty_list_of_errors_fails() -> None:
    assert call_score("80", [block("Unknown tool: add_item")]).passed
    assert call_score("80", [block('{"ok":true,"errors":[]}')]) == NO_ANSWER
    assert call_score("Error: no such SKU", [block("any exception")]).passed


def test_soft_is_a_mean_and_hard_the_share_behind_the_gate() -> None:
    scores = [CallScore(True, 0.75), CallScore(True, 0.25), NO_ANSWER, CallScore(True, 0.7)]
    assert tg_compat.unit_tests(scores) == (pytest.approx(0.425), 0.75)
    assert tg_compat.leaderboard_hard(scores) == 0.25
    assert tg_compat.unit_tests([]) == (0.0, 0.0)
    assert tg_compat.leaderboard_hard([]) == 0.0


# --- layers 3 and 4 --------------------------------------------------------------------------


def test_the_boundary_is_a_product_of_two_shares() -> None:
    assert tg_compat.capability_boundary("", [True, True, False, True], [True, False]) == 0.375
    assert tg_compat.capability_boundary("", [True], []) == 1.0
    assert tg_compat.capability_boundary("", [], [True]) == 0.0


def test_a_banned_text_is_banned_inside_a_longer_name_too() -> None:
    assert tg_compat.capability_boundary("def retrieval(x): ...", [True], []) == 0.0
    assert tg_compat.capability_boundary("# no os.system here", [True], []) == 0.0
    assert tg_compat.capability_boundary("from os import system", [True], []) == 1.0


def test_task_utility_is_the_mean_rating_and_the_share_of_three_and_more() -> None:
    assert tg_compat.task_utility([1, 2, 3, 5]) == (pytest.approx(0.55), 0.5)
    assert tg_compat.task_utility([]) == (0.0, 0.0)


def test_the_success_rate_is_normalised_by_task_then_by_server() -> None:
    servers = [[(0.4, 0.8), (1.0, 0.5)], [(0.0, 1.0)], []]
    assert tg_compat.oracle_normalised(servers) == pytest.approx(((0.5 + 1.0) / 2 + 0.0) / 2)
    assert tg_compat.oracle_normalised([[(0.3, 0.0)]]) == 0.3
    assert tg_compat.oracle_normalised([]) == 0.0
