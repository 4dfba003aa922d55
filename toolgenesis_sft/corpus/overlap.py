"""What a sample shares with the scenarios that the model will be judged by.

Four signs, each enough alone: the slug (or the very prompt), the tool names, the prompt's word
runs, the program's token runs. They are compared as sets, so a copy that was renamed, reworded in
places, cut into helper functions or reformatted is still found. What many of the benchmark's
servers share says nothing. Of a chat every message counts, with the programs and tool names that
stand in its text.

What is not found: a scenario told in quite other words, a server written anew, a program that is
encoded (base64) or has lost both `FastMCP` and its `.tool` decorators; and code at all, where no
reference server is at hand.
"""

from __future__ import annotations

import ast
import contextlib
import json
import re
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from functools import lru_cache
from itertools import chain
from pathlib import Path

import numpy as np

from toolgenesis_sft.benchmark import Benchmark
from toolgenesis_sft.corpus.shingles import (
    NOTHING,
    Hashes,
    code_shingles,
    shared,
    text_shingles,
    union,
)
from toolgenesis_sft.predictions import read_predictions
from toolgenesis_sft.prompts import parse_prediction
from toolgenesis_sft.records import ChatSample, Json, Message

# Measured where all servers differ: of data/mini no two prompts share more than 6 % of the smaller
# one's own word runs (of 13 published ones 11 %). One with every sixth word changed keeps 28 %.
MIN_PROMPT_SHARE = 0.25
MIN_PROMPT_RUNS = 8  # a short text that is found in a long one says nothing
# Measured on data/mini: twelve small unrelated servers share at most 11 % of their own token runs
# with any of its 36, none of which shares more than 13 % with another, and its first tool 24 %. Of
# 360 planted copies (renamed, cut into helpers, joined with another server, every second statement
# a new one, half of the tools, one alone, other texts, no types) all keep 37 %. With 4 to 20 of its
# servers for a benchmark, 60 times by lot, 0 of 720 small ones are taken and no copy is lost; with
# 2, where nothing is known to be boilerplate, 3 of 144 are taken. (Half of all runs, boilerplate
# included, took 2 of the 12 and 65 of the 720, and lost 2 of the 360.)
MIN_CODE_SHARE = 0.35
MIN_CODE_RUNS = 24  # a decorator, a signature and a check of an argument have fewer
# A run of so many of the benchmark's prompts, or programs, is its way of speaking (published
# scenarios otherwise share up to 44 %, small programs 61 %), but not where little else would be
# left of one.
MIN_OWNERS_OF_PHRASE = 3
MIN_OWN_SHARE = 0.2
# Generic names (search, get_status) meet by chance, so two must agree and most of the server's.
MIN_TOOL_SHARE = 0.6
MIN_SHARED_TOOLS = 2

WRITTEN_NAME = re.compile(r'\\?"name\\?"\s*:\s*\\?"([\w./:-]+)')
PREFIX = re.compile(r"__|[-./:]")
FENCED = re.compile(r"```[^\n]*\n(.*?)(?:```|\Z)", re.DOTALL)
PYTHON_LINE = re.compile(r'^(?:import |from \w|@\w|def |async def |class |""")', re.MULTILINE)


@dataclass(frozen=True)
class Traces:
    """What is known of one candidate; whatever is unknown is empty and matches nothing."""

    slug: str = ""
    prompt: Hashes = field(default_factory=lambda: NOTHING)
    code: Hashes = field(default_factory=lambda: NOTHING)
    tool_names: frozenset[str] = frozenset()


@dataclass(frozen=True)
class Overlap:
    """sign: slug, prompt, tool names or code; share: of the smaller set, 0..1."""

    slug: str
    sign: str
    share: float

    def line(self) -> str:
        return f"{self.slug}: {self.sign} {self.share:.0%}"


@dataclass(frozen=True)
class HeldOutServer:
    slug: str
    slug_key: str
    tool_names: frozenset[str]
    prompt: Hashes
    code: Hashes
    is_all_boilerplate: bool = False
    """Whether its program is hardly more than what the others share, which then counts."""


class HeldOut:
    """The held-out servers, ready to be compared with. boilerplate: token runs that say nothing."""

    def __init__(self, servers: Iterable[HeldOutServer], boilerplate: Hashes = NOTHING) -> None:
        self.servers, self._boilerplate = tuple(servers), boilerplate
        # One look-up tells the rule, that nothing is shared, before any server is compared alone.
        self._prompts = union(server.prompt for server in self.servers)
        self._code = union(server.code for server in self.servers)
        self._names = frozenset[str]().union(*(server.tool_names for server in self.servers))
        self._slugs = {server.slug_key: server.slug for server in self.servers}

    @classmethod
    def of(
        cls, benchmark: Benchmark, tool_names: dict[str, frozenset[str]], servers: Path | None
    ) -> HeldOut:
        """tool_names: gold tool names by slug. servers: folder with reference <slug>.py, or a
        registry.json, if any."""
        prompts = text_shingles([scenario.prompt for scenario in benchmark.scenarios])
        codes = (
            {each.slug: parse_prediction(each).code or "" for each in read_predictions(servers)}
            if servers and servers.exists()
            else {}
        )
        programs = [
            code_shingles(codes[scenario.slug]) if codes.get(scenario.slug) else NOTHING
            for scenario in benchmark.scenarios
        ]
        phrases, boilerplate = _phrases(prompts), _phrases(programs)
        return cls(
            (
                HeldOutServer(
                    slug=scenario.slug,
                    slug_key=slug_key(scenario.slug),
                    tool_names=frozenset(map(name_key, tool_names.get(scenario.slug, ()))),
                    prompt=_own(prompt, phrases),
                    code=(own := _own(program, boilerplate)),
                    is_all_boilerplate=bool(shared(own, boilerplate).any()),
                )
                for scenario, prompt, program in zip(
                    benchmark.scenarios, prompts, programs, strict=True
                )
                if scenario.slug in benchmark.held_out
            ),
            boilerplate,
        )

    def overlap(self, traces: Traces) -> Overlap | None:
        """The first sign of overlap, in the order above; None where there is none."""
        slug = self._slugs.get(slug_key(traces.slug)) if traces.slug else None
        if slug:
            return Overlap(slug, "slug", 1.0)
        names = frozenset(chain.from_iterable(map(name_keys, traces.tool_names)))
        if len(names & self._names) >= MIN_SHARED_TOOLS:
            for server in self.servers:
                common = len(names & server.tool_names)
                if common >= max(MIN_SHARED_TOOLS, MIN_TOOL_SHARE * len(server.tool_names)):
                    return Overlap(server.slug, "tool names", common / len(server.tool_names))
        return self._of_prompts(traces.prompt) or self._of_programs(traces.code)

    def _of_prompts(self, prompt: Hashes) -> Overlap | None:
        if not shared(prompt, self._prompts).any():
            return None
        pairs = ((server.slug, prompt, server.prompt) for server in self.servers)
        return _most_shared(pairs, "prompt", MIN_PROMPT_RUNS, MIN_PROMPT_SHARE)

    def _of_programs(self, code: Hashes) -> Overlap | None:
        if not shared(code, self._code).any():
            return None
        own = code[~shared(code, self._boilerplate)]
        pairs = (
            (server.slug, code if server.is_all_boilerplate else own, server.code)
            for server in self.servers
        )
        return _most_shared(pairs, "code", MIN_CODE_RUNS, MIN_CODE_SHARE)


def _most_shared(
    pairs: Iterable[tuple[str, Hashes, Hashes]], sign: str, min_runs: int, min_share: float
) -> Overlap | None:
    """Of (held-out slug, what a candidate has, what the server has) the pair that shares most."""
    best = Overlap("", sign, 0.0)
    for slug, mine, theirs in pairs:
        smaller, larger = sorted((mine, theirs), key=len)
        num_common = int(shared(smaller, larger).sum())
        if num_common >= max(1, min(min_runs, len(theirs))):
            best = max(best, Overlap(slug, sign, num_common / len(smaller)), key=_share)
    return best if best.share >= min_share else None


def sample_traces(sample: ChatSample, text: Hashes) -> Traces:
    """What a chat sample shows: its text, the tools that it declares or writes of, its programs.

    text: of all messages but the system's, which is often the same for a whole data set.
    """
    names = {tool.name for tool in sample.tools}
    programs: list[Hashes] = []
    for message in sample.messages:
        if '"name' in message.content:
            names.update(WRITTEN_NAME.findall(message.content))
        if message.tool_calls or _may_show_a_server(message.content):
            programs += map(code_shingles, programs_in(message))
    first = sample.messages[0]
    system = _system_shingles(first.content) if first.role == "system" else NOTHING
    return Traces(
        prompt=union([text, system]) if len(system) else text,
        code=union(programs),
        tool_names=frozenset(names),
    )


def programs_in(message: Message) -> Iterator[str]:
    """The servers that a message shows: in fences, between prose, inside of JSON, or as an argument
    of a call."""
    for text in _texts(message):
        if _may_show_a_server(text):
            yield from FENCED.findall(text) or [_without_prose(text)]


def _may_show_a_server(text: str) -> bool:
    return "FastMCP" in text or ".tool" in text


def _texts(message: Message) -> Iterator[str]:
    yield message.content
    if message.content[:1] in ("{", "[") and _may_show_a_server(message.content):
        with contextlib.suppress(ValueError, RecursionError):
            yield from _strings_in(json.loads(message.content))
    for call in message.tool_calls:
        yield from _strings_in(call.arguments)


def _strings_in(value: Json) -> Iterator[str]:
    if isinstance(value, str):
        yield value
    elif isinstance(value, dict | list):
        for inner in value.values() if isinstance(value, dict) else value:
            yield from _strings_in(inner)


def _without_prose(text: str) -> str:
    """From the first line that looks like Python's to the last that is; all of it where too little
    of it would be left."""
    first = PYTHON_LINE.search(text)
    lines = text[first.start() if first else 0 :].splitlines()
    while len(lines) > 1:
        try:
            ast.parse("\n".join(lines))
        except SyntaxError as error:
            lines = lines[: min(len(lines), error.lineno or 0) - 1]
        except (ValueError, RecursionError, MemoryError):
            break
        else:
            return "\n".join(lines)
    return text


@lru_cache(maxsize=64)
def _system_shingles(text: str) -> Hashes:
    return text_shingles([text])[0]


def _phrases(sets: Sequence[Hashes]) -> Hashes:
    """The runs that many of the benchmark's prompts, or programs, have."""
    runs, counts = np.unique(np.concatenate([NOTHING, *sets]), return_counts=True)
    return runs[counts >= MIN_OWNERS_OF_PHRASE]


def _own(runs: Hashes, phrases: Hashes) -> Hashes:
    """Of a prompt's or a program's runs those that are not everybody's."""
    own = runs[~shared(runs, phrases)]
    return own if len(own) >= MIN_OWN_SHARE * len(runs) else runs


def _share(overlap: Overlap) -> float:
    return overlap.share


def slug_key(slug: str) -> str:
    """A slug in any spelling, with or without the words that any server may bear."""
    words = re.findall(r"[a-z0-9]+", slug.lower())
    return "".join([word for word in words if word not in ("mcp", "server")] or words)


def name_key(name: str) -> str:
    return re.sub(r"[^a-z0-9]", "", name.lower())


def name_keys(name: str) -> list[str]:
    """A tool's name, and without what clients put before it: `mcp__files__read`, `files-read`."""
    return [name_key(name), *(name_key(name[cut.end() :]) for cut in PREFIX.finditer(name))]
