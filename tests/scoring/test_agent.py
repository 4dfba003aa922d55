"""The proxy agent: a scripted solver with tool calls on live servers, a scripted judge."""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from tests.generation.scripted_server import Fault, Script, ScriptedServer, call, reply
from tests.scoring.conftest import MakeBenchmark, reference
from toolgenesis_sft.config import Score
from toolgenesis_sft.errors import HarnessFault, Outcome, UserError
from toolgenesis_sft.records import AnswerKey, Json, LayerScores, Task
from toolgenesis_sft.runs import read_records
from toolgenesis_sft.sandbox.session import Sandbox
from toolgenesis_sft.scoring.agent import (
    MAX_TURNS,
    Agent,
    Attempt,
    Trial,
    offered,
    success_rate,
    summary,
    transcript,
)
from toolgenesis_sft.scoring.examination import Examination
from toolgenesis_sft.scoring.job import ScoreJob
from toolgenesis_sft.scoring.judge import Endpoint, Judge
from toolgenesis_sft.scoring.score import score_predictions

SLUG = "envelope-budget"
GOOD = reference(SLUG)
# Spends 7 times as much as it is told to.
WRONG = GOOD.replace(
    "    cents = to_cents(amount)\n    withdraw(envelope, cents)",
    "    cents = to_cents(amount * 7)\n    withdraw(envelope, cents)",
)
TASK = "Spend 10 from the groceries envelope at the Mill and say what is left."
ARGUMENTS = {"envelope": "groceries", "amount": 10, "payee": "Mill"}


def answers_of(body: dict[str, Any]) -> list[str]:
    return [m["content"] for m in body["messages"] if m["role"] == "tool"]


def solver(body: dict[str, Any]) -> dict[str, Any]:
    """Makes one call where there are tools, then repeats what it answered."""
    answers = answers_of(body)
    if not answers and body.get("tools"):
        return reply("", tool_calls=[call("record_purchase", ARGUMENTS)])
    return reply(f"Done: {answers[-1]}" if answers else "Some 50, I think.")


def honest_judge(body: dict[str, Any]) -> dict[str, Any]:
    """5 where the server's own answer is the right one, 1 for anything else."""
    prompt = body["messages"][0]["content"]
    fence = re.findall(r"^RATING (\w+): N$", prompt, re.MULTILINE)[-1]
    done = prompt.split(f"=== {fence} ===")[4]
    right = re.search(r'"left":\s*197\.5\b', done)  # 207.50 less 10
    return reply(f"Read.\nRATING {fence}: {5 if right else 1}")


def both(one: Callable[[dict[str, Any]], dict[str, Any] | Fault]) -> Script:
    """A solver and the honest judge behind one endpoint."""

    def script(body: dict[str, Any]) -> dict[str, Any] | Fault:
        is_judge = "RATING" in body["messages"][0]["content"]
        return honest_judge(body) if is_judge else one(body)

    return script


def key(*tasks: str) -> AnswerKey:
    return AnswerKey(
        slug=SLUG, tools=(), unit_tests=(), tasks=tuple(Task(prompt=task) for task in tasks)
    )


def agent(server: ScriptedServer, folder: Path, oracle: str = GOOD) -> Agent:
    endpoint = Endpoint(server.url, "m", max_attempts=2, request_timeout_s=20)
    return Agent(endpoint, Judge(endpoint), {SLUG: oracle}, folder)


def examine(
    sandbox: Sandbox, folder: Path, code: str, script: Script, tasks: tuple[str, ...] = (TASK,)
) -> tuple[list[Trial], ScriptedServer]:
    with ScriptedServer(script) as server:
        return agent(server, folder).examine(key(*tasks), Examination(code, sandbox)), server


def test_a_right_server_solves_what_the_oracle_solves_and_the_control_does_not(
    sandbox: Sandbox, tmp_path: Path
) -> None:
    trials, server = examine(sandbox, tmp_path, GOOD, both(solver))
    (trial,) = trials
    assert (trial.attempt.rating, trial.oracle.rating, trial.control.rating) == (5, 5, 1)
    assert trial.attempt.calls[0]["arguments"] == ARGUMENTS
    assert success_rate(trials) == 1.0
    asked = [body for body in server.bodies if body.get("tools")]
    assert {body["temperature"] for body in server.bodies} == {0.0}
    assert {tool["function"]["name"] for tool in asked[0]["tools"]} >= {"record_purchase"}


def test_a_wrong_server_does_not_solve_what_the_oracle_solves(
    sandbox: Sandbox, tmp_path: Path
) -> None:
    trials, _ = examine(sandbox, tmp_path, WRONG, both(solver))
    assert success_rate(trials) == 0.0
    assert summary(trials) == {
        "share_tasks_solved": 0.0,
        "share_tasks_solved_by_oracle": 1.0,
        "share_tasks_solved_without_tools": 0.0,
        "mean_task_rating": 0.2,
    }


def test_each_task_has_a_server_of_its_own(sandbox: Sandbox, tmp_path: Path) -> None:
    """The same purchase twice on one budget would leave less the second time."""
    trials, _ = examine(sandbox, tmp_path, GOOD, both(solver), (TASK, TASK))
    actual = [trial.attempt.calls[0]["actual"] for trial in trials]
    assert actual[0] == actual[1]


def test_oracle_and_control_run_once_for_a_server_and_are_kept(
    sandbox: Sandbox, tmp_path: Path
) -> None:
    _, first = examine(sandbox, tmp_path, GOOD, both(solver))
    _, second = examine(sandbox, tmp_path, GOOD, both(solver))
    assert len(first.bodies) == 3 + 3 + 2  # call, words, rating; the control has no call
    assert len(second.bodies) == 3
    _, other = examine(sandbox, tmp_path, GOOD, both(solver), (TASK + " Now.",))
    assert len(other.bodies) == 8


def test_the_solver_has_ten_turns_of_calls(sandbox: Sandbox, tmp_path: Path) -> None:
    def restless(body: dict[str, Any]) -> dict[str, Any]:
        if not body.get("tools"):
            return reply("No tools.")
        return reply("", tool_calls=[call("list_envelopes", {})])

    trials, _ = examine(sandbox, tmp_path, GOOD, both(restless))
    assert len(trials[0].attempt.calls) == MAX_TURNS + 1
    assert (trials[0].attempt.fault, trials[0].attempt.solved) == ("turns_spent", False)


def test_what_the_solver_gets_wrong_is_told_to_it(sandbox: Sandbox, tmp_path: Path) -> None:
    def clumsy(body: dict[str, Any]) -> dict[str, Any]:
        said = [m["content"] for m in body["messages"]]
        if not body.get("tools"):
            return reply("No tools.")
        if len(said) == 2:
            return reply("", tool_calls=[call("record_purchase", "{not json")])
        if len(said) == 4:
            return reply("", tool_calls=[call("no_such_tool", {})])
        return reply(f"{said[3]} / {said[-1]}")

    trials, _ = examine(sandbox, tmp_path, GOOD, both(clumsy))
    assert "were not a JSON object" in trials[0].attempt.answer
    assert "no such tool" in trials[0].attempt.answer


def test_a_server_that_dies_in_a_task_is_the_attempts_fault_and_not_called_again(
    sandbox: Sandbox, tmp_path: Path
) -> None:
    dying = GOOD.replace(
        "    cents = to_cents(amount)\n    withdraw(envelope, cents)",
        "    import os\n    os._exit(3)",
    )

    def stubborn(body: dict[str, Any]) -> dict[str, Any]:
        if len(answers_of(body)) < 2 and body.get("tools"):
            return reply("", tool_calls=[call("record_purchase", ARGUMENTS)])
        return reply("I give up.")

    trials, _ = examine(sandbox, tmp_path, dying, both(stubborn))
    attempt = trials[0].attempt
    assert (attempt.fault, attempt.rating) == ("died", 1)
    assert "no longer answers" in attempt.calls[1]["actual"]


def test_a_solver_that_is_down_is_a_fault_of_the_harness(sandbox: Sandbox, tmp_path: Path) -> None:
    with pytest.raises(HarnessFault, match="status_503"):
        examine(sandbox, tmp_path, GOOD, both(lambda _: Fault("status", 503)))
    assert not list(tmp_path.glob("*.json"))


def test_an_oracle_that_does_not_launch_is_for_the_user_to_mend(
    sandbox: Sandbox, tmp_path: Path
) -> None:
    with ScriptedServer(both(solver)) as server:
        broken = agent(server, tmp_path, oracle="import nothing\n")
        with pytest.raises(UserError, match=f"oracle: {SLUG}.*does not launch"):
            broken.examine(key(TASK), Examination(GOOD, sandbox))


def test_a_task_that_the_oracle_does_not_solve_measures_the_solver() -> None:
    solved, failed = Attempt(rating=3), Attempt(rating=2)
    trials = [
        Trial("a", attempt=solved, oracle=solved, control=failed),
        Trial("b", attempt=failed, oracle=solved, control=failed),
        Trial("c", attempt=failed, oracle=failed, control=failed),
    ]
    assert success_rate(trials) == 0.5
    assert success_rate(trials[2:]) is None


def raw_tool(name: str, **rest: Json) -> dict[str, Json]:
    return {"name": name, "inputSchema": {"type": "object", "properties": {}}, **rest}


def test_odd_tools_cannot_make_an_endpoint_refuse_the_request() -> None:
    """They are left out, or offered under a name that the protocol takes."""
    bad_schema = {"type": "object", "properties": {"x": {"type": "no such type"}}}
    tools = offered(
        [
            raw_tool("fine", description="d\ud800" * 5000),
            raw_tool("with.dot"),
            raw_tool("bad") | {"inputSchema": bad_schema},
            raw_tool("nan") | {"inputSchema": {"type": "object", "default": float("nan")}},
            raw_tool("huge") | {"inputSchema": {"type": "object", "title": "t" * 10**6}},
            raw_tool("fine"),
        ]
    )
    assert list(tools) == ["fine", "tool_1", "tool_5"]
    assert tools["tool_1"].name == "with.dot"
    assert len(tools["fine"].description) < 2_100
    json.dumps([tool.model_dump() for tool in tools.values()], ensure_ascii=False).encode()


def test_a_long_attempt_is_shown_with_its_beginning_and_its_end() -> None:
    calls = [{"tool": "t", "arguments": {}, "actual": "a" * 4000} for _ in range(40)]
    shown = transcript(Attempt(answer="the end", calls=calls))
    assert shown.startswith('call 1: "t" {}')
    assert shown.endswith("last words: the end")
    assert len(shown) < 41_000


def test_the_success_rate_of_the_agent_is_the_figure_of_layer_four(
    make_benchmark: MakeBenchmark, tmp_path: Path
) -> None:
    """From the command's side: oracle from a folder of servers; a judge that fails is owed."""
    benchmark, out = make_benchmark(SLUG), tmp_path / "out"
    (benchmark.with_name("tasks.json")).write_text(json.dumps({SLUG: [{"prompt": TASK}]}))
    for folder, code in (("predictions", WRONG), ("oracle", GOOD)):
        (tmp_path / folder).mkdir()
        (tmp_path / folder / f"{SLUG}.py").write_text(code)

    def run(url: str) -> LayerScores:
        settings = Score(
            layers=("L1", "L4"),
            utility="agent",
            judge_url=url,
            judge_model="m",
            oracle=str(tmp_path / "oracle"),
            launch_attempts=1,
            workers=1,
        )
        job = ScoreJob.of_folder(benchmark, tmp_path / "predictions", out, settings)
        try:
            score_predictions(job)
        finally:
            (record,) = read_records(out / "scores.jsonl", LayerScores)
        return record

    scripts: list[Script] = [lambda _: reply("Hm.")]
    with ScriptedServer(lambda body: scripts[-1](body)) as server:
        with pytest.raises(HarnessFault, match="no_verdict"):
            run(server.url)
        (record,) = read_records(out / "scores.jsonl", LayerScores)
        assert record.figures["task_utility"].outcome is Outcome.HARNESS_FAULT
        assert record.figures["launch"].value == 1.0
        scripts.append(both(solver))
        record = run(server.url)
    assert record.figures["task_utility"].value == 0.0
    assert record.details["share_tasks_solved_by_oracle"] == 1.0


def test_an_oracle_without_a_server_for_a_task_is_refused_before_any_work(
    make_benchmark: MakeBenchmark, tmp_path: Path
) -> None:
    for folder in ("predictions", "oracle"):
        (tmp_path / folder).mkdir()
    (tmp_path / "predictions" / f"{SLUG}.py").write_text(GOOD)
    (tmp_path / "oracle" / "other.py").write_text(GOOD)
    settings = Score(
        utility="agent",
        judge_url="http://127.0.0.1:9/v1",
        judge_model="m",
        oracle=str(tmp_path / "oracle"),
    )
    job = ScoreJob.of_folder(
        make_benchmark(SLUG), tmp_path / "predictions", tmp_path / "out", settings
    )
    with pytest.raises(UserError, match=f"oracle: {SLUG}"):
        score_predictions(job)
    assert not (tmp_path / "out").exists()
