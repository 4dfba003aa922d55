"""Broken servers with the sandbox's own words about them: the questions of repair samples.

A breakage counts only if the trial that the coder agent makes passes with the working server and
finds a fault in the broken one.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future
from dataclasses import dataclass
from operator import attrgetter
from pathlib import Path

from toolgenesis_sft.chat_protocol import Completion
from toolgenesis_sft.corpus.breakages import CATALOGUE
from toolgenesis_sft.corpus.drops import Drops
from toolgenesis_sft.corpus.pairs import Pair
from toolgenesis_sft.corpus.servers import Server
from toolgenesis_sft.corpus.splits import rank
from toolgenesis_sft.corpus.verify import Finding, Memory
from toolgenesis_sft.generation.coder_agent import try_out
from toolgenesis_sft.progress import Progress
from toolgenesis_sft.prompts import TrialCall, agent_answer, schema_text
from toolgenesis_sft.records import ToolSchema
from toolgenesis_sft.runs import fingerprint
from toolgenesis_sft.sandbox.session import Sandbox
from toolgenesis_sft.sandbox.workshop import Workshop

MAX_REPAIRS_PER_SERVER = 6  # more teach the same program over and over
RULES_VERSION = 2


class Tried(Finding):
    """What a trial said; an empty report is a pass."""

    report: str


@dataclass(frozen=True)
class Repair:
    """server: the working one. report: what the sandbox said about `broken`."""

    server: Server
    breakage: str
    broken: str
    report: str
    calls: tuple[TrialCall, ...]


class Repairer:
    """Breaks servers, has them tried in the workshop, and remembers what came out.

    calls_for: trial calls that a pair's working server should pass.
    """

    def __init__(
        self,
        workshop: Workshop,
        runtime: str,
        memory: Path,
        calls_for: Callable[[Pair], tuple[TrialCall, ...]],
        drops: Drops,
    ) -> None:
        self.workshop, self.runtime = workshop, runtime
        self.calls_for, self.drops = calls_for, drops
        self.memory = Memory(memory, Tried, attrgetter("report"))

    def passing(self, servers: Sequence[Server]) -> list[Server]:
        """Those that pass their own trial calls, and have some; the others are counted."""
        jobs: list[tuple[Server, str, tuple[TrialCall, ...]]] = []
        for server in servers:
            if calls := self.calls_for(server.pair):
                jobs.append((server, server.pair.code, calls))
            else:
                reason = "agent: no example and no unit test to try it with"
                self.drops.add(reason, server.pair.id)
        passing: list[Server] = []
        for (server, _, _), tried in zip(jobs, self._try_all(jobs), strict=True):
            if tried.report:
                reason = "agent: its own trial calls do not pass"
                self.drops.add(reason, server.pair.id, tried.report)
            else:
                passing.append(server)
        return passing

    def find(self, passing: Sequence[Server], wanted: int, seed: int) -> list[Repair]:
        """Up to `wanted` repairs, spread evenly: no server gets a second before all had one.
        passing: servers that pass their own trial calls."""
        calls = {server.pair.id: self.calls_for(server.pair) for server in passing}
        found: list[Repair] = []
        num_of: dict[str, int] = {}
        queues = {server.pair.id: _breakages(server, seed) for server in passing}
        while len(found) < wanted:
            batch = [
                (server, breakage, broken)
                for server in passing
                if num_of.get(server.pair.id, 0) < MAX_REPAIRS_PER_SERVER
                and (fault := next(queues[server.pair.id], None))
                for breakage, broken in (fault,)
            ][: wanted - len(found)]
            if not batch:
                break
            trials = self._try_all([(s, broken, calls[s.pair.id]) for s, _, broken in batch])
            for (server, breakage, broken), tried in zip(batch, trials, strict=True):
                pair_id = server.pair.id
                if not tried.report:
                    self.drops.add("repair: the fault breaks nothing", pair_id, breakage)
                    continue
                num_of[pair_id] = num_of.get(pair_id, 0) + 1
                found.append(Repair(server, breakage, broken, tried.report, calls[pair_id]))
        return found

    def _try_all(
        self, jobs: Sequence[tuple[Server, str, tuple[TrialCall, ...]]]
    ) -> Iterator[Tried]:
        """A trial of each program, in their order. Raises HarnessFault where the sandbox fails."""
        answers = [agent_answer(code, calls).content for _, code, calls in jobs]
        keys = [
            fingerprint([answer, schema_text(server.tools), self.runtime, RULES_VERSION])
            for (server, _, _), answer in zip(jobs, answers, strict=True)
        ]

        def start(index: int) -> Future[Tried]:
            server, _, calls = jobs[index]
            return self.workshop.submit(
                try_server, keys[index], answers[index], server.tools, calls
            )

        with Progress("build", len(jobs), "trials") as progress:
            for tried in self.memory.findings(keys, start):
                progress.done("faults found" if tried.report else "passed")
                yield tried


def try_server(
    sandbox: Sandbox,
    key: str,
    answer: str,
    tools: Sequence[ToolSchema],
    calls: Sequence[TrialCall],
) -> Tried:
    """What a worker is sent: the trial that a coder agent's answer gets."""
    completion = Completion(answer, (), "stop", 0, 0, 0.0)
    return Tried(key=key, report=try_out(sandbox, completion, tools, calls).report)


def _breakages(server: Server, seed: int) -> Iterator[tuple[str, str]]:
    """(name, broken program) of the faults that a server's own author made, then of those of the
    catalogue that apply, by digest, so that servers get different ones first."""
    for number, version in enumerate(server.pair.faults, start=1):
        yield f"turn_{number}_from_the_end", version
    code = server.pair.code.strip() + "\n"
    places = {b.name: rank(seed, f"{server.pair.id}:{b.name}") for b in CATALOGUE}
    for breakage in sorted(CATALOGUE, key=lambda b: places[b.name]):
        broken = breakage.apply(code, int(places[breakage.name][:8], 16))
        if broken is not None and broken != code:
            yield breakage.name, broken
