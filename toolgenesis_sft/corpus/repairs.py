"""Broken servers with the sandbox's own words about them: the questions of repair samples.

A breakage counts only if the trial that the coder agent makes passes with the working server and
finds a fault in the broken one.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

from toolgenesis_sft.chat_protocol import Completion
from toolgenesis_sft.corpus.breakages import CATALOGUE
from toolgenesis_sft.corpus.drops import Drops
from toolgenesis_sft.corpus.pairs import Pair
from toolgenesis_sft.corpus.servers import Server
from toolgenesis_sft.corpus.splits import rank
from toolgenesis_sft.corpus.verify import timed_out
from toolgenesis_sft.generation.coder_agent import try_out
from toolgenesis_sft.progress import Progress
from toolgenesis_sft.prompts import TrialCall, agent_answer, schema_text
from toolgenesis_sft.records import Record
from toolgenesis_sft.runs import append_record, fingerprint, mend_torn_line, read_records
from toolgenesis_sft.sandbox.session import Sandbox

MAX_REPAIRS_PER_SERVER = 6  # more teach the same program over and over
RULES_VERSION = 2


class Tried(Record):
    """What a trial said; an empty report is a pass."""

    key: str
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
    """Breaks servers and tries them, several at once, and remembers what came out.

    calls_for: trial calls that a pair's working server should pass.
    """

    def __init__(
        self,
        sandbox: Sandbox,
        runtime: str,
        memory: Path,
        calls_for: Callable[[Pair], tuple[TrialCall, ...]],
        workers: int,
        drops: Drops,
    ) -> None:
        self.sandbox, self.runtime, self.memory = sandbox, runtime, memory
        self.calls_for, self.workers, self.drops = calls_for, workers, drops
        mend_torn_line(memory)
        self.known = {tried.key: tried for tried in read_records(memory, Tried)}

    def find(self, servers: Sequence[Server], wanted: int, seed: int) -> list[Repair]:
        """Up to `wanted` repairs, spread evenly: no server gets a second before all had one."""
        calls = {server.pair.id: self.calls_for(server.pair) for server in servers}
        whole = list(self._try_all([(s, s.pair.code, calls[s.pair.id]) for s in servers]))
        fit: list[Server] = []
        for server, tried in zip(servers, whole, strict=True):
            if tried.report or not calls[server.pair.id]:
                detail = tried.report or "no example and no unit test"
                self.drops.add("repair: its own trial calls do not pass", server.pair.id, detail)
            else:
                fit.append(server)
        found: list[Repair] = []
        num_of: dict[str, int] = {}
        queues = {server.pair.id: _breakages(server, seed) for server in fit}
        while len(found) < wanted:
            batch = [
                (server, breakage, broken)
                for server in fit
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

        def one(job: tuple[Server, str, tuple[TrialCall, ...]]) -> Tried:
            server, code, calls = job
            answer = agent_answer(code, calls).content
            tools = schema_text(server.tools)
            key = fingerprint([answer, tools, self.runtime, RULES_VERSION])
            known = self.known.get(key)
            if known:
                return known
            completion = Completion(answer, (), "stop", 0, 0, 0.0)
            return Tried(
                key=key, report=try_out(self.sandbox, completion, server.tools, calls).report
            )

        with (
            ThreadPoolExecutor(self.workers) as pool,
            Progress("build", len(jobs), "trials") as progress,
        ):
            for tried in pool.map(one, jobs):
                if tried.key not in self.known and not timed_out(tried.report):
                    append_record(self.memory, tried)
                    self.known[tried.key] = tried
                progress.done("faults found" if tried.report else "passed")
                yield tried


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
