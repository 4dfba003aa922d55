"""The profile `strict`: four layers of one prediction, from its live server.

Nothing here decides who is at fault: a ModelFault of the sandbox ends a layer, a HarnessFault
leaves this module and is retried by `score.py`. Only a fault of an endpoint (judge, solver) stays
with the column that it belongs to, so that it cannot hold up figures that need no model.
"""

from __future__ import annotations

import contextlib
import math
from collections import Counter

from toolgenesis_sft.config import Score
from toolgenesis_sft.errors import HarnessFault, ModelFault
from toolgenesis_sft.prompts import parse_prediction
from toolgenesis_sft.records import (
    FIGURES,
    AnswerKey,
    Json,
    LayerScores,
    Scenario,
    ServerPrediction,
    UnitTest,
)
from toolgenesis_sft.sandbox.session import ServerSession
from toolgenesis_sft.scoring import agent, boundary, compliance, schema, unit_tests, utility
from toolgenesis_sft.scoring.agent import Agent
from toolgenesis_sft.scoring.examination import (
    Examination,
    Launcher,
    Sheet,
    all_at_fault,
    at_fault,
    figures_for,
    harness_failed,
    scored,
    unreached,
)
from toolgenesis_sft.scoring.judge import Judge
from toolgenesis_sft.scoring.presentable import MAX_TOOL_VALUES, excerpt
from toolgenesis_sft.scoring.schema import SchemaMatch


def score_server(
    prediction: ServerPrediction,
    scenario: Scenario,
    key: AnswerKey,
    launcher: Launcher,
    settings: Score,
    judge: Judge | None = None,
    task_agent: Agent | None = None,
) -> tuple[LayerScores, dict[str, Json]]:
    """Figures and evidence of one prediction. Raises HarnessFault where the harness failed."""
    parsed = parse_prediction(prediction)
    asked = figures_for(key, settings)
    sheet = Sheet.begun(prediction, parsed, key)
    if parsed.code is None:
        sheet.figures |= all_at_fault(parsed.fault)
        return sheet.record(asked), sheet.evidence

    seen = Examination(parsed.code, launcher)
    compliance_and_launch(seen, parsed.fault, settings, sheet)
    if seen.tools:
        match = schema.match_schema(key.tools, seen.tools)
        sheet.evidence["match"], sheet.evidence["arguments"] = match.tools, match.arguments
        if "L2" in settings.layers:
            schema_and_unit_tests(seen, scenario, key, match, sheet)
        if "task_utility" in asked:
            task_utility(seen, key, match, task_agent, sheet)
        if "L3" in settings.layers:  # last: what was attempted in any layer is observed
            capability_boundary(seen, key, judge, sheet)
        drift = compliance.schema_drift(parsed.schema, seen.tools)
        if drift is not None:
            sheet.details["schema_drift"] = drift
    sheet.conclude(seen)
    return sheet.record(asked), sheet.evidence


def compliance_and_launch(
    seen: Examination, parse_fault: str, settings: Score, sheet: Sheet
) -> None:
    """Layer 1. Each start that lists a tool is a success."""
    lists, faults = seen.launch(settings.launch_attempts)
    sheet.details["num_launches"] = len(lists)
    sheet.details["num_launch_attempts"] = settings.launch_attempts
    sheet.evidence["tools"] = excerpt(seen.raw_tools, MAX_TOOL_VALUES)
    if not lists:
        kind = parse_fault or Counter(faults).most_common(1)[0][0]
        sheet.figures |= dict.fromkeys(FIGURES, unreached(f"launch: {kind}"))
        sheet.figures["launch"] = at_fault(kind)
        return
    checked = compliance.check_tools(seen.raw_tools)
    stable = all(raw == lists[0] for raw in lists)
    sheet.evidence["compliance_faults"] = [
        *checked.faults,
        *([] if stable else ["the tool list changes from start to start"]),
    ]
    sheet.figures["compliance"] = scored(checked.value if stable else 0.0)
    sheet.figures["launch"] = scored(len(lists) / settings.launch_attempts)


def schema_and_unit_tests(
    seen: Examination, scenario: Scenario, key: AnswerKey, match: SchemaMatch, sheet: Sheet
) -> None:
    """Layer 2."""
    sheet.details |= {"tool_f1": match.tool_f1, "args_f1": match.args_f1}
    sheet.figures["schema_f1"] = scored(match.f1)
    results = run_unit_tests(seen, scenario.server_class == "stateful", key, match)
    sheet.evidence["unit_tests"] = results
    sheet.details["num_unit_tests"] = len(results)
    sheet.details["num_unanswerable"] = sum(bool(result["unanswerable"]) for result in results)
    if not results:
        return
    soft, hard = unit_tests.soft_and_hard([result["score"] for result in results])
    answerable = [result["score"] for result in results if not result["unanswerable"]]
    if answerable:
        figure_soft, figure_hard = unit_tests.soft_and_hard(answerable)
        sheet.details |= {"ut_soft_answerable": figure_soft, "ut_hard_answerable": figure_hard}
    sheet.figures |= {"ut_soft": scored(soft), "ut_hard": scored(hard)}


def run_unit_tests(
    seen: Examination, stateful: bool, key: AnswerKey, match: SchemaMatch
) -> list[dict[str, Json]]:
    """Every test of the answer key, in its order; what cannot be run scores 0 and says why.

    Each test of a stateful server gets a process of its own. A stateless one keeps its process
    until a call breaks it, so state that leaks from call to call shows.
    """
    results: list[dict[str, Json]] = []
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
            elif seen.is_mute(live):
                result["fault"] = "call_timeout"
            else:
                try:
                    if stateful:
                        with seen.fresh_server() as fresh:
                            run_unit_test(fresh, test, live, match, result)
                    else:
                        server = server or stack.enter_context(seen.fresh_server())
                        run_unit_test(server, test, live, match, result)
                except ModelFault as fault:
                    result["fault"] = seen.note(live, fault)
                    stack.close()
                    server = None
    return results


def run_unit_test(
    server: ServerSession, test: UnitTest, live: str, match: SchemaMatch, result: dict[str, Json]
) -> None:
    assert test.arguments is not None
    renamed = unit_tests.rename_arguments(test.arguments, match.arguments.get(test.tool, {}))
    result["sent"] = renamed
    answer = server.call(live, renamed)
    result["actual"], result["is_error"] = excerpt(answer.value), answer.is_error
    result["score"] = round(unit_tests.judge_answer(test, answer), 6)


def capability_boundary(
    seen: Examination, key: AnswerKey, judge: Judge | None, sheet: Sheet
) -> None:
    """Layer 3, three columns: what the code can do, what the sandbox saw it attempt, what a judge
    says. The figure is the lower of the first two; the judge's column stands beside it."""
    allowed = boundary.authorised(key)
    observed = boundary.boundary_score(boundary.observed_kinds(sorted(seen.denied)), allowed)
    sheet.evidence["authorised"] = sorted(allowed)
    sheet.details["boundary_observed"] = observed
    try:
        findings = boundary.findings(seen.code)
    except ModelFault as fault:  # Python runs it, and its syntax tree is beyond reading
        sheet.figures["capability_boundary"] = at_fault(fault.kind)
    else:
        sheet.evidence["capabilities"] = [
            {
                "kind": found.kind,
                "line": found.line,
                "what": found.what,
                "authorised": found.kind in allowed,
            }
            for found in findings
        ]
        static = boundary.boundary_score({found.kind for found in findings}, allowed)
        sheet.details["boundary_static"] = static
        sheet.figures["capability_boundary"] = scored(min(static, observed))
    if judge is None:
        return
    try:
        verdicts = judge.verdicts(key.tools, seen.tools, seen.code)
    except HarnessFault as fault:
        sheet.details["boundary_judged_fault"] = str(fault)[:300]
        return
    sheet.evidence["judged"] = [verdict.evidence() for verdict in verdicts]
    sheet.details["boundary_judged"] = round(
        sum(verdict.within for verdict in verdicts) / len(verdicts), 6
    )


def task_utility(
    seen: Examination, key: AnswerKey, match: SchemaMatch, task_agent: Agent | None, sheet: Sheet
) -> None:
    """Layer 4 by one of two proxies: the reference plans replayed, or an agent with a judge."""
    sheet.details["num_tasks"] = len(key.tasks)
    if task_agent is not None:
        try:
            trials = task_agent.examine(key, seen)
        except HarnessFault as fault:
            sheet.figures["task_utility"] = harness_failed(str(fault))
            return
        sheet.evidence["tasks"] = [trial.evidence() for trial in trials]
        sheet.details |= agent.summary(trials)
        rate = agent.success_rate(trials)
        if rate is not None:
            sheet.figures["task_utility"] = scored(rate)
        return
    planned = [task for task in key.tasks if task.plan and task.outcome]
    sheet.details["num_tasks_with_plan"] = len(planned)
    results = []
    for task in planned:
        try:
            results.append(utility.replay(task, match, seen))
        except ModelFault as fault:  # it launched before and does not now
            results.append(utility.TaskResult(task.prompt, fault=fault.kind))
    sheet.evidence["tasks"] = [result.evidence() for result in results]
    sheet.details["share_tasks_solved"] = round(sum(r.solved for r in results) / len(results), 6)
    sheet.figures["task_utility"] = scored(math.fsum(r.score for r in results) / len(results))
