"""The scenario that a template writes of a server that came without one."""

from __future__ import annotations

from toolgenesis_sft.corpus.scenario import describe
from toolgenesis_sft.records import ToolSchema

TOOL = ToolSchema(
    name="find_route",
    description="The shortest way.\n\nBy the number of hops.",
    input_schema={
        "properties": {"from_node": {"type": "string"}, "limit": {"type": "integer"}},
        "required": ["from_node"],
    },
)


def test_a_capability_says_what_the_live_tool_does_and_needs() -> None:
    text = describe("city-graph", "x = 1\n", (TOOL,))
    assert "**System Scope:** A system for city graph." in text
    assert "Description: The shortest way. By the number of hops." in text
    assert "Key Inputs: from node (string), limit (integer, optional)." in text
    assert "find_route" not in text


def test_the_programs_own_words_go_before_its_slug() -> None:
    assert "A graph of roads." in describe("city-graph", '"""A graph of roads."""\n', (TOOL,))


def test_a_row_number_is_no_subject() -> None:
    assert "A system for" not in describe("17", "x = 1\n", (TOOL,))
