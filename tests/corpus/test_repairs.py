"""Repairs: the faults of the catalogue break real servers in the real sandbox."""

from __future__ import annotations

import json
from collections import Counter

import pytest

from tests.corpus.conftest import MINI, Workbench
from toolgenesis_sft.chat_protocol import Completion
from toolgenesis_sft.config import server_python
from toolgenesis_sft.corpus.breakages import CATALOGUE
from toolgenesis_sft.generation.coder_agent import try_out
from toolgenesis_sft.prompts import agent_answer, parse_code, parse_trial_calls
from toolgenesis_sft.records import ChatSample, ToolSchema
from toolgenesis_sft.runs import read_records
from toolgenesis_sft.sandbox.session import Sandbox
from toolgenesis_sft.training.chat import spans

# Both import styles, the App convention, stateless and stateful, with few tools each.
SERVERS = ("triangle-solver", "nim-table", "bond-pricer")
CHOICES = (0, 1, 2, 5)


def completion(code: str, calls=()) -> Completion:
    return Completion(agent_answer(code, calls).content, (), "stop", 0, 0, 0.0)


@pytest.fixture(scope="module")
def trials() -> dict[str, set[str]]:
    """Reports of the sandbox by fault, over three servers; at least one try of each is made."""
    benchmark = json.loads((MINI / "benchmark.json").read_text())
    items = {item["server_slug"]: item for item in benchmark}
    reports: dict[str, set[str]] = {breakage.name: set() for breakage in CATALOGUE}
    with Sandbox(server_python(None)) as sandbox:
        for slug in SERVERS:
            code = (MINI / "servers" / f"{slug}.py").read_text()
            tools = [
                ToolSchema(name=tool["name"], input_schema=tool["input_schema"])
                for tool in items[slug]["tool_definitions"]
            ]
            text = json.dumps(
                [
                    {"tool": tool, "arguments": tests[0]["arguments"]}
                    for tool, tests in items[slug]["unit_test"].items()
                ]
            )
            calls = parse_trial_calls(f"```json\n{text}\n```")
            for breakage in CATALOGUE:
                for choice in CHOICES:
                    broken = breakage.apply(code, choice)
                    if broken is None or reports[breakage.name]:
                        continue
                    trial = try_out(sandbox, completion(broken, calls), tools, calls)
                    reports[breakage.name] |= {trial.report} if trial.report else set()
    return reports


@pytest.mark.parametrize("breakage", CATALOGUE, ids=lambda breakage: breakage.name)
def test_each_fault_of_the_catalogue_really_breaks_a_server(breakage, trials) -> None:
    assert trials[breakage.name]


def repairs(built) -> list[ChatSample]:
    path = built[1].data / "train.jsonl"
    return [sample for sample in read_records(path, ChatSample) if sample.kind == "repair"]


def test_a_repair_shows_the_sandboxs_words_and_mends_the_server(built) -> None:
    bench, _ = built
    for sample in repairs(built):
        asked, broken, report, mended = sample.messages
        assert "Answer with two fenced blocks" in asked.content
        assert "This is what happened:\n\n- " in report.content
        code, fault = parse_code(mended.content)
        assert fault == ""
        assert code is not None
        assert code.strip() == (bench.servers / f"{sample.scenario}.py").read_text().strip()
        assert parse_code(broken.content)[0] != code
        assert parse_trial_calls(broken.content)


def test_only_the_mended_server_is_supervised(built) -> None:
    """Else the model would be taught to write the fault."""
    for sample in repairs(built):
        for loss_on in ("all_turns", "last_turn"):
            supervised = [s.text for s in spans(sample, loss_on, thinking=False) if s.supervised]
            assert supervised == [sample.messages[-1].content + "<|im_end|>"]


def test_no_server_is_mended_twice_before_all_were_once(built) -> None:
    assert max(Counter(sample.scenario for sample in repairs(built)).values()) == 1


def test_schema_samples_hold_the_live_tools(bench: Workbench, built) -> None:
    samples = read_records(built[1].data / "train.jsonl", ChatSample)
    [first, *_] = [sample for sample in samples if sample.kind == "schema"]
    tools = json.loads(first.messages[-1].content)["tools"]
    items = {item["server_slug"]: item for item in json.loads(bench.benchmark.read_text())}
    gold = items[first.scenario]["tool_definitions"]
    assert [tool["name"] for tool in tools] == [tool["name"] for tool in gold]
    assert [tool["inputSchema"] for tool in tools] == [tool["input_schema"] for tool in gold]
