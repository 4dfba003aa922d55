from __future__ import annotations

import itertools
import random
from pathlib import Path
from typing import Any

import pytest

from toolgenesis_sft.benchmark import load_answer_keys
from toolgenesis_sft.records import Json, ToolSchema
from toolgenesis_sft.scoring.schema import (
    MAX_COMPARED,
    arguments_of,
    distinct,
    match_schema,
    normalised,
    tool_text,
    words,
)

MINI = Path(__file__).parents[2] / "data" / "mini" / "benchmark.json"


def tool(
    name: str, description: str = "", required: tuple[str, ...] = (), **args: Json
) -> ToolSchema:
    properties = {k: v if isinstance(v, dict) else {"type": v} for k, v in args.items()}
    schema: dict[str, Any] = {"type": "object", "properties": properties}
    if required:
        schema["required"] = list(required)
    return ToolSchema(name=name, description=description, input_schema=schema)


GOLD = [
    tool("add_item", "Add an item to the stock.", ("sku", "count"), sku="string", count="integer"),
    tool("remove_item", "Remove an item from the stock.", ("sku",), sku="string"),
    tool("list_items", "List everything in stock."),
    tool(
        "sort_items",
        "Sort the stock by a key.",
        ("key",),
        key={"type": "string", "enum": ["name", "count"]},
    ),
]


def test_identical_servers_have_one_in_every_figure() -> None:
    match = match_schema(GOLD, GOLD)
    assert (match.f1, match.tool_f1, match.args_f1, match.constraints_f1) == (1.0, 1.0, 1.0, 1.0)
    assert match.tools == {t.name: t.name for t in GOLD}
    assert match.arguments["add_item"] == {"sku": "sku", "count": "count"}
    assert match.arguments["list_items"] == {}


def test_every_gold_schema_of_the_mini_benchmark_is_identical_to_itself() -> None:
    for key in load_answer_keys(MINI).values():
        assert match_schema(key.tools, list(reversed(key.tools))).f1 == 1.0


def test_an_identical_server_without_arguments_has_one() -> None:
    plain = [tool("status"), tool("reset")]
    assert match_schema(plain, plain).f1 == 1.0


def test_two_empty_servers_are_identical_and_one_empty_server_shares_nothing() -> None:
    assert match_schema([], []).f1 == 1.0
    assert match_schema(GOLD, []).f1 == 0.0
    assert match_schema([], GOLD).f1 == 0.0


def test_one_of_four_tools_has_two_fifths() -> None:
    match = match_schema(GOLD, GOLD[:1])
    assert (match.f1, match.tool_f1, match.args_f1) == (0.4, 0.4, 0.4)


def test_every_missing_tool_costs_and_every_extra_one_too() -> None:
    missing = [match_schema(GOLD, GOLD[:n]).f1 for n in range(5)]
    assert missing == sorted(set(missing))
    extra = [tool(f"unrelated_{n}", "Fold a paper crane.") for n in range(3)]
    more = [match_schema(GOLD, [*GOLD, *extra[:n]]).f1 for n in range(4)]
    assert more == sorted(set(more), reverse=True)


def test_a_tripled_tool_counts_once_and_costs_twice() -> None:
    match = match_schema(GOLD[:1], GOLD[:1] * 3)
    assert (match.tool_f1, match.f1) == (0.5, 0.5)


@pytest.mark.parametrize("name", ["addItem", "ADD_ITEM", "add-item", "Add.Item"])
def test_spelling_of_a_name_does_not_count(name: str) -> None:
    renamed = GOLD[0].model_copy(update={"name": name})
    match = match_schema(GOLD, [renamed, *GOLD[1:]])
    assert (match.f1, match.tools["add_item"]) == (1.0, name)


def test_a_renamed_tool_is_found_by_meaning_and_costs_in_tool_f1_alone() -> None:
    renamed = GOLD[0].model_copy(update={"name": "put_into_stock"})
    match = match_schema(GOLD, [renamed, *GOLD[1:]])
    assert match.tools["add_item"] == "put_into_stock"
    assert 0.8 < match.tool_f1 < 1.0
    assert (match.args_f1, match.constraints_f1) == (1.0, 1.0)


def test_a_dropped_argument_costs_in_arguments_and_constraints_alone() -> None:
    dropped = tool("add_item", GOLD[0].description, ("sku",), sku="string")
    match = match_schema(GOLD, [dropped, *GOLD[1:]])
    assert match.tool_f1 == 1.0
    # 2 x (1 + 1 + 1 + 2/3) / 8: the tool's own figure is 2 x 1 / (2 + 1).
    assert (match.args_f1, match.constraints_f1) == (0.916667, 0.916667)
    assert match.arguments["add_item"] == {"sku": "sku"}


def test_a_renamed_argument_is_found_by_meaning() -> None:
    gold = [
        tool("weigh", "Weigh a parcel.", parcel_id={"type": "string", "description": "Parcel id"})
    ]
    live = [
        tool(
            "weigh", "Weigh a parcel.", parcel={"type": "string", "description": "Id of the parcel"}
        )
    ]
    match = match_schema(gold, live)
    assert match.arguments["weigh"] == {"parcel_id": "parcel"}
    assert match.args_f1 < 1.0 == match.constraints_f1


def test_all_types_wrong_costs_half_of_the_constraints() -> None:
    gold = [tool("f", a="integer", b="string")]
    live = [tool("f", a="string", b={"type": "array"})]
    match = match_schema(gold, live)
    assert (match.tool_f1, match.args_f1, match.constraints_f1) == (1.0, 1.0, 0.5)
    assert match.f1 == 0.875


def test_required_and_enum_count() -> None:
    def constraints(gold: ToolSchema, live: ToolSchema) -> float:
        return match_schema([gold], [live]).constraints_f1

    assert constraints(tool("f", required=("a",), a="string"), tool("f", a="string")) == 0.5
    abc: Json = {"type": "string", "enum": ["a", "b", "c"]}
    ab: Json = {"type": "string", "enum": ["a", "b"]}
    assert constraints(tool("f", k=abc), tool("f", k="string")) == pytest.approx(2 / 3, abs=1e-6)
    assert constraints(tool("f", k=abc), tool("f", k=ab)) == pytest.approx(
        (2 + 2 / 3) / 3, abs=1e-6
    )


def test_pairs_under_a_cosine_of_three_tenths_are_no_match() -> None:
    gold = [tool("send_email", "Send an e-mail to a person.")]
    live = [tool("molar_mass", "Compute the molar mass of a chemical compound.")]
    assert match_schema(gold, live).tools == {}


def test_the_order_of_the_tools_changes_nothing() -> None:
    live = [
        tool("put_item", "Put an item into the stock.", sku="string"),
        tool("take_item", "Take an item out of the stock.", sku="string"),
        tool("show_items", "Show everything in stock."),
        tool("show_items", "A namesake."),
        tool("order_items", "Order the stock.", by="string"),
    ]
    expected = match_schema(GOLD, live)
    for gold_order, live_order in itertools.islice(
        zip(itertools.permutations(GOLD), itertools.permutations(live), strict=False), 12
    ):
        assert match_schema(gold_order, live_order) == expected


def test_ties_are_settled_by_name() -> None:
    gold = [tool("welcome", "Say hello.")]
    live = [tool(f"greet{separator}guest", "Say hello.") for separator in ("_", "-", ".")]
    found = [match_schema(gold, order).tools for order in itertools.permutations(live)]
    assert found == [{"welcome": "greet-guest"}] * 6


# --- shapes as FastMCP emits them -------------------------------------------------------------


def argument(schema: Json, defs: Json = None) -> Any:
    root = {"type": "object", "properties": {"x": schema}, "$defs": defs or {}}
    return arguments_of(ToolSchema(name="t", input_schema=root))[0]


SIZE = {"Size": {"enum": ["small", "large"], "title": "Size", "type": "string"}}


@pytest.mark.parametrize(
    ("schema", "shape", "enum"),
    [
        ({"type": "string"}, {"string"}, None),
        ({"title": "X"}, {"any"}, None),
        (True, {"any"}, None),
        ({"anyOf": [{"type": "string"}, {"type": "null"}], "default": None}, {"string"}, None),
        ({"type": ["string", "null"]}, {"string"}, None),
        ({"type": "null"}, {"null"}, None),
        ({"anyOf": [{"type": "integer"}, {"type": "string"}]}, {"integer", "string"}, None),
        ({"type": "array", "items": {"type": "integer"}}, {"array", "[]:integer"}, None),
        (
            {"type": "object", "additionalProperties": {"type": "number"}},
            {"object", ".*:number"},
            None,
        ),
        ({"$ref": "#/$defs/Size"}, {"string"}, {'"small"', '"large"'}),
        (
            {"allOf": [{"$ref": "#/$defs/Size"}], "default": "small"},
            {"string"},
            {'"small"', '"large"'},
        ),
        (
            {"anyOf": [{"$ref": "#/$defs/Size"}, {"type": "null"}]},
            {"string"},
            {'"small"', '"large"'},
        ),
        ({"const": "only", "title": "X"}, {"string"}, {'"only"'}),
        ({"enum": [1, 2]}, {"integer"}, {"1", "2"}),
        ({"anyOf": [{"enum": ["a"]}, {"type": "string"}]}, {"string"}, None),
        ({"$ref": "#/$defs/Nowhere"}, {"any"}, None),
        ({"$ref": "http://example.com"}, {"any"}, None),
    ],
)
def test_shape_and_enum_are_read_through_references_and_alternatives(
    schema: Json, shape: set[str], enum: set[str] | None
) -> None:
    found = argument(schema, SIZE)
    assert (found.shape, found.enum) == (shape, enum)


def test_a_model_as_argument_shows_its_fields() -> None:
    point = {"Point": {"type": "object", "properties": {"lat": {"type": "number"}}}}
    found = argument({"type": "array", "items": {"$ref": "#/$defs/Point"}}, point)
    assert found.shape == {"array", "[]:object", "[].lat:number"}


def test_an_optional_argument_written_in_two_ways_is_one() -> None:
    old = tool("f", when={"type": "string", "default": None})
    new = tool("f", when={"anyOf": [{"type": "string"}, {"type": "null"}], "default": None})
    assert match_schema([old], [new]).f1 == 1.0


def test_broken_schemas_have_no_arguments_and_raise_nothing() -> None:
    for schema in (
        {},
        {"properties": []},
        {"properties": {"x": 3}, "required": "x"},
        {"required": [[]]},
    ):
        arguments_of(ToolSchema(name="t", input_schema=schema))


def test_schemas_that_refer_to_themselves_end() -> None:
    loop = {"Loop": {"$ref": "#/$defs/Loop"}}
    assert argument({"$ref": "#/$defs/Loop"}, loop).shape == {"any"}
    many: Json = {"Many": {"anyOf": [{"$ref": "#/$defs/Many"}] * 100}}
    argument({"$ref": "#/$defs/Many"}, many)
    tree = {"Tree": {"type": "object", "properties": {"child": {"$ref": "#/$defs/Tree"}}}}
    assert "object" in argument({"$ref": "#/$defs/Tree"}, tree).shape


SELF = {"$ref": "#/$defs/Self"}


@pytest.mark.parametrize(
    "endless",
    [
        {"anyOf": [SELF] * 6},
        {"properties": {f"p{n}": SELF for n in range(50)}},
        {"properties": {"x" * 100_000: SELF}},
        {"enum": [f"v{n}" for n in range(50_000)]},
        {"type": [f"t{n}" for n in range(50_000)]},
        {"$ref": "#" + "/$defs" * 100_000},
    ],
    ids=["alternatives", "properties", "long name", "values", "types", "long reference"],
)
def test_arguments_that_share_an_endless_schema_are_untyped_past_a_bound(endless: Json) -> None:
    properties = {f"p{n:05}": SELF for n in range(20_000)}
    schema = {"properties": properties, "$defs": {"Self": endless}}
    found = arguments_of(ToolSchema(name="t", input_schema=schema))
    assert len(found) == 20_000
    assert (found[-1].shape, found[-1].enum) == ({"any"}, None)


def test_the_last_of_many_honest_arguments_is_typed() -> None:
    arguments = {
        f"p{n:04}": {"anyOf": [{"type": "string"}, {"type": "null"}]} for n in range(1_000)
    }
    found = arguments_of(tool("t", **arguments))
    assert {argument.shape for argument in found} == {frozenset({"string"})}


def test_thousands_of_namesakes_are_one_whatever_their_order() -> None:
    loop = {"a": {"anyOf": [{"$ref": "#/$defs/a"}] * 6}}
    schemas = [
        {"properties": {"a": {"$ref": "#/$defs/a", "title": str(n)}}, "$defs": loop}
        for n in range(20_000)
    ]
    crowd = [ToolSchema(name="t", input_schema=schema) for schema in schemas]
    assert distinct(crowd) == distinct(crowd[::-1])
    assert len(distinct(crowd)) == 1


def test_twenty_thousand_tools_are_extra_ones_without_being_embedded() -> None:
    crowd = [tool(f"zz{index}") for index in range(20_000)]
    match = match_schema(GOLD[:1], [*crowd, GOLD[0]])
    assert match.tools == {"add_item": "add_item"}
    assert 0 < match.tool_f1 < 1e-3
    assert len(crowd) > MAX_COMPARED


def test_names_are_split_into_words() -> None:
    assert words("getUser_name-2") == "get user name 2"
    assert normalised("getUser_name-2") == "getusername2"
    assert tool_text(GOLD[1]) == "remove item: Remove an item from the stock. (sku)"


# --- properties over random servers -----------------------------------------------------------


def random_server(dice: random.Random) -> list[ToolSchema]:
    names = dice.sample(["add", "drop", "list", "find", "sort", "count"], dice.randint(1, 5))
    return [
        tool(
            f"{name}_{index}",
            args_description,
            **{
                arg: dice.choice(["string", "integer"])
                for arg in dice.sample("abcde", dice.randint(0, 4))
            },
        )
        for index, name in enumerate(names)
        for args_description in ["."]
    ]


@pytest.mark.parametrize("seed", range(20))
def test_figures_stay_between_zero_and_one_and_damage_never_helps(seed: int) -> None:
    dice = random.Random(seed)
    gold = random_server(dice)
    assert match_schema(gold, gold).f1 == 1.0
    damaged = list(gold)
    victim = dice.randrange(len(damaged))
    schema = {"type": "object", "properties": {}}
    damaged[victim] = damaged[victim].model_copy(update={"input_schema": schema})
    without_arguments = match_schema(gold, damaged)
    del damaged[victim]
    without_tool = match_schema(gold, damaged)
    assert 0.0 <= without_tool.f1 <= without_arguments.f1 <= 1.0
    assert without_tool.f1 < 1.0
