"""Samples of the kinds that the coder agent's own talk is made of."""

from __future__ import annotations

import pytest

from tests.corpus.conftest import TRAIN, Workbench
from toolgenesis_sft.chat_protocol import Completion
from toolgenesis_sft.config import server_python
from toolgenesis_sft.corpus.build import build
from toolgenesis_sft.errors import UserError
from toolgenesis_sft.generation.coder_agent import try_out
from toolgenesis_sft.prompts import (
    parse_code,
    parse_schema,
    parse_trial_calls,
    schema_tools,
)
from toolgenesis_sft.records import ChatSample
from toolgenesis_sft.runs import read_json, read_records
from toolgenesis_sft.sandbox.session import Sandbox

# A call on the stockroom changes what the next one finds, so its unit tests' calls, each made on a
# fresh server, do not pass one after the other.
TRIED = set(TRAIN) - {"stockroom"}


ALONE = '''
from mcp.server.fastmcp import FastMCP

mcp = FastMCP("alone")


@mcp.tool()
def turn_upside_down(text: str) -> str:
    """Turn a text upside down."""
    return text[::-1]
'''


def samples(bench: Workbench) -> list[ChatSample]:
    return read_records(bench.run().data / "train.jsonl", ChatSample)


def test_an_agents_first_answer_passes_the_trial_that_the_agent_itself_would_make(
    bench: Workbench,
) -> None:
    build(bench.recipe("data.kinds={agent: 1}"), bench.run())
    agents = {sample.scenario: sample for sample in samples(bench)}
    assert set(agents) == TRIED
    with Sandbox(server_python(None)) as sandbox:
        for slug, sample in agents.items():
            question, answer = sample.messages
            tools = schema_tools(parse_schema(question.content))
            calls = parse_trial_calls(answer.content)
            assert {call.tool for call in calls} == {tool.name for tool in tools}
            completion = Completion(answer.content, (), "stop", 0, 0, 0.0)
            assert try_out(sandbox, completion, tools, calls).report == ""
            code, _ = parse_code(answer.content)
            assert code is not None
            assert code.strip() == (bench.servers / f"{slug}.py").read_text().strip()


def test_a_server_without_calls_to_try_it_is_no_answer_of_an_agent(bench: Workbench) -> None:
    folder = bench.root / "alone"
    folder.mkdir()
    (folder / "alone.py").write_text(ALONE)
    recipe = bench.recipe(f"data.sources=[benchmark, {folder}]", "data.kinds={agent: 1}")
    build(recipe, bench.run())
    assert {sample.scenario for sample in samples(bench)} == TRIED
    report = read_json(bench.run().data / "data_report.json")
    dropped = {drop["reason"]: drop["examples"][0]["what"] for drop in report["drops"]}
    assert dropped == {
        "agent: its own trial calls do not pass": "bench/stockroom",
        "agent: no example and no unit test to try it with": "alone/alone",
    }


def test_a_kind_that_no_server_can_give_is_refused_and_says_why(bench: Workbench) -> None:
    folder = bench.root / "alone"
    folder.mkdir()
    (folder / "alone.py").write_text(ALONE)
    for kind in ("agent", "repair"):
        recipe = bench.recipe(
            f"data.sources=[{folder}]", f"data.kinds={{server: 0.5, {kind}: 0.5}}"
        )
        with pytest.raises(UserError, match="no server gives a sample of this kind") as caught:
            build(recipe, bench.run())
        assert f"data.kinds = {kind}: 0.5" in str(caught.value)
        assert "1 agent: no example and no unit test to try it with" in str(caught.value)


def test_an_unknown_kind_is_refused_by_name(bench: Workbench) -> None:
    with pytest.raises(UserError, match=r"data\.kinds\.poem"):
        bench.recipe("data.kinds={poem: 1}")
