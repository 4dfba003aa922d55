"""The coder agent in the real sandbox, with a scripted coder on the other side."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.generation.conftest import PROMPTS
from tests.generation.scripted_server import Fault, ScriptedServer, reply
from tests.sandbox.ray_cluster import two_machines
from toolgenesis_sft.benchmark import load_benchmark
from toolgenesis_sft.client import ModelClient
from toolgenesis_sft.config import Generate, Score, server_python
from toolgenesis_sft.errors import HarnessFault, UserError
from toolgenesis_sft.generation.coder_agent import (
    coder_agent,
    compile_error,
    impersonal,
)
from toolgenesis_sft.generation.generate import generate
from toolgenesis_sft.generation.request import Request
from toolgenesis_sft.predictions import read_predictions
from toolgenesis_sft.prompts import CONFIDENCE_PROMPT, parse_code, parse_trial_calls
from toolgenesis_sft.records import ServerPrediction
from toolgenesis_sft.runs import RunFolder
from toolgenesis_sft.sandbox.workshop import Workshop

SCHEMA = json.dumps(
    {
        "tools": [
            {
                "name": "add",
                "description": "Add two integers.",
                "inputSchema": {
                    "type": "object",
                    "properties": {"a": {"type": "integer"}, "b": {"type": "integer"}},
                    "required": ["a", "b"],
                },
            }
        ]
    }
)
GOOD = '''
from mcp.server.fastmcp import FastMCP

mcp = FastMCP("adder")


@mcp.tool()
def add(a: int, b: int) -> int:
    """Add two integers."""
    return a + b


if __name__ == "__main__":
    mcp.run()
'''
CALLS = json.dumps(
    [
        {"tool": "add", "arguments": {"a": 2, "b": 3}, "contains": "5"},
        {"tool": "add", "arguments": {"a": "x", "b": 3}, "expects_error": True},
    ]
)
NOT_LAUNCHED = GOOD.replace("import FastMCP", "import FastMPC")
WRONG_ANSWER = GOOD.replace("a + b", "a * b")
NO_TOOL = GOOD.replace("@mcp.tool()", "")
NO_PYTHON = GOOD.replace("def add(a: int", "def add(a int")


def answer(code: str, calls: str | None = CALLS) -> str:
    blocks = f"Sure.\n```python\n{code}```\n"
    return blocks + (f"and\n```json\n{calls}\n```\n" if calls is not None else "")


class Coder:
    """Designs, and then gives the next of these answers each time it is asked in the same talk."""

    def __init__(self, *answers: str | Fault) -> None:
        self.answers = answers

    def __call__(self, body: dict[str, Any]) -> dict[str, Any] | Fault:
        messages = body["messages"]
        if "Design the tools" in messages[0]["content"]:
            return reply(SCHEMA, completion_tokens=100)
        said = self.answers[min(len(messages) // 2, len(self.answers) - 1)]
        return said if isinstance(said, Fault) else reply(said, completion_tokens=100)


@pytest.fixture(scope="module")
def workshop() -> Iterator[Workshop]:
    with Workshop(server_python(None), Score()) as workshop:
        yield workshop


@pytest.fixture
def work(workshop: Workshop, benchmark: Path):
    """work(coder, **settings) -> (the prediction, the requests that it took)."""

    def work(coder: Coder, **settings: Any) -> tuple[ServerPrediction, list[dict[str, Any]]]:
        scenario = load_benchmark(benchmark).scenarios[0]
        request = Request("scripted", "coder_agent", scenario, 0, Generate(**settings))

        async def go(url: str) -> ServerPrediction:
            async with ModelClient(url, "scripted") as client:
                return await coder_agent(client, request, workshop)

        with ScriptedServer(coder) as server:
            return asyncio.run(go(server.url)), server.bodies

    return work


def test_a_server_that_passes_its_own_checks_is_done_in_one_turn(work) -> None:
    prediction, bodies = work(Coder(answer(GOOD)))
    assert len(bodies) == 2
    assert parse_code(prediction.completion) == (GOOD, "")
    assert prediction.schema_completion == SCHEMA
    assert [turn.role for turn in prediction.turns] == ["user", "assistant"] * 2
    assert (prediction.num_completion_tokens, prediction.num_prompt_tokens) == (200, 20)


@pytest.mark.parametrize(
    ("bug", "told"),
    [
        (NOT_LAUNCHED, "cannot import name 'FastMPC'"),
        (NO_PYTHON, "the program does not compile: invalid syntax"),
        (NO_TOOL, "the tool add of your schema is not listed"),
        (WRONG_ANSWER, "answered without '5': 6"),
    ],
    ids=["import", "syntax", "no tool", "wrong answer"],
)
def test_a_bug_is_told_by_the_sandbox_and_repaired(work, bug: str, told: str) -> None:
    prediction, bodies = work(Coder(answer(bug), answer(GOOD, calls=None)))
    assert parse_code(prediction.completion) == (GOOD, "")
    assert len(bodies) == 3
    assert told in bodies[2]["messages"][-1]["content"]
    assert parse_code(prediction.turns[3].content)[0] == bug


def test_the_turn_that_got_furthest_is_the_answer_when_turns_are_spent(work) -> None:
    coder = Coder(answer(NOT_LAUNCHED), answer(WRONG_ANSWER), answer(NO_TOOL))
    prediction, bodies = work(coder, max_turns=3)
    assert len(bodies) == 4
    assert parse_code(prediction.completion) == (WRONG_ANSWER, "")
    assert prediction.num_completion_tokens == 400


@pytest.mark.parametrize(
    ("budget", "num_turns"), [({"max_agent_tokens": 250}, 2), ({"max_agent_s": 0.001}, 1)]
)
def test_no_turn_begins_when_tokens_or_seconds_are_spent(
    work, budget: dict[str, Any], num_turns: int
) -> None:
    _, bodies = work(Coder(answer(NOT_LAUNCHED)), **budget)
    assert len(bodies) == 1 + num_turns


def test_a_talk_that_outgrows_the_context_keeps_what_was_written(work) -> None:
    prediction, _ = work(
        Coder(answer(WRONG_ANSWER), Fault("status", 400, text="maximum context length exceeded"))
    )
    assert parse_code(prediction.completion) == (WRONG_ANSWER, "")


def test_an_empty_turn_is_told_and_not_sent_as_such(work) -> None:
    prediction, bodies = work(Coder("", answer(GOOD)))
    assert parse_code(prediction.completion) == (GOOD, "")
    assert "no complete Python program" in bodies[2]["messages"][-1]["content"]
    assert all(message["content"] for body in bodies for message in body["messages"])


def test_an_agent_s_confidence_is_asked_of_the_turn_that_is_its_answer(work) -> None:
    class Sure(Coder):
        def __call__(self, body: dict[str, Any]) -> dict[str, Any] | Fault:
            if body["messages"][-1]["content"] == CONFIDENCE_PROMPT:
                return reply("90%", completion_tokens=1)
            return super().__call__(body)

    coder = Sure(answer(WRONG_ANSWER), answer(NO_TOOL))
    prediction, bodies = work(coder, max_turns=2, stated_confidence=True)
    assert parse_code(prediction.completion) == (WRONG_ANSWER, "")
    assert prediction.confidence_completion == "90%"
    assert [message["content"] for message in bodies[-1]["messages"][1:]] == [
        answer(WRONG_ANSWER),
        CONFIDENCE_PROMPT,
    ]
    assert prediction.num_completion_tokens == 301
    assert CONFIDENCE_PROMPT not in {turn.content for turn in prediction.turns}


def test_an_endpoint_that_fails_in_the_middle_is_no_answer(work) -> None:
    with pytest.raises(HarnessFault, match="key_refused"):
        work(Coder(answer(NOT_LAUNCHED), Fault("status", 401)))


def test_the_stage_opens_the_sandbox_and_keeps_every_turn(make_recipe, run: RunFolder) -> None:
    with ScriptedServer(Coder(answer(NOT_LAUNCHED), answer(GOOD))) as server:
        recipe = make_recipe(
            "generate.engine=endpoint",
            f"generate.endpoint_url={server.url}",
            "generate.strategies=[coder_agent]",
        )
        generate(recipe, run)
    predictions = list(read_predictions(run.predictions))
    assert [len(prediction.turns) for prediction in predictions] == [6, 6, 6]
    assert {parse_code(prediction.completion) for prediction in predictions} == {(GOOD, "")}


@pytest.mark.slow
def test_predictions_of_agents_whose_servers_run_on_a_ray_are_those_of_one_machine(
    make_recipe, run: RunFolder, tmp_path: Path
) -> None:
    def predictions(run: RunFolder, *where: str) -> list[dict[str, Any]]:
        with ScriptedServer(Coder(answer(WRONG_ANSWER), answer(NO_TOOL), answer(GOOD))) as server:
            endpoint = ("generate.engine=endpoint", f"generate.endpoint_url={server.url}")
            generate(make_recipe(*endpoint, "generate.strategies=[coder_agent]", *where), run)
        read = sorted(read_predictions(run.predictions), key=lambda prediction: prediction.slug)
        return [prediction.model_dump(exclude={"elapsed_s"}) for prediction in read]

    with two_machines() as cluster:
        there = predictions(
            run, "score.executor=ray", f"score.ray_address={cluster.address}", "score.workers=2"
        )
    here = predictions(RunFolder(tmp_path / "here"))
    assert len(here) == len(PROMPTS)
    assert there == here


def test_a_cluster_that_is_not_there_is_said_before_a_model_is_asked(
    make_recipe, run: RunFolder
) -> None:
    with ScriptedServer(Coder(answer(GOOD))) as server:
        recipe = make_recipe(
            "generate.engine=endpoint",
            f"generate.endpoint_url={server.url}",
            "generate.strategies=[coder_agent]",
            "score.executor=ray",
            "score.ray_address=127.0.0.1:9",
        )
        with pytest.raises(UserError, match="no Ray cluster answers"):
            generate(recipe, run)
    assert server.bodies == []


def test_a_tool_that_no_call_tries_is_asked_for(work) -> None:
    _, bodies = work(Coder(answer(GOOD, calls=None), answer(GOOD)))
    assert "no call tries the tool add" in bodies[2]["messages"][-1]["content"]


def test_no_word_of_the_answer_key_reaches_any_turn(work) -> None:
    prediction, bodies = work(Coder(answer(NOT_LAUNCHED), answer(GOOD)))
    assert PROMPTS["adder"] in json.dumps(bodies)
    assert "CANARY" not in json.dumps(bodies) + prediction.to_line()


def test_trial_calls_are_read_from_the_last_list_and_noise_is_left_out() -> None:
    text = '```json\n[{"tool": "old", "arguments": {}}]\n```\n```json\n[1, {"tool": "new",'
    text += ' "arguments": {"a": 1}, "expects_error": "yes", "contains": null}, {"tool": 3}]\n```'
    [call] = parse_trial_calls(text)
    assert (call.tool, call.arguments, call.expects_error, call.contains) == (
        "new",
        {"a": 1},
        False,
        "",
    )
    assert parse_trial_calls("no block") == ()


def test_a_syntax_error_is_told_with_its_line() -> None:
    assert compile_error("x = 1\ny = = 2\n") == "invalid syntax in line 2: y = = 2"
    assert "null" in compile_error("\0")


def test_a_fault_reads_the_same_on_every_machine() -> None:
    said = (
        "cannot import name 'x' from 'mcp' (/my home/env/lib/python3.12/site-packages/mcp/a.py),"
        " <f at 0x7f12ab>, 0x10, /usr/lib/other"
    )
    assert impersonal(said, Path("/my home/env/bin/python")) == (
        "cannot import name 'x' from 'mcp' (mcp/a.py), <f at 0x...>, 0x10, /usr/lib/other"
    )
