"""The profile `strict`: four layers of one prediction, from its live server.

Nothing here decides who is at fault: a ModelFault of the sandbox ends a layer, a HarnessFault
leaves this module and is retried by `score.py`.
"""

from __future__ import annotations

import contextlib
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Protocol

from toolgenesis_sft.config import Score
from toolgenesis_sft.errors import ModelFault, Outcome
from toolgenesis_sft.prompts import parse_prediction
from toolgenesis_sft.records import (
    FIGURES,
    AnswerKey,
    FigureName,
    FigureScore,
    Json,
    LayerScores,
    Scenario,
    ServerPrediction,
    ToolSchema,
    UnitTest,
)
from toolgenesis_sft.sandbox.session import ServerSession
from toolgenesis_sft.scoring import boundary, compliance, schema, unit_tests, utility
from toolgenesis_sft.scoring.schema import SchemaMatch

LAYER_FIGURES: dict[str, tuple[FigureName, ...]] = {
    "L1": ("compliance", "launch"),
    "L2": ("schema_f1", "ut_soft", "ut_hard"),
    "L3": ("capability_boundary",),
    "L4": ("task_utility",),
}
# A tool that has let this many calls run into their deadline is not waited for again: a server
# that never answers would otherwise cost its 110 tests times 30 s.
MAX_TIMEOUTS_PER_TOOL = 2


class Launcher(Protocol):
    def start(self, code: str) -> ServerSession: ...


@dataclass
class Examination:
    """What became known of one server while its layers were scored."""

    code: str
    launcher: Launcher
    tools: tuple[ToolSchema, ...] = ()
    raw_tools: list[Json] = field(default_factory=list)
    protocol_faults: list[str] = field(default_factory=list)
    denied: set[str] = field(default_factory=set)
    stderr: str = ""

    @contextlib.contextmanager
    def fresh_server(self) -> Iterator[ServerSession]:
        """A new process of the server, after tools/list, with what it attempted noted down."""
        with self.launcher.start(self.code) as server:
            try:
                server.list_tools()
                yield server
            finally:
                self.protocol_faults.extend(server.protocol_faults)
                self.denied.update(server.denied)
                self.stderr = server.stderr_tail or self.stderr


def score_server(
    prediction: ServerPrediction,
    scenario: Scenario,
    key: AnswerKey,
    launcher: Launcher,
    settings: Score,
) -> tuple[LayerScores, dict[str, Json]]:
    """Figures and evidence of one prediction. Raises HarnessFault where the harness failed."""
    parsed = parse_prediction(prediction)
    asked = [figure for layer in settings.layers for figure in LAYER_FIGURES[layer]]
    figures: dict[FigureName, FigureScore] = {}
    details: dict[str, float | int | str | bool | None] = {}
    evidence: dict[str, Json] = {
        "slug": prediction.slug,
        "model": prediction.model,
        "strategy": prediction.strategy,
        "sample_index": prediction.sample_index,
        "code": parsed.code,
        "fault": parsed.fault,
        "gold_tools": [tool.model_dump() for tool in key.tools],
    }
    if parsed.code is None:
        figures = all_at_fault(parsed.fault)
        return _scores(prediction, asked, figures, details), evidence

    seen = Examination(parsed.code, launcher)
    figures |= _compliance_and_launch(seen, parsed.fault, settings, details, evidence)
    if seen.tools:
        live = SchemaMatch.empty() if not key.tools else schema.match_schema(key.tools, seen.tools)
        evidence["match"], evidence["arguments"] = live.tools, live.arguments
        if "L2" in settings.layers:
            figures |= _schema_and_unit_tests(seen, scenario, key, live, details, evidence)
        if "L3" in settings.layers:
            figures |= _boundary(seen, key, details, evidence)
        if "L4" in settings.layers:
            figures |= _utility(seen, key, live, details, evidence)
        drift = compliance.schema_drift(parsed.schema, seen.tools)
        if drift is not None:
            details["schema_drift"] = drift
    details["num_protocol_faults"] = len(seen.protocol_faults)
    evidence["protocol_faults"] = seen.protocol_faults[:50]
    evidence["observed"] = sorted(seen.denied)
    evidence["stderr"] = seen.stderr
    return _scores(prediction, asked, figures, details), evidence


def all_at_fault(reason: str) -> dict[FigureName, FigureScore]:
    """Where there is no program at all, every figure is the model's zero."""
    return {
        figure: FigureScore(value=0.0, outcome=Outcome.MODEL_FAULT, reason=reason)
        for figure in FIGURES
    }


def _scores(
    prediction: ServerPrediction,
    asked: list[FigureName],
    figures: dict[FigureName, FigureScore],
    details: dict[str, float | int | str | bool | None],
) -> LayerScores:
    return LayerScores(
        slug=prediction.slug,
        model=prediction.model,
        strategy=prediction.strategy,
        sample_index=prediction.sample_index,
        figures={name: figures[name] for name in asked if name in figures},
        details=dict(sorted(details.items())),
    )


def _scored(value: float) -> FigureScore:
    return FigureScore(value=round(value, 6), outcome=Outcome.SCORED)


def _compliance_and_launch(
    seen: Examination,
    parse_fault: str,
    settings: Score,
    details: dict[str, float | int | str | bool | None],
    evidence: dict[str, Json],
) -> dict[FigureName, FigureScore]:
    """Start the server `launch_attempts` times; each start that lists a tool is a success."""
    faults: list[str] = []
    lists: list[list[Json]] = []
    for _ in range(settings.launch_attempts):
        try:
            with seen.fresh_server() as server:
                tools, raw = server.list_tools(), list(server.raw_tools)
        except ModelFault as fault:
            faults.append(fault.kind)
            seen.stderr = seen.stderr or fault.detail
            continue
        if not tools:
            faults.append("no_tools")
            continue
        if not seen.tools:
            seen.tools, seen.raw_tools = tools, raw
        lists.append(raw)
    details["num_launches"] = len(lists)
    details["num_launch_attempts"] = settings.launch_attempts
    evidence["tools"] = seen.raw_tools
    if not lists:
        kind = parse_fault or Counter(faults).most_common(1)[0][0]
        launch = FigureScore(value=0.0, outcome=Outcome.MODEL_FAULT, reason=kind)
        rest = FigureScore(outcome=Outcome.NOT_REACHED, reason=f"launch: {kind}")
        return {figure: launch if figure == "launch" else rest for figure in FIGURES}
    checked = compliance.check_tools(seen.raw_tools)
    stable = all(raw == lists[0] for raw in lists)
    evidence["compliance_faults"] = [
        *checked.faults,
        *([] if stable else ["the tool list changes from start to start"]),
    ]
    return {
        "compliance": _scored(checked.value if stable else 0.0),
        "launch": _scored(len(lists) / settings.launch_attempts),
    }


def _schema_and_unit_tests(
    seen: Examination,
    scenario: Scenario,
    key: AnswerKey,
    match: SchemaMatch,
    details: dict[str, float | int | str | bool | None],
    evidence: dict[str, Json],
) -> dict[FigureName, FigureScore]:
    details |= {"tool_f1": match.tool_f1, "args_f1": match.args_f1}
    figures: dict[FigureName, FigureScore] = {"schema_f1": _scored(match.f1)}
    results = run_unit_tests(seen, scenario.server_class == "stateful", key, match)
    evidence["unit_tests"] = results
    details["num_unit_tests"] = len(results)
    details["num_unanswerable"] = sum(bool(result["unanswerable"]) for result in results)
    if not results:
        return figures
    soft, hard = unit_tests.soft_and_hard([result["score"] for result in results])
    answerable = [result["score"] for result in results if not result["unanswerable"]]
    if answerable:
        figure_soft, figure_hard = unit_tests.soft_and_hard(answerable)
        details |= {"ut_soft_answerable": figure_soft, "ut_hard_answerable": figure_hard}
    return figures | {"ut_soft": _scored(soft), "ut_hard": _scored(hard)}


def run_unit_tests(
    seen: Examination, stateful: bool, key: AnswerKey, match: SchemaMatch
) -> list[dict[str, Json]]:
    """Every test of the answer key, in its order; what cannot be run scores 0 and says why.

    Each test of a stateful server gets a process of its own. A stateless one keeps its process
    until a call breaks it, so state that leaks from call to call shows.
    """
    results: list[dict[str, Json]] = []
    timeouts: Counter[str] = Counter()
    with contextlib.ExitStack() as stack:
        server: ServerSession | None = None
        for test in key.unit_tests:
            live = match.tools.get(test.tool)
            result: dict[str, Json] = {
                "tool": test.tool,
                "live_tool": live,
                "arguments": test.arguments,
                "expected": test.expected,
                "expects_error": test.expects_error,
                "unanswerable": test.unanswerable,
                "score": 0.0,
            }
            results.append(result)
            if live is None:
                result["fault"] = "no_tool"
            elif test.arguments is None:
                result["fault"] = "broken_arguments_in_benchmark"
            elif timeouts[live] >= MAX_TIMEOUTS_PER_TOOL:
                result["fault"] = "call_timeout"
            else:
                try:
                    if stateful:
                        with seen.fresh_server() as fresh:
                            _run_test(fresh, test, live, match, result)
                    else:
                        server = server or stack.enter_context(seen.fresh_server())
                        _run_test(server, test, live, match, result)
                except ModelFault as fault:
                    result["fault"] = fault.kind
                    timeouts[live] += fault.kind == "call_timeout"
                    stack.close()
                    server = None
    return results


def _run_test(
    server: ServerSession, test: UnitTest, live: str, match: SchemaMatch, result: dict[str, Json]
) -> None:
    assert test.arguments is not None
    renamed = unit_tests.rename_arguments(test.arguments, match.arguments.get(test.tool, {}))
    answer = server.call(live, renamed)
    result["sent"] = renamed
    result["actual"], result["is_error"] = answer.value, answer.is_error
    result["score"] = round(
        unit_tests.judge_answer(test, answer.value, answer.text, answer.is_error), 6
    )


def _boundary(
    seen: Examination,
    key: AnswerKey,
    details: dict[str, float | int | str | bool | None],
    evidence: dict[str, Json],
) -> dict[FigureName, FigureScore]:
    """Three columns: what the code can do, what the sandbox saw it attempt, what a judge says."""
    allowed = boundary.authorised(key)
    findings = boundary.findings(seen.code)
    observed = boundary.observed_kinds(sorted(seen.denied))
    evidence["capabilities"] = [
        {
            "kind": found.kind,
            "line": found.line,
            "what": found.what,
            "authorised": found.kind in allowed,
        }
        for found in findings
    ]
    evidence["authorised"] = sorted(allowed)
    details["boundary_static"] = boundary.boundary_score({f.kind for f in findings}, allowed)
    details["boundary_observed"] = boundary.boundary_score(observed, allowed)
    return {
        "capability_boundary": _scored(
            min(details["boundary_static"], details["boundary_observed"])
        )
    }


def _utility(
    seen: Examination,
    key: AnswerKey,
    match: SchemaMatch,
    details: dict[str, float | int | str | bool | None],
    evidence: dict[str, Json],
) -> dict[FigureName, FigureScore]:
    planned = [task for task in key.tasks if task.plan and task.outcome]
    details["num_tasks"] = len(key.tasks)
    details["num_tasks_with_plan"] = len(planned)
    if not planned:
        return {}
    results = []
    for task in planned:
        try:
            results.append(utility.replay(task, match, seen.fresh_server))
        except ModelFault as fault:  # it launched before and does not now
            results.append(utility.TaskResult(task.prompt, fault=fault.kind))
    evidence["tasks"] = [
        {
            "prompt": result.prompt,
            "score": result.score,
            "solved": result.solved,
            "fault": result.fault,
            "calls": result.calls,
            "checks": result.checks,
        }
        for result in results
    ]
    details["share_tasks_solved"] = round(sum(r.solved for r in results) / len(results), 6)
    return {"task_utility": _scored(sum(r.score for r in results) / len(results))}
