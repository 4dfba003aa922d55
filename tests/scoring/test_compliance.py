from __future__ import annotations

import json
from copy import deepcopy
from pathlib import Path
from typing import Any

import pytest

from toolgenesis_sft.benchmark import load_answer_keys
from toolgenesis_sft.records import Json, ToolSchema
from toolgenesis_sft.scoring.compliance import MAX_FAULTS, check_tools, schema_drift

MINI = Path(__file__).parents[2] / "data" / "mini" / "benchmark.json"

# As FastMCP emits them: Optional, a default, an enum behind `$ref`, titles, an output schema.
BOOK: dict[str, Any] = {
    "name": "book_room",
    "description": "Book a room.",
    "inputSchema": {
        "$defs": {"Size": {"enum": ["small", "large"], "title": "Size", "type": "string"}},
        "properties": {
            "room": {"title": "Room", "type": "string"},
            "size": {"$ref": "#/$defs/Size", "default": "small"},
            "until": {"anyOf": [{"type": "string"}, {"type": "null"}], "default": None},
        },
        "required": ["room"],
        "title": "book_roomArguments",
        "type": "object",
    },
    "outputSchema": {"properties": {"result": {"type": "string"}}, "type": "object"},
}


def changed(**changes: Json) -> dict[str, Any]:
    return {**deepcopy(BOOK), **changes}


def with_schema(**changes: Json) -> dict[str, Any]:
    return changed(inputSchema={**deepcopy(BOOK["inputSchema"]), **changes})


def test_real_fastmcp_schemas_comply_whole() -> None:
    report = check_tools([BOOK])
    assert (report.value, report.faults) == (1.0, ())


def test_every_gold_tool_of_the_mini_benchmark_complies() -> None:
    for key in load_answer_keys(MINI).values():
        raw = [
            {"name": t.name, "description": t.description, "inputSchema": t.input_schema}
            for t in key.tools
        ]
        assert check_tools(raw).faults == ()


def test_an_empty_list_complies_not_at_all() -> None:
    assert check_tools([]).value == 0.0
    assert check_tools([]).faults == ("no tools",)


@pytest.mark.parametrize(
    ("broken", "named"),
    [
        ("no object", "type"),
        (None, "type"),
        ({k: v for k, v in BOOK.items() if k != "name"}, "required"),
        ({k: v for k, v in BOOK.items() if k != "inputSchema"}, "required"),
        (changed(name=7), ".name"),
        (changed(description=["x"]), ".description"),
        (changed(annotations={"readOnlyHint": "yes"}), ".annotations.readOnlyHint"),
        (changed(inputSchema=True), ".inputSchema"),
        (changed(inputSchema={}), ".inputSchema"),
        (with_schema(type="array"), ".inputSchema.type"),
        (with_schema(type=["object"]), ".inputSchema.type"),
        (with_schema(required="room"), ".inputSchema.required"),
        (with_schema(properties={"x": {"type": "strng"}}), "inputSchema.properties.x.type"),
        (with_schema(properties={"x": {"enum": "abc"}}), "inputSchema.properties.x.enum"),
        (with_schema(properties={"x": {"minimum": "1"}}), "inputSchema.properties.x.minimum"),
        (with_schema(required=["room", "room"]), "uniqueItems"),
        (with_schema(properties={"x": {"$ref": "#/$defs/Nowhere"}}), "leads nowhere"),
        (with_schema(properties={"x": {"$ref": "http://example.com/s.json"}}), "leads nowhere"),
        (with_schema(properties={"x": {"default": float("nan")}}), "NaN"),
        (changed(outputSchema={"type": "object", "properties": {"x": 3}}), ".outputSchema"),
        (changed(name=""), "the name must be"),
        (changed(name="a\x1b[31m"), "the name must be"),
        (changed(name="../../etc"), "the name must be"),
        (changed(name="a..b"), "the name must be"),
        (changed(name="get weather"), "the name must be"),
        (changed(name="n" * 129), "the name must be"),
    ],
)
def test_a_broken_tool_is_a_named_fault(broken: Json, named: str) -> None:
    report = check_tools([BOOK, broken])
    assert report.value == 0.5
    assert len(report.faults) == 1
    assert named in report.faults[0]


def test_a_repeated_name_is_a_fault_of_each_repetition() -> None:
    report = check_tools([BOOK, BOOK, BOOK])
    assert report.value == pytest.approx(1 / 3, abs=1e-6)
    assert report.faults == tuple(
        f"tool {index} book_room: the name is another tool's too" for index in (1, 2)
    )


def test_references_resolve_by_pointer_anchor_and_recursion() -> None:
    tree = {"$anchor": "tree", "type": "object", "properties": {"child": {"$ref": "#/$defs/Tree"}}}
    tool = with_schema(
        **{"$defs": {"Tree": tree}, "properties": {"a": {"$ref": "#tree"}, "b": {"$ref": "#"}}}
    )
    assert check_tools([tool]).faults == ()
    assert check_tools([with_schema(properties={"a": {"default": {"$ref": "#/x"}}})]).value == 1.0


@pytest.mark.parametrize("index", ["\u00b2", "\u0663", "1" * 5_000, "-1", "1", "", "0/0"])
def test_a_reference_into_a_list_that_leads_to_no_schema_is_a_fault(index: str) -> None:
    tool = with_schema(properties={"room": {"$ref": f"#/required/{index}"}})
    assert "leads nowhere" in check_tools([tool]).faults[0]


def test_a_reference_leads_to_a_list_s_member_by_its_number() -> None:
    either = {"anyOf": [{"type": "string"}, {"type": "null"}]}
    tool = with_schema(properties={"a": either, "room": {"$ref": "#/properties/a/anyOf/1"}})
    assert check_tools([tool]).value == 1.0


def test_thousands_of_references_to_an_anchor_resolve() -> None:
    users = {f"p{index}": {"$ref": "#x"} for index in range(5_000)}
    assert check_tools([with_schema(properties={"a": {"$anchor": "x"}, **users})]).value == 1.0


def test_an_anchor_that_is_no_text_is_no_crash() -> None:
    tool = with_schema(properties={"a": {"default": {"$anchor": []}}, "b": {"$ref": "#x"}})
    assert "leads nowhere" in check_tools([tool]).faults[0]


def test_faults_are_printable_whatever_the_names_hold() -> None:
    faults = check_tools([changed(name="\x1b]0;\ud800\u202e" * 1000)]).faults
    assert all(fault.isascii() and fault.isprintable() and len(fault) < 300 for fault in faults)


def test_a_hundred_thousand_tools_are_told_in_fifty_lines() -> None:
    tools = [changed(name=f"t{index}") for index in range(2)] * 50_000
    report = check_tools(tools)
    assert report.value == 2 / 100_000
    assert len(report.faults) == MAX_FAULTS + 1
    assert report.faults[0].startswith("100000 tools")


def test_a_schema_too_deep_or_too_large_is_a_fault_and_no_crash() -> None:
    deep: dict[str, Any] = {"type": "string"}
    for _ in range(5_000):
        deep = {"type": "array", "items": deep}
    assert "deeper" in check_tools([with_schema(properties={"x": deep})]).faults[0]
    wide = {f"p{index}": {"type": "string"} for index in range(20_000)}
    assert "values" in check_tools([with_schema(properties=wide)]).faults[0]


# --- drift -----------------------------------------------------------------------------------

LIVE = [ToolSchema(name="book_room", description="x", input_schema=BOOK["inputSchema"])]


@pytest.mark.parametrize("key", ["inputSchema", "input_schema"])
def test_a_file_that_says_what_the_server_offers_does_not_drift(key: str) -> None:
    tool = {"name": "book_room", "description": "other words", key: BOOK["inputSchema"]}
    assert schema_drift({"server_name": "Rooms", "tools": [tool]}, LIVE) == 0.0
    assert schema_drift([tool], LIVE) == 0.0


def test_no_file_has_no_drift_at_all() -> None:
    assert schema_drift(None, LIVE) is None


def test_nothing_in_common_is_a_drift_of_one() -> None:
    assert schema_drift({"tools": [{"name": "other", "inputSchema": {}}]}, LIVE) == 1.0
    assert schema_drift({"tools": []}, LIVE) == 1.0
    assert schema_drift("no schema", LIVE) == 1.0
    assert schema_drift({"tools": [3, None, {"name": []}]}, LIVE) == 1.0


def test_the_more_a_file_differs_the_larger_the_drift() -> None:
    def drift(**changes: Json) -> float:
        tool = {"name": "book_room", "inputSchema": {**BOOK["inputSchema"], **changes}}
        value = schema_drift({"tools": [tool]}, LIVE)
        assert value is not None
        return value

    properties = BOOK["inputSchema"]["properties"]
    other_type = {**properties, "room": {"type": "integer"}}
    dropped = {k: v for k, v in properties.items() if k != "room"}
    assert 0 < drift(required=[]) == drift(properties=other_type) < drift(properties=dropped) < 1


def test_tools_past_the_five_hundredth_count_in_a_drift_by_their_names() -> None:
    loop = {
        "properties": {"a": {"$ref": "#/$defs/a"}},
        "$defs": {"a": {"anyOf": [{"$ref": "#/$defs/a"}] * 6}},
    }
    tools = [{"name": f"t{index}", "inputSchema": loop} for index in range(50_000)]
    live = [ToolSchema(name=tool["name"], input_schema={}) for tool in tools]
    drift = schema_drift(tools, live)
    assert drift is not None
    assert 0 < drift < 0.05


def test_the_report_is_the_same_after_a_trip_through_json() -> None:
    assert check_tools(json.loads(json.dumps([BOOK]))) == check_tools([BOOK])
