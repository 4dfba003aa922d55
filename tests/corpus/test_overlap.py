"""Four signs of overlap, each alone, wherever a sample shows them; and what all servers share."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path

import pytest

from tests.corpus.conftest import HELD_OUT, MINI, TRAIN, Workbench
from toolgenesis_sft.benchmark import load_benchmark
from toolgenesis_sft.corpus.overlap import HeldOut, Traces, sample_traces
from toolgenesis_sft.corpus.shingles import NOTHING, code_shingles, text_shingles
from toolgenesis_sft.corpus.verify import gold_tool_names
from toolgenesis_sft.records import ChatSample, Message, ToolCall, ToolSchema


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


def show(bench: Workbench, kind: str) -> tuple[Message, ...]:
    code = (bench.servers / f"{HELD_OUT[0]}.py").read_text().replace("def ", "def my_")
    asked, done = Message(role="user", content="go on"), Message(role="assistant", content="done")
    fenced = f"Sure, here it is:\n```python\n{code}```\nEnjoy!"
    call = ToolCall(name="write_file", arguments={"path": "a.py", "content": code})
    return {
        "fenced answer": (asked, Message(role="assistant", content=fenced)),
        "between prose": (
            asked,
            Message(role="assistant", content=f"Sure:\n\n{code}\nThat is all of it."),
        ),
        "question": (Message(role="user", content=f"Explain:\n{code}"), done),
        "system message": (Message(role="system", content=code), asked, done),
        "argument of a call": (asked, Message(role="assistant", tool_calls=(call,))),
        "result": (asked, done, Message(role="tool", content=code), done),
        "JSON result": (
            asked,
            done,
            Message(role="tool", content=json.dumps({"text": code})),
            done,
        ),
    }[kind]


@pytest.mark.parametrize(
    "kind",
    [
        "fenced answer",
        "between prose",
        "question",
        "system message",
        "argument of a call",
        "result",
        "JSON result",
    ],
)
def test_a_renamed_server_is_recognised_wherever_a_chat_shows_it(
    kind: str, held_out: HeldOut, bench: Workbench
) -> None:
    sample = ChatSample(id="x", messages=show(bench, kind), source="chats", licence="MIT")
    assert sign(held_out, sample_traces(sample, NOTHING)) == (HELD_OUT[0], "code")


def test_a_scenario_in_a_system_message_is_recognised(held_out: HeldOut, bench: Workbench) -> None:
    messages = (
        Message(role="system", content=prompt(bench, HELD_OUT[0])),
        Message(role="user", content="Begin."),
        Message(role="assistant", content="Done."),
    )
    sample = ChatSample(id="x", messages=messages, source="chats", licence="MIT")
    assert sign(held_out, sample_traces(sample, NOTHING)) == (HELD_OUT[0], "prompt")


def test_tool_names_are_recognised_behind_a_clients_prefix_and_in_a_written_schema(
    held_out: HeldOut, bench: Workbench
) -> None:
    names = gold_tool_names(bench.benchmark)[HELD_OUT[0]]
    for prefix in ("mcp__chemistry__", "molar-mass-", "chem."):
        prefixed = frozenset(prefix + name for name in names)
        assert sign(held_out, Traces(tool_names=prefixed)) == (HELD_OUT[0], "tool names")
    answer = json.dumps([{"name": name} for name in sorted(names)])
    messages = (Message(role="user", content="?"), Message(role="assistant", content=answer))
    sample = ChatSample(id="x", messages=messages, source="chats", licence="MIT")
    assert sign(held_out, sample_traces(sample, NOTHING)) == (HELD_OUT[0], "tool names")


def test_a_slug_may_have_the_words_that_any_server_bears(held_out: HeldOut) -> None:
    assert sign(held_out, Traces(slug="molar-mass-mcp-server")) == ("molar-mass", "slug")
    assert sign(held_out, Traces(slug="mass")) is None


def test_a_prompt_with_every_sixth_word_changed_is_recognised(
    held_out: HeldOut, bench: Workbench
) -> None:
    words = prompt(bench, HELD_OUT[1]).split()
    words[5::6] = ["thing"] * len(words[5::6])
    found = sign(held_out, Traces(prompt=text_shingles([" ".join(words)])[0]))
    assert found == (HELD_OUT[1], "prompt")


def test_a_short_text_that_stands_in_a_scenario_says_nothing(
    held_out: HeldOut, bench: Workbench
) -> None:
    phrase = " ".join(prompt(bench, HELD_OUT[0]).split()[4:10])
    assert held_out.overlap(Traces(prompt=text_shingles([phrase])[0])) is None


def test_how_all_scenarios_of_a_benchmark_speak_is_no_overlap(bench: Workbench) -> None:
    """Published scenarios share their headings and their instructions, and nothing else."""
    benchmark = load_benchmark(bench.benchmark)
    head = "The service answers each request of a client with one object and nothing else. " * 2
    head += " ".join(f"rule {number} holds for every field" for number in range(60))
    alike = [
        scenario.model_copy(update={"prompt": head + f" It is about {scenario.slug}. " * 8 + own})
        for scenario, own in zip(
            benchmark.scenarios,
            (" ".join(f"w{n}x{m} of" for m in range(90)) for n in range(9)),
            strict=False,
        )
    ]
    judge = HeldOut.of(dataclasses.replace(benchmark, scenarios=tuple(alike)), {}, None)
    for scenario in alike:
        found = sign(judge, Traces(prompt=text_shingles([scenario.prompt])[0]))
        expected = (scenario.slug, "prompt") if scenario.slug in HELD_OUT else None
        assert found == expected


def test_a_registry_gives_the_held_out_code_too(bench: Workbench, tmp_path: Path) -> None:
    registry = {slug: {"env_code_path": str(bench.servers / f"{slug}.py")} for slug in HELD_OUT}
    (tmp_path / "registry.json").write_text(json.dumps(registry))
    judge = HeldOut.of(load_benchmark(bench.benchmark), {}, tmp_path / "registry.json")
    code = (bench.servers / f"{HELD_OUT[0]}.py").read_text()
    assert sign(judge, Traces(code=code_shingles(code))) == (HELD_OUT[0], "code")
