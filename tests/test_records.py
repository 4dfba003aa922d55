from __future__ import annotations

import pytest
from pydantic import ValidationError

from toolgenesis_sft.records import ChatSample, Message, Scenario, ServerPrediction, ToolCall

SAMPLE = ChatSample(
    id="mini/adder",
    messages=(
        Message(role="user", content="add\nüß 😀"),
        Message(role="assistant", tool_calls=(ToolCall(name="add", arguments={"a": [1, None]}),)),
        Message(role="tool", content="3", tool_call_id="1"),
    ),
    source="mini",
    licence="MIT",
)
PREDICTION = ServerPrediction(
    slug="adder", model="trained", strategy="direct", completion="x = 1\n", finish_reason="stop"
)


@pytest.mark.parametrize("record", [SAMPLE, PREDICTION])
def test_a_record_survives_one_json_line(record: ChatSample | ServerPrediction) -> None:
    line = record.to_line()
    assert line.count("\n") == 1
    assert line.endswith("\n")
    assert type(record).from_line(line) == record


def test_a_record_is_frozen_and_refuses_unknown_keys() -> None:
    with pytest.raises(ValidationError):
        SAMPLE.id = "other"  # type: ignore[misc]
    with pytest.raises(ValidationError):
        ServerPrediction.model_validate({**PREDICTION.model_dump(), "scores": 1})


def test_a_scenario_has_no_field_for_what_is_held_out() -> None:
    names = set(Scenario.model_fields)
    assert not names & {"tools", "tool_definitions", "unit_tests", "unit_test", "tasks"}
