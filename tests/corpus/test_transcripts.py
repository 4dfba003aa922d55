"""Talks of a scripted coder agent, made by the generate stage, become repair samples."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from tests.corpus.conftest import HELD_OUT, TRAIN, Workbench, mini_items
from tests.generation.scripted_server import ScriptedServer, reply
from toolgenesis_sft.corpus.build import build
from toolgenesis_sft.errors import UserError
from toolgenesis_sft.generation.generate import generate
from toolgenesis_sft.prompts import parse_code, parse_trial_calls
from toolgenesis_sft.records import ChatSample, ServerPrediction
from toolgenesis_sft.runs import read_json, read_records

SLUG, FIRST_TIME, HOPELESS = TRAIN[:3]
REPAIRS_ONLY = "data.kinds={repair: 1}"


class Coder:
    """Knows the reference servers. SLUG's first two versions are broken; FIRST_TIME's is whole at
    once; HOPELESS never launches."""

    def __init__(self, bench: Workbench) -> None:
        items = mini_items()
        self.scenarios = {items[slug]["agent_input_prompt"].strip(): slug for slug in items}
        self.items = items
        self.codes = {slug: (bench.servers / f"{slug}.py").read_text() for slug in TRAIN}

    def __call__(self, body: dict[str, Any]) -> dict[str, Any]:
        messages = body["messages"]
        asked = messages[0]["content"]
        slug = next(slug for prompt, slug in self.scenarios.items() if prompt in asked)
        if "Design the tools" in asked:
            return reply(self.schema(slug), completion_tokens=10)
        turn = len(messages) // 2
        code = self.codes.get(slug, "no server")
        if slug == HOPELESS or (slug == SLUG and turn == 1):
            code = code.replace("FastMCP", "FastMPC")
        elif slug == SLUG and turn == 0:
            code = "def broken(:\n" + code
        calls = f"\n```json\n{self.calls(slug)}\n```" if turn == 0 else ""
        return reply(f"Here.\n```python\n{code}```{calls}", completion_tokens=10)

    def schema(self, slug: str) -> str:
        tools = self.items[slug]["tool_definitions"]
        return json.dumps(
            {"tools": [{"name": t["name"], "inputSchema": t["input_schema"]} for t in tools]}
        )

    def calls(self, slug: str) -> str:
        tests = self.items[slug]["unit_test"]
        return json.dumps(
            [{"tool": name, "arguments": cases[0]["arguments"]} for name, cases in tests.items()]
        )


@pytest.fixture(scope="module")
def talks(built: tuple[Workbench, Any], tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A predictions.jsonl as `generate` leaves it, about training and held-out scenarios."""
    bench, _ = built
    run = bench.run("talks")
    with ScriptedServer(Coder(bench)) as server:
        recipe = bench.recipe(
            "generate.engine=endpoint",
            f"generate.endpoint_url={server.url}",
            "generate.endpoint_model=scripted",
            "generate.strategies=[coder_agent]",
            "generate.scenarios=all",
            "generate.max_turns=3",
            "generate.compare_before_training=false",
        )
        generate(recipe, run)
    return run.predictions


def repairs(bench: Workbench) -> list[ChatSample]:
    found = read_records(bench.run().data / "train.jsonl", ChatSample)
    return [sample for sample in found if sample.kind == "repair"]


def test_a_mended_turn_becomes_a_repair_with_the_sandboxs_words(
    bench: Workbench, talks: Path
) -> None:
    build(bench.recipe(f"data.sources=[{talks}]", REPAIRS_ONLY), bench.run())
    of_the_agent = [sample for sample in repairs(bench) if "/turn_" in sample.id]
    assert len(of_the_agent) == 2
    launch, syntax = of_the_agent
    for sample, words in ((launch, "FastMPC"), (syntax, "does not compile")):
        asked, broken, report, mended = sample.messages
        assert sample.scenario == SLUG
        assert sample.last_turn_only
        assert mini_items()[SLUG]["agent_input_prompt"].strip() in asked.content
        assert words in report.content
        assert parse_trial_calls(broken.content) == parse_trial_calls(
            "```json\n" + Coder(bench).calls(SLUG) + "\n```"
        )
        code, fault = parse_code(mended.content)
        assert (code or "").strip() == (bench.servers / f"{SLUG}.py").read_text().strip()
        assert fault == ""


def test_what_teaches_no_repair_is_counted(bench: Workbench, talks: Path) -> None:
    build(bench.recipe(f"data.sources=[{talks}]", REPAIRS_ONLY), bench.run())
    drops = read_json(bench.run().data / "manifest.json")["drops"]
    assert drops["overlap: slug"] == len(HELD_OUT)
    assert drops["transcript: nothing was mended"] == 3  # two at once, and one never changed


def test_a_server_that_only_claims_to_be_mended_is_dropped(bench: Workbench, talks: Path) -> None:
    """It passed the agent's own checks; it does not pass the scenario's unit tests."""
    [talk] = [t for t in read_records(talks, ServerPrediction) if t.slug == SLUG]
    wrong = talk.model_copy(update={"completion": talk.completion.replace("round(", "1 + round(")})
    assert wrong != talk
    path = bench.root / "talks.jsonl"
    path.write_text(wrong.to_line())
    with pytest.raises(UserError, match="1 verification: ut_hard is too low"):
        build(bench.recipe(f"data.sources=[{path}]", REPAIRS_ONLY), bench.run())


def test_lines_that_are_no_transcript_are_counted_with_their_number(
    bench: Workbench, talks: Path
) -> None:
    [talk] = [t for t in read_records(talks, ServerPrediction) if t.slug == SLUG]
    path = bench.root / "talks.jsonl"
    lines = [
        talk.to_line(),
        '{"slug": "half',
        talk.model_copy(update={"slug": "elsewhere"}).to_line(),
        talk.model_copy(update={"completion": "no program"}).to_line(),
        json.dumps({**json.loads(talk.to_line()), "strategy": "dreaming"}),
    ]
    path.write_text("\n".join(line.rstrip("\n") for line in lines) + "\n")
    build(bench.recipe(f"data.sources=[{path}]", REPAIRS_ONLY), bench.run())
    report = read_json(bench.run().data / "data_report.json")
    named = {drop["reason"]: drop["examples"][0]["what"] for drop in report["drops"]}
    for reason, line in (
        ("broken JSON", 2),
        ("transcript: not of a training scenario", 3),
        ("transcript: ends without a program", 4),
        ("row is not in its layout", 5),
    ):
        assert named[reason] == f"talks: line {line}"
