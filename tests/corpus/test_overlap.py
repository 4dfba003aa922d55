"""Four signs of overlap, each alone; and what shares only what all servers share."""

from __future__ import annotations

import pytest

from tests.corpus.conftest import HELD_OUT, MINI, TRAIN, Workbench
from toolgenesis_sft.benchmark import load_benchmark
from toolgenesis_sft.corpus.overlap import HeldOut, Traces, sample_traces
from toolgenesis_sft.corpus.shingles import code_shingles, text_shingles
from toolgenesis_sft.corpus.verify import gold_tool_names
from toolgenesis_sft.records import ChatSample, Message, ToolSchema


@pytest.fixture
def held_out(bench: Workbench) -> HeldOut:
    benchmark = load_benchmark(bench.benchmark)
    return HeldOut.of(benchmark, gold_tool_names(bench.benchmark), bench.servers)


def prompt(bench: Workbench, slug: str) -> str:
    scenarios = load_benchmark(bench.benchmark).scenarios
    return next(scenario.prompt for scenario in scenarios if scenario.slug == slug)


def sign(held_out: HeldOut, traces: Traces) -> tuple[str, str] | None:
    found = held_out.overlap(traces)
    return (found.slug, found.sign) if found else None


def test_the_slug_is_recognised_in_any_spelling(held_out: HeldOut) -> None:
    for spelling in ("molar-mass", "Molar_Mass", "molarmass"):
        assert sign(held_out, Traces(slug=spelling)) == ("molar-mass", "slug")


def test_most_of_the_tool_names_are_enough_and_one_is_not(
    held_out: HeldOut, bench: Workbench
) -> None:
    names = sorted(gold_tool_names(bench.benchmark)[HELD_OUT[0]])
    assert sign(held_out, Traces(tool_names=frozenset({*names, "search"}))) == (
        HELD_OUT[0],
        "tool names",
    )
    assert sign(held_out, Traces(tool_names=frozenset({names[0], "search"}))) is None


def test_a_reworded_prompt_is_recognised(held_out: HeldOut, bench: Workbench) -> None:
    text = prompt(bench, HELD_OUT[0])
    reworded = "Please build this for me, quickly! " + text.replace("system", "service")
    found = sign(held_out, Traces(prompt=text_shingles([reworded])[0]))
    assert found == (HELD_OUT[0], "prompt")


def test_a_program_is_recognised_inside_a_larger_one(held_out: HeldOut, bench: Workbench) -> None:
    code = (bench.servers / f"{HELD_OUT[0]}.py").read_text()
    other = (MINI / "servers" / "sales-pivot.py").read_text()
    both = code.replace("def ", "def my_") + "\n" + other
    assert sign(held_out, Traces(code=code_shingles(both))) == (HELD_OUT[0], "code")


def test_training_servers_do_not_overlap(held_out: HeldOut, bench: Workbench) -> None:
    names = gold_tool_names(bench.benchmark)
    for slug in TRAIN:
        traces = Traces(
            slug=slug,
            prompt=text_shingles([prompt(bench, slug)])[0],
            code=code_shingles((bench.servers / f"{slug}.py").read_text()),
            tool_names=names[slug],
        )
        assert held_out.overlap(traces) is None, slug


def test_a_chat_that_quotes_a_held_out_scenario_is_recognised(
    held_out: HeldOut, bench: Workbench
) -> None:
    text = prompt(bench, HELD_OUT[1])
    sample = ChatSample(
        id="x",
        messages=(
            Message(role="user", content=text),
            Message(role="assistant", content="Here you are."),
        ),
        tools=(ToolSchema(name="search"),),
        source="chats",
        licence="MIT",
    )
    assert sign(held_out, sample_traces(sample, text_shingles([text])[0])) == (
        HELD_OUT[1],
        "prompt",
    )
