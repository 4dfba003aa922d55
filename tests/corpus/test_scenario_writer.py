"""Servers without a scenario, and a scripted teacher who writes one for each."""

from __future__ import annotations

import json
from typing import Any

import pytest

from tests.corpus.conftest import Workbench, start_build, wait_for
from tests.generation.scripted_server import Fault, ScriptedServer, reply
from toolgenesis_sft.config import Recipe
from toolgenesis_sft.corpus.build import build
from toolgenesis_sft.corpus.drops import Unfit
from toolgenesis_sft.corpus.scenario_writer import Written, checked_scenario
from toolgenesis_sft.errors import HarnessFault, UserError
from toolgenesis_sft.records import ChatSample, FinishReason, ToolSchema
from toolgenesis_sft.runs import read_json, read_records

SERVERS = {
    "greeter": ("say_hello", "name: str", "str", '"Hello " + name'),
    "doubler": ("double_number", "number: int", "int", "number * 2"),
    "shouter": ("shout_text", "text: str", "str", 'text.upper() + "!"'),
}


def write_servers(bench: Workbench) -> str:
    folder = bench.root / "found"
    folder.mkdir()
    for slug, (tool, argument, kind, body) in SERVERS.items():
        (folder / f"{slug}.py").write_text(
            f'from mcp.server.fastmcp import FastMCP\n\nmcp = FastMCP("{slug}")\n\n\n'
            f'@mcp.tool()\ndef {tool}({argument}) -> {kind}:\n    """What {slug} does."""\n'
            f"    return {body}\n"
        )
    return str(folder)


def recipe_of(bench: Workbench, url: str, *overrides: str) -> Recipe:
    teacher = {"url": url, "model": "scripted", "max_tokens": 500}
    return bench.recipe(
        f"data.sources=[{write_servers(bench)}]",
        f"data.teacher={json.dumps(teacher)}",
        "data.scenarios=teacher",
        "data.kinds={server: 1}",
        "generate.concurrency=1",
        *overrides,
    )


def slug_of(body: dict[str, Any]) -> str:
    return next(slug for slug in SERVERS if f'FastMCP("{slug}")' in body["messages"][0]["content"])


def text_for(slug: str) -> str:
    return f"**System Scope:** A desk where the {slug} serves people.\n\n1. It {slug}s."


def prompts(bench: Workbench) -> dict[str | None, str]:
    samples = read_records(bench.run().data / "train.jsonl", ChatSample)
    return {sample.scenario: sample.messages[0].content for sample in samples}


def test_each_server_is_asked_for_with_the_teachers_scenario(bench: Workbench) -> None:
    with ScriptedServer(lambda body: reply(text_for(slug_of(body)))) as server:
        build(recipe_of(bench, server.url), bench.run())
        assert len(server.bodies) == len(SERVERS)
    found = prompts(bench)
    assert set(found) == set(SERVERS)
    for slug, prompt in found.items():
        assert text_for(str(slug)) in prompt
    facts = read_json(bench.run().data / "data_report.json")["scenario_writer"]
    assert (facts["num_asked"], facts["num_kept"], facts["num_prompt_tokens"]) == (3, 3, 30)
    assert "Scenarios that the teacher wrote" in (bench.run().data / "data_report.html").read_text()


def test_a_scenario_that_cannot_be_a_prompt_is_a_counted_drop(bench: Workbench) -> None:
    leak = {"greeter": "Offer say_hello to everybody.", "doubler": text_for("doubler")}
    with ScriptedServer(lambda body: reply(leak.get(slug_of(body), ""))) as server:
        build(recipe_of(bench, server.url), bench.run())
    assert set(prompts(bench)) == {"doubler"}
    drops = read_json(bench.run().data / "manifest.json")["drops"]
    assert drops == {"scenario: gives away a tool's name": 1, "scenario: empty answer": 1}


def test_a_teacher_that_says_the_same_of_every_server_is_believed_once(bench: Workbench) -> None:
    with ScriptedServer(lambda body: reply("Build something useful.")) as server:
        build(recipe_of(bench, server.url), bench.run())
    assert len(prompts(bench)) == 1
    drops = read_json(bench.run().data / "manifest.json")["drops"]
    assert drops == {"scenario: the same as another server's": 2}


def test_a_kill_in_the_middle_loses_no_scenario(bench: Workbench) -> None:
    asked: list[str] = []

    def script(body: dict[str, Any]) -> dict[str, Any] | Fault:
        asked.append(slug_of(body))
        return Fault("hang") if len(asked) == 2 else reply(text_for(asked[-1]))

    with ScriptedServer(script) as server:
        recipe = recipe_of(bench, server.url)
        child = start_build(recipe, bench.run())
        wait_for(lambda: len(asked) == 2)
        child.kill()
        child.wait()
        build(recipe, bench.run())
    assert set(prompts(bench)) == set(SERVERS)
    assert len(asked) == len(SERVERS) + 1, "only the one in flight is asked for again"
    facts = read_json(bench.run().data / "data_report.json")["scenario_writer"]
    assert facts["num_prompt_tokens"] == 10 * len(SERVERS)


def test_a_teacher_that_is_down_ends_the_build_with_its_address(bench: Workbench) -> None:
    with ScriptedServer(lambda body: reply("")) as server:
        recipe = recipe_of(bench, server.url, "generate.request_timeout_s=2")
    with pytest.raises(HarnessFault, match=server.url):
        build(recipe, bench.run())
    assert not (bench.run().data / "manifest.json").exists()


def test_scenarios_of_a_teacher_need_its_section(bench: Workbench) -> None:
    with pytest.raises(UserError, match="go together"):
        bench.recipe("data.scenarios=teacher")


@pytest.mark.parametrize(
    ("text", "finish_reason", "reason"),
    [
        ("A desk for loans, and then", "length", "scenario: cut off"),
        ("<think>hm", "stop", "scenario: empty answer"),
        ("Do this:\n```python\nx\n```", "stop", "scenario: quotes code"),
        ("So:\nimport json\nand go", "stop", "scenario: quotes code"),
        ("Use get_rate for that.", "stop", "scenario: gives away a tool's name"),
        ("Use getRate for that.", "stop", "scenario: gives away a tool's name"),
    ],
)
def test_why_an_answer_is_no_scenario(text: str, finish_reason: FinishReason, reason: str) -> None:
    answer = Written(
        key="k",
        text=text,
        finish_reason=finish_reason,
        num_prompt_tokens=1,
        num_completion_tokens=1,
    )
    with pytest.raises(Unfit) as caught:
        checked_scenario(answer, [ToolSchema(name="get_rate"), ToolSchema(name="getRate")])
    assert caught.value.reason == reason


def test_words_of_every_day_are_neither_leak_nor_code() -> None:
    said = "Convert forget_rates into convert, import goods from abroad, please."
    answer = Written(
        key="k",
        text=f"<think>so</think>\n{said}",
        finish_reason="stop",
        num_prompt_tokens=1,
        num_completion_tokens=1,
    )
    tools = [ToolSchema(name="convert"), ToolSchema(name="get_rate")]
    assert checked_scenario(answer, tools) == said
