from __future__ import annotations

import pytest

from tests.scoring.conftest import reference
from toolgenesis_sft.records import OutcomeCheck, PlannedCall, Task
from toolgenesis_sft.sandbox.session import Sandbox, ToolAnswer
from toolgenesis_sft.scoring.examination import Examination
from toolgenesis_sft.scoring.schema import SchemaMatch, match_schema
from toolgenesis_sft.scoring.utility import MissingValue, TaskResult, fill, replay, value_at

BUDGET = reference("envelope-budget")
TASK = Task(
    prompt="Move 50 to fun, then spend what fun holds.",
    plan=(
        PlannedCall(
            tool="move_money",
            arguments={"source": "unassigned", "target": "fun", "amount": 50},
        ),
        PlannedCall(
            tool="record_purchase",
            arguments={"envelope": "fun", "amount": {"$from": "0.fun"}, "payee": "Cinema"},
        ),
    ),
    outcome=(
        OutcomeCheck(call=0, path="fun", equals=110),
        OutcomeCheck(call=1, path="left", equals=0),
    ),
)


def run(sandbox: Sandbox, code: str) -> TaskResult:
    with sandbox.start(BUDGET) as gold, sandbox.start(code) as live:
        match = match_schema(gold.list_tools(), live.list_tools())
    return replay(TASK, match, Examination(code, sandbox))


def test_a_plan_runs_on_the_reference_server_with_values_of_earlier_answers(
    sandbox: Sandbox,
) -> None:
    result = run(sandbox, BUDGET)
    assert result.solved
    assert result.calls[1]["arguments"]["amount"] == 110


def test_each_task_has_a_fresh_server(sandbox: Sandbox) -> None:
    assert run(sandbox, BUDGET) == run(sandbox, BUDGET)


def test_renamed_tools_and_arguments_are_mapped(sandbox: Sandbox) -> None:
    renamed = BUDGET.replace("move_money", "transfer_money").replace("payee", "paid_to")
    assert run(sandbox, renamed).solved


def test_a_half_right_outcome_is_half_a_score(sandbox: Sandbox) -> None:
    wrong = BUDGET.replace('{"left": balances[envelope] / 100}', '{"left": -1}')
    result = run(sandbox, wrong)
    assert (result.score, result.solved) == (0.5, False)


def test_a_call_that_cannot_be_made_fails_its_checks_and_the_plan_goes_on(
    sandbox: Sandbox,
) -> None:
    without = BUDGET.replace("@mcp.tool()\ndef move_money", "def move_money")
    result = run(sandbox, without)
    assert result.calls[0]["fault"] == "no_tool" or result.calls[0]["live_tool"] != "move_money"
    assert result.score == 0.0
    assert len(result.checks) == 2


def test_a_server_that_dies_in_a_plan_is_not_called_again(sandbox: Sandbox) -> None:
    dying = BUDGET.replace(
        "    cents = to_cents(amount)\n    withdraw(source, cents)",
        "    import os\n    os._exit(3)",
    )
    result = run(sandbox, dying)
    assert result.fault
    assert result.score == 0.0
    assert result.calls[1]["fault"] == result.fault


def test_values_are_found_by_dotted_path() -> None:
    assert value_at({"a": [{"b": 7}]}, "a.0.b") == 7
    assert value_at([1, 2], "") == [1, 2]
    for path in ("x", "a.5", "a.b", "a.0.b.c"):
        with pytest.raises(MissingValue):
            value_at({"a": [{"b": 7}]}, path)


def test_a_text_on_the_path_is_read_as_the_json_that_it_is() -> None:
    assert value_at('{"a": "[{\\"b\\": 7}]"}', "a.0.b") == 7
    assert value_at('{"a": 1}', "") == '{"a": 1}'
    with pytest.raises(MissingValue):
        value_at("a plain text", "a")


def test_values_are_filled_in_at_any_depth() -> None:
    answers: list[ToolAnswer | None] = [ToolAnswer({"id": 4}, "", False), None]
    assert fill({"ids": [{"$from": "0.id"}, 1]}, answers) == {"ids": [4, 1]}
    with pytest.raises(MissingValue):
        fill({"$from": "1.id"}, answers)


def test_an_empty_match_solves_nothing(sandbox: Sandbox) -> None:
    assert replay(TASK, SchemaMatch.empty(), Examination(BUDGET, sandbox)).score == 0.0
