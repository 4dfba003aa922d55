"""One prediction under examination: its server, started afresh as often as a profile asks, and
the sheet that its figures are written on. The profiles `strict` and `compat` build on this.
"""

from __future__ import annotations

import contextlib
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Protocol, TypeAlias

from toolgenesis_sft.config import Score
from toolgenesis_sft.errors import ModelFault, Outcome
from toolgenesis_sft.prompts import ParsedServer
from toolgenesis_sft.records import (
    FIGURES,
    AnswerKey,
    FigureName,
    FigureScore,
    Json,
    LayerScores,
    ServerPrediction,
    ToolSchema,
)
from toolgenesis_sft.sandbox.session import ServerSession

LAYER_FIGURES: dict[str, tuple[FigureName, ...]] = {
    "L1": ("compliance", "launch"),
    "L2": ("schema_f1", "ut_soft", "ut_hard"),
    "L3": ("capability_boundary",),
    "L4": ("task_utility",),
}
# A tool that has let this many calls run into their deadline is not waited for again: a server
# that never answers would otherwise cost its 110 tests times 30 s.
MAX_TIMEOUTS_PER_TOOL = 2
MAX_STALLED_STARTS = 5  # nor is a server started again that so often gave no sign of life

Details: TypeAlias = dict[str, float | int | str | bool | None]


class Launcher(Protocol):
    def start(self, code: str) -> ServerSession: ...


def figures_for(key: AnswerKey, settings: Score) -> tuple[FigureName, ...]:
    """The figures that are asked for and that the benchmark and the settings have means for.

    The others are absent from a record, also from one whose server has no program: a figure that
    only broken servers have would be a mean over broken servers.
    """
    with_agent = settings.utility == "agent"
    compat = settings.profile == "tg-compat"
    means: dict[str, bool] = {
        "ut_soft": bool(key.unit_tests),
        "ut_hard": bool(key.unit_tests),
        "capability_boundary": not compat or settings.judge_url is not None,
        "task_utility": bool(key.tasks)
        if with_agent
        else not compat and any(task.plan and task.outcome for task in key.tasks),
    }
    return tuple(
        figure
        for layer in settings.layers
        for figure in LAYER_FIGURES[layer]
        if means.get(figure, True)
    )


@dataclass
class Examination:
    """What became known of one server while its layers were scored.

    timeouts: by tool, the calls that ran into their deadline. protocol_faults: the first of each
    process, num_protocol_faults: all. num_stalled_starts: those without a tool list in time.
    """

    code: str
    launcher: Launcher
    tools: tuple[ToolSchema, ...] = ()
    raw_tools: list[dict[str, Json]] = field(default_factory=list)
    protocol_faults: list[str] = field(default_factory=list)
    num_protocol_faults: int = 0
    num_stalled_starts: int = 0
    denied: set[str] = field(default_factory=set)
    timeouts: Counter[str] = field(default_factory=Counter)
    stderr: str = ""

    @contextlib.contextmanager
    def fresh_server(self) -> Iterator[ServerSession]:
        """A new process of the server, after tools/list, with what it attempted noted down."""
        if self.num_stalled_starts >= MAX_STALLED_STARTS:
            raise ModelFault("initialize_timeout", f"{self.num_stalled_starts} starts ran into it")
        with self._counting_stalls():
            server = self.launcher.start(self.code)
        try:
            with server:
                with self._counting_stalls():
                    server.list_tools()
                yield server
        finally:
            self.protocol_faults.extend(server.protocol_faults)
            self.num_protocol_faults += server.num_protocol_faults
            self.denied.update(server.denied)
            self.stderr = server.stderr_tail or self.stderr

    @contextlib.contextmanager
    def _counting_stalls(self) -> Iterator[None]:
        try:
            yield
        except ModelFault as fault:
            self.num_stalled_starts += fault.kind in ("initialize_timeout", "list_timeout")
            raise

    def is_mute(self, tool: str) -> bool:
        return self.timeouts[tool] >= MAX_TIMEOUTS_PER_TOOL

    def note(self, tool: str, fault: ModelFault) -> str:
        """Count a fault of a call, and give its kind."""
        self.timeouts[tool] += fault.kind == "call_timeout"
        return fault.kind

    def launch(self, num_attempts: int) -> tuple[list[list[dict[str, Json]]], list[str]]:
        """Start the server so often: the tool list of each start that has one, and the kinds of
        the faults of the others. `tools` and `raw_tools` are those of the first."""
        lists: list[list[dict[str, Json]]] = []
        faults: list[str] = []
        for _ in range(num_attempts):
            try:
                with self.fresh_server() as server:
                    raw = list(server.raw_tools)
            except ModelFault as fault:
                faults.append(fault.kind)
                self.stderr = self.stderr or fault.detail
                continue
            if not raw:
                faults.append("no_tools")
                continue
            if not lists:
                self.raw_tools, self.tools = raw, tuple(map(as_schema, raw))
            lists.append(raw)
        return lists, faults


def as_schema(raw: dict[str, Json]) -> ToolSchema:
    """A tool of a valid tools/list."""
    return ToolSchema(
        name=raw["name"],
        description=raw.get("description") or "",
        input_schema=raw["inputSchema"],
    )


@dataclass
class Sheet:
    """What becomes a record and its evidence."""

    prediction: ServerPrediction
    figures: dict[FigureName, FigureScore] = field(default_factory=dict)
    details: Details = field(default_factory=dict)
    evidence: dict[str, Json] = field(default_factory=dict)

    @classmethod
    def begun(cls, prediction: ServerPrediction, parsed: ParsedServer, key: AnswerKey) -> Sheet:
        return cls(
            prediction,
            evidence={
                "slug": prediction.slug,
                "model": prediction.model,
                "strategy": prediction.strategy,
                "sample_index": prediction.sample_index,
                "code": parsed.code,
                "fault": parsed.fault,
                "gold_tools": [tool.model_dump() for tool in key.tools],
            },
        )

    def conclude(self, seen: Examination) -> None:
        """Write down what was noticed on the side."""
        self.details["num_protocol_faults"] = seen.num_protocol_faults
        self.evidence["protocol_faults"] = seen.protocol_faults[:50]
        self.evidence["observed"] = sorted(seen.denied)
        self.evidence["stderr"] = seen.stderr

    def record(self, asked: tuple[FigureName, ...]) -> LayerScores:
        return LayerScores(
            slug=self.prediction.slug,
            model=self.prediction.model,
            strategy=self.prediction.strategy,
            sample_index=self.prediction.sample_index,
            figures={name: self.figures[name] for name in asked if name in self.figures},
            details=dict(sorted(self.details.items())),
        )


def scored(value: float) -> FigureScore:
    return FigureScore(value=round(value, 6), outcome=Outcome.SCORED)


def at_fault(reason: str) -> FigureScore:
    return FigureScore(value=0.0, outcome=Outcome.MODEL_FAULT, reason=reason)


def unreached(reason: str) -> FigureScore:
    return FigureScore(outcome=Outcome.NOT_REACHED, reason=reason)


def harness_failed(reason: str) -> FigureScore:
    return FigureScore(outcome=Outcome.HARNESS_FAULT, reason=reason[:300])


def all_at_fault(reason: str) -> dict[FigureName, FigureScore]:
    """Where there is no program at all, every figure is the model's zero."""
    return {figure: at_fault(reason) for figure in FIGURES}
