"""What a sample shares with the scenarios that the model will be judged by.

Four signs, each enough alone: the slug (or the very prompt), the tool names, the prompt's word
runs, the program's token runs. They are compared as sets, so a copy that was renamed, reworded in
places or reformatted is still found.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import dataclass, field
from pathlib import Path

from toolgenesis_sft.benchmark import Benchmark
from toolgenesis_sft.corpus.shingles import (
    NOTHING,
    Hashes,
    code_shingles,
    contained,
    shared,
    text_shingles,
    union,
)
from toolgenesis_sft.records import ChatSample, Scenario

# Measured on data/mini, where all servers differ: no two prompts share more than 15 % of the
# smaller one's word runs, no two programs more than 18 %; a renamed, reformatted copy shares 100 %.
MIN_PROMPT_SHARE = 0.5
MIN_CODE_SHARE = 0.5
# Generic names (search, get_status) meet by chance, so two must agree and most of the server's.
MIN_TOOL_SHARE = 0.6
MIN_SHARED_TOOLS = 2


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


class HeldOut:
    """The held-out servers, ready to be compared with."""

    def __init__(self, servers: Iterable[HeldOutServer]) -> None:
        self.servers = tuple(servers)
        # One look-up tells the rule, that nothing is shared, before any server is compared alone.
        self._prompts = union(server.prompt for server in self.servers)
        self._code = union(server.code for server in self.servers)
        self._names = frozenset[str]().union(*(server.tool_names for server in self.servers))
        self._slugs = {server.slug_key: server.slug for server in self.servers}

    @classmethod
    def of(
        cls, benchmark: Benchmark, tool_names: dict[str, frozenset[str]], servers: Path | None
    ) -> HeldOut:
        """tool_names: gold tool names by slug. servers: folder with reference <slug>.py, if any."""
        by_slug = {scenario.slug: scenario for scenario in benchmark.scenarios}
        return cls(
            _held_out_server(by_slug[slug], tool_names.get(slug, frozenset()), servers)
            for slug in benchmark.held_out
        )

    def overlap(self, traces: Traces) -> Overlap | None:
        """The first sign of overlap, in the order above; None where there is none."""
        slug = self._slugs.get(slug_key(traces.slug)) if traces.slug else None
        if slug:
            return Overlap(slug, "slug", 1.0)
        names = frozenset(map(name_key, traces.tool_names))
        if len(names & self._names) >= MIN_SHARED_TOOLS:
            for server in self.servers:
                common = len(names & server.tool_names)
                if common >= max(MIN_SHARED_TOOLS, MIN_TOOL_SHARE * len(server.tool_names)):
                    return Overlap(server.slug, "tool names", common / len(server.tool_names))
        return self._most_shared(traces.prompt, "prompt", MIN_PROMPT_SHARE) or self._most_shared(
            traces.code, "code", MIN_CODE_SHARE
        )

    def _most_shared(self, hashes: Hashes, sign: str, least: float) -> Overlap | None:
        if not len(hashes):
            return None
        known = self._prompts if sign == "prompt" else self._code
        num_common = int(shared(hashes, known).sum())
        if not num_common:
            return None
        best = Overlap("", sign, 0.0)
        for server in self.servers:
            theirs = server.prompt if sign == "prompt" else server.code
            if len(theirs) and num_common >= least * min(len(hashes), len(theirs)):
                share = contained(hashes, theirs)
                if share > best.share:
                    best = Overlap(server.slug, sign, share)
        return best if best.share >= least else None


def sample_traces(sample: ChatSample, text: Hashes) -> Traces:
    """What a chat sample shows: its text, the tools it declares, the program it answers with."""
    answers = [message.content for message in sample.messages if message.role == "assistant"]
    code = next((answer for answer in reversed(answers) if "FastMCP" in answer), "")
    return Traces(
        prompt=text,
        code=code_shingles(code) if code else NOTHING,
        tool_names=frozenset(tool.name for tool in sample.tools),
    )


def slug_key(slug: str) -> str:
    return re.sub(r"[^a-z0-9]", "", slug.lower())


name_key = slug_key


def _held_out_server(
    scenario: Scenario, tool_names: frozenset[str], servers: Path | None
) -> HeldOutServer:
    path = servers / f"{scenario.slug}.py" if servers else None
    code = path.read_text(encoding="utf-8") if path and path.exists() else ""
    return HeldOutServer(
        slug=scenario.slug,
        slug_key=slug_key(scenario.slug),
        tool_names=frozenset(map(name_key, tool_names)),
        prompt=text_shingles([scenario.prompt])[0],
        code=code_shingles(code) if code else NOTHING,
    )
