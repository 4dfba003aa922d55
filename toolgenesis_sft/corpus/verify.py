"""Is a server what its sample claims? It is run: launch, list, its unit tests or its examples.

The verdict is kept by content: the same server, tests, runtime and rules are never run twice,
except where the server was too slow.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future
from dataclasses import dataclass
from operator import attrgetter
from pathlib import Path
from typing import Generic, TypeVar

from toolgenesis_sft.benchmark import load_answer_keys
from toolgenesis_sft.config import Score
from toolgenesis_sft.corpus.pairs import Pair
from toolgenesis_sft.errors import ModelFault, Outcome
from toolgenesis_sft.progress import Progress
from toolgenesis_sft.prompts import TrialCall
from toolgenesis_sft.records import AnswerKey, Json, Record, ServerPrediction, ToolSchema
from toolgenesis_sft.runs import append_record, fingerprint, mend_torn_line, read_records
from toolgenesis_sft.sandbox.session import Sandbox
from toolgenesis_sft.sandbox.workshop import Workshop
from toolgenesis_sft.scoring.compliance import check_tools
from toolgenesis_sft.scoring.strict import score_server
from toolgenesis_sft.scoring.unit_tests import same

SETTINGS = Score(layers=("L1", "L2"), launch_attempts=1)
RULES_VERSION = 2  # a new one verifies everything again


class Finding(Record):
    """What the sandbox found out. `key`: digest of all that it depends on."""

    key: str


class Verification(Finding):
    """`reason` is empty where the server holds what it claims; `tools` are the live ones.
    ut_hard: over the tests that any server can pass; None where there are none."""

    reason: str = ""
    detail: str = ""
    schema_f1: float | None = None
    ut_hard: float | None = None
    tools: tuple[ToolSchema, ...] = ()


@dataclass(frozen=True)
class Thresholds:
    """A server that claims to answer a scenario of the benchmark must reach these."""

    schema_f1: float = 0.0
    ut_hard: float = 1.0


def gold_tool_names(benchmark: Path) -> dict[str, frozenset[str]]:
    """Tool names of every server of the benchmark, to find samples that show a held-out one."""
    return {
        slug: frozenset(tool.name for tool in key.tools)
        for slug, key in load_answer_keys(benchmark).items()
    }


F = TypeVar("F", bound=Finding)


class Memory(Generic[F]):
    """What the sandbox found out about servers, by content, in a file.

    said: of a finding the fault that it names; a server that was too slow is not remembered.
    """

    def __init__(self, path: Path, kind: type[F], said: Callable[[F], str]) -> None:
        self.path, self.said = path, said
        mend_torn_line(path)
        self.known = {finding.key: finding for finding in read_records(path, kind)}

    def findings(self, keys: Sequence[str], start: Callable[[int], Future[F]]) -> Iterator[F]:
        """One for each key, in their order. start(index) has the unknown ones found out."""
        missing = {key: index for index, key in enumerate(keys) if key not in self.known}
        started = {key: start(index) for key, index in missing.items()}
        try:
            for key in keys:
                finding = self.known.get(key) or started[key].result()
                if key not in self.known and "_timeout" not in self.said(finding):
                    append_record(self.path, finding)
                    self.known[key] = finding
                yield finding
        finally:
            for future in started.values():
                future.cancel()


class Verifier:
    """Has servers run in the workshop, and remembers what came out."""

    def __init__(self, benchmark: Path, workshop: Workshop, runtime: str, memory: Path) -> None:
        self.keys = load_answer_keys(benchmark)
        self.workshop, self.runtime = workshop, runtime
        self.memory = Memory(memory, Verification, attrgetter("reason"))

    def verify(
        self, pairs: Sequence[Pair], thresholds: Callable[[Pair], Thresholds]
    ) -> Iterator[Verification]:
        """A verdict for each pair, in their order. Raises HarnessFault where the sandbox fails."""
        keys = [self.content(pair, thresholds(pair)) for pair in pairs]

        def start(index: int) -> Future[Verification]:
            pair = pairs[index]
            gold = self.keys[pair.slug] if pair.in_benchmark else None
            return self.workshop.submit(run_server, pair, keys[index], gold, thresholds(pair))

        with Progress("build", len(pairs), "servers") as progress:
            for verdict in self.memory.findings(keys, start):
                progress.done("dropped" if verdict.reason else "verified")
                yield verdict

    def trial_calls(self, pair: Pair) -> tuple[TrialCall, ...]:
        """Calls that a coder agent could make to try a training server: of each tool the first
        that it should answer and the first that it should refuse; else the pair's examples. Those
        that a coder agent did make go first: they fit the names that its server chose."""
        if pair.calls:
            return pair.calls
        if not pair.in_benchmark:
            return tuple(TrialCall(example.tool, example.arguments) for example in pair.examples)
        calls: dict[tuple[str, bool], TrialCall] = {}
        for test in self.keys[pair.slug].unit_tests:
            if test.arguments is not None and not test.unanswerable:
                call = TrialCall(test.tool, test.arguments, test.expects_error)
                calls.setdefault((test.tool, test.expects_error), call)
        return tuple(calls.values())

    def content(self, pair: Pair, thresholds: Thresholds) -> str:
        """What a verdict depends on, as one digest."""
        gold = self.keys.get(pair.slug) if pair.in_benchmark else None
        return fingerprint(
            [
                pair.code,
                pair.server_class,
                [example.model_dump(mode="json") for example in pair.examples],
                gold and gold.model_dump(mode="json"),
                [thresholds.schema_f1, thresholds.ut_hard],
                self.runtime,
                RULES_VERSION,
            ]
        )


def run_server(
    sandbox: Sandbox, pair: Pair, key: str, gold: AnswerKey | None, thresholds: Thresholds
) -> Verification:
    """What a worker is sent: its unit tests where the benchmark has some, else its examples."""
    if gold is None:
        return _run_examples(sandbox, pair, key)
    return _run_unit_tests(sandbox, pair, key, gold, thresholds)


def _run_unit_tests(
    sandbox: Sandbox, pair: Pair, key: str, gold: AnswerKey, thresholds: Thresholds
) -> Verification:
    prediction = ServerPrediction(
        slug=pair.slug,
        model=pair.source,
        strategy="imported",
        completion=pair.code,
        finish_reason="stop",
    )
    scores, evidence = score_server(prediction, pair.scenario(), gold, sandbox, SETTINGS)
    launch = scores.figures["launch"]
    if launch.outcome is not Outcome.SCORED:
        detail = " ".join(str(evidence.get("stderr") or "").split())[-200:]
        return Verification(
            key=key, reason=f"verification: does not launch ({launch.reason})", detail=detail
        )
    figures = {
        "schema_f1": scores.figures["schema_f1"].value,
        "ut_hard": scores.details.get("ut_hard_answerable"),
    }
    failed = [
        name
        for name, value in figures.items()
        if value is not None and value < getattr(thresholds, name)
    ]
    too_slow = any(result.get("fault") == "call_timeout" for result in evidence["unit_tests"])
    return Verification(
        key=key,
        reason=f"verification: {failed[0]} is too low{' (call_timeout)' * too_slow}"
        if failed
        else "",
        detail=f"{failed[0]} {figures[failed[0]]:.2f}" if failed else "",
        tools=_live_tools(evidence["tools"]),
        **figures,
    )


def _run_examples(sandbox: Sandbox, pair: Pair, key: str) -> Verification:
    """Launch, list, compliance, and each example on a fresh server."""
    try:
        with sandbox.start(pair.code) as server:
            tools = server.list_tools()
            compliance = check_tools(server.raw_tools)
        if not tools:
            return Verification(key=key, reason="verification: lists no tool")
        if compliance.faults:
            return Verification(
                key=key, reason="verification: not compliant", detail=compliance.faults[0]
            )
        for example in pair.examples:
            with sandbox.start(pair.code) as server:
                server.list_tools()
                answer = server.call(example.tool, example.arguments)
            wrong = example.answer is not None and not same(example.answer, answer.value)
            if answer.is_error or wrong:
                return Verification(
                    key=key,
                    reason="verification: fails its own example",
                    detail=f"{example.tool}: {answer.text}",
                )
    except ModelFault as fault:
        return Verification(
            key=key, reason=f"verification: does not launch ({fault.kind})", detail=fault.detail
        )
    return Verification(key=key, tools=tools)


def _live_tools(raw_tools: Json) -> tuple[ToolSchema, ...]:
    return tuple(
        ToolSchema(
            name=tool["name"],
            description=tool.get("description") or "",
            input_schema=tool["inputSchema"],
        )
        for tool in raw_tools
    )
