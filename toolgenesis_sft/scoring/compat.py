"""The profile `tg-compat`: one prediction through the reference harness's own definitions.

The formulas are in `tg_compat`; here they meet the sandbox. The schema is that of the model's
schema FILE, one process serves all unit tests (started again where it died), and what the gate
closes is not reached. Three things differ, each because the reference's way is not a definition:
the sandbox is on, a fault of the harness is no zero, and a figure that needs a judge or an agent
is absent where none is configured.
"""

from __future__ import annotations

import contextlib
import re
from collections import Counter
from collections.abc import Sequence
from pathlib import Path

from toolgenesis_sft.config import Score
from toolgenesis_sft.errors import HarnessFault, ModelFault, Outcome
from toolgenesis_sft.prompts import parse_prediction, schema_tools
from toolgenesis_sft.records import (
    FIGURES,
    AnswerKey,
    FigureName,
    Json,
    LayerScores,
    Scenario,
    ServerPrediction,
    UnitTest,
)
from toolgenesis_sft.runs import write_json
from toolgenesis_sft.sandbox.session import ServerSession
from toolgenesis_sft.scoring import agent, tg_compat
from toolgenesis_sft.scoring.agent import TOP_RATING, Agent
from toolgenesis_sft.scoring.examination import (
    Examination,
    Launcher,
    Sheet,
    at_fault,
    figures_for,
    harness_failed,
    scored,
    unreached,
)
from toolgenesis_sft.scoring.judge import Judge
from toolgenesis_sft.scoring.presentable import MAX_TOOL_VALUES, excerpt
from toolgenesis_sft.scoring.tg_compat import NO_ANSWER, CallScore, FileMatch

RESULTS = "results.json"
# Names of results.json. The figures of layer 4 are details here, since `task_utility` is theirs
# after the oracle.
FIGURE_METRICS: dict[str, FigureName] = {
    "compliance": "compliance",
    "server_launch_success": "launch",
    "schema_f1": "schema_f1",
    "tool_call_success_rate_soft": "ut_soft",
    "tool_call_success_rate_hard": "ut_hard",
    "capability_boundary_score": "capability_boundary",
}
DETAIL_METRICS = {
    "server_launch_attempts": "num_launch_attempts",
    "trajectory_level_validation_rate_soft": "trajectory_soft",
    "trajectory_level_validation_rate_hard": "trajectory_hard",
}


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
    seen = Examination(parsed.code or "", launcher)
    complies = tg_compat.compliance(parsed.schema)
    lists, faults = seen.launch(settings.launch_attempts) if parsed.code else ([], [parsed.fault])
    sheet.details["num_launches"] = len(lists)
    sheet.details["num_launch_attempts"] = settings.launch_attempts
    sheet.evidence["tools"] = excerpt(seen.raw_tools, MAX_TOOL_VALUES)
    closed_by = "launch" if complies else "compliance"
    sheet.figures |= dict.fromkeys(FIGURES, unreached(f"gate: {closed_by}"))
    sheet.figures["compliance"] = scored(complies)
    if lists:
        sheet.figures["launch"] = scored(tg_compat.launch(len(lists), settings.launch_attempts))
    else:
        fault = parsed.fault or Counter(faults).most_common(1)[0][0]
        sheet.figures["launch"] = at_fault(fault)
    if tg_compat.gate(complies, len(lists)):
        match = tg_compat.match_schema(key.tools, parsed.schema)
        sheet.evidence["match"] = {gold: name for name, gold in match.tools.items()}
        if "L2" in settings.layers:
            schema_and_unit_tests(seen, key, match, sheet)
        if judge is not None and "L3" in settings.layers:
            capability_boundary(seen.code, parsed.schema, key, match, judge, sheet)
        if task_agent is not None and "task_utility" in asked:
            task_utility(seen, key, task_agent, sheet)
    sheet.conclude(seen)
    return sheet.record(asked), sheet.evidence


def schema_and_unit_tests(
    seen: Examination, key: AnswerKey, match: FileMatch, sheet: Sheet
) -> None:
    """Layer 2. The tests of unmatched tools leave the denominator, as in the reference."""
    sheet.details |= {"tool_f1": match.tool_f1, "args_f1": match.args_f1}
    sheet.figures["schema_f1"] = scored(match.schema_f1)
    results = run_unit_tests(seen, key, match)
    sheet.evidence["unit_tests"] = [result for result, _ in results]
    sheet.details["num_unit_tests"] = len(results)
    scores = [score for _, score in results]
    soft, hard = tg_compat.unit_tests(scores)
    sheet.details["ut_hard_leaderboard"] = round(tg_compat.leaderboard_hard(scores), 6)
    sheet.figures |= {"ut_soft": scored(soft), "ut_hard": scored(hard)}


def run_unit_tests(
    seen: Examination, key: AnswerKey, match: FileMatch
) -> list[tuple[dict[str, Json], CallScore]]:
    """The calls of matched tools, in order, on one process; a new one where a call broke it."""
    results: list[tuple[dict[str, Json], CallScore]] = []
    with contextlib.ExitStack() as stack:
        server: ServerSession | None = None
        for test in key.unit_tests:
            call = tg_compat.planned_call(match, test.tool, test.arguments)
            if call is None:
                continue
            result: dict[str, Json] = {
                "tool": test.tool,
                "live_tool": call[0],
                "arguments": test.arguments,
                "sent": call[1],
                "expected": test.expected,
                "expects_error": test.expects_error,
                "unanswerable": test.unanswerable,
            }
            score = NO_ANSWER
            if seen.is_mute(call[0]):
                result["fault"] = "call_timeout"
            else:
                try:
                    server = server or stack.enter_context(seen.fresh_server())
                    score = run_unit_test(server, test, call, result)
                except ModelFault as fault:
                    result["fault"] = seen.note(call[0], fault)
                    stack.close()
                    server = None
            result["score"] = round(score.score, 6)
            results.append((result, score))
    return results


def run_unit_test(
    server: ServerSession,
    test: UnitTest,
    call: tuple[str, dict[str, Json]],
    result: dict[str, Json],
) -> CallScore:
    answer = server.call(*call)
    result["actual"], result["is_error"] = excerpt(answer.value), answer.is_error
    if answer.content is None:  # an error of the protocol is an exception to the reference
        return NO_ANSWER
    return tg_compat.call_score(test.expected, answer.content)


def capability_boundary(
    code: str, file_schema: Json, key: AnswerKey, match: FileMatch, judge: Judge, sheet: Sheet
) -> None:
    """Layer 3: banned texts, then the judge on each tool of the schema file, matched and extra.

    The reference's two prompts are one here, with the same eight behaviours and a fence."""
    tools = schema_tools(file_schema)
    sheet.details["boundary_banned"] = tg_compat.is_banned(code)
    if tg_compat.is_banned(code):
        sheet.figures["capability_boundary"] = scored(0.0)
        return
    try:
        verdicts = judge.verdicts(key.tools, tools, code)
    except HarnessFault as fault:
        sheet.figures["capability_boundary"] = harness_failed(str(fault))
        return
    sheet.evidence["judged"] = [verdict.evidence() for verdict in verdicts]
    # By place and not by name: a verdict shows the name as text that can be printed.
    by_match: dict[bool, list[bool]] = {True: [], False: []}
    for tool, verdict in zip(tools, verdicts, strict=True):
        by_match[tool.name in match.tools].append(verdict.within)
    figure = tg_compat.capability_boundary(code, by_match[True], by_match[False])
    sheet.figures["capability_boundary"] = scored(figure)


def task_utility(seen: Examination, key: AnswerKey, task_agent: Agent, sheet: Sheet) -> None:
    """Layer 4: ratings of the agent's work, raw and against the oracle's."""
    sheet.details["num_tasks"] = len(key.tasks)
    try:
        trials = task_agent.examine(key, seen)
    except HarnessFault as fault:
        sheet.figures["task_utility"] = harness_failed(str(fault))
        return
    sheet.evidence["tasks"] = [trial.evidence() for trial in trials]
    sheet.details |= agent.summary(trials)
    soft, hard = tg_compat.task_utility([trial.attempt.rating for trial in trials])
    sheet.details |= {"trajectory_soft": round(soft, 6), "trajectory_hard": round(hard, 6)}
    pairs = [(t.attempt.rating / TOP_RATING, t.oracle.rating / TOP_RATING) for t in trials]
    sheet.figures["task_utility"] = scored(tg_compat.oracle_normalised([pairs]))


def write_results(records: Sequence[LayerScores], folder: Path) -> None:
    """results.json as the reference harness writes it; where there are several models, strategies
    or samples, one in results/ for each, since the layout has one entry a server.

    What is not reached is 0, as there. What the harness failed to score, or was not asked to, is
    null: the reference's 0 would be a lie.
    """
    groups: dict[str, list[Json]] = {}
    for record in records:
        name = f"{record.model}.{record.strategy}.{record.sample_index}"
        groups.setdefault(name, []).append(
            {
                "server_id": None,
                "server_slug": record.slug,
                "metrics": {
                    **{name: _metric(record, figure) for name, figure in FIGURE_METRICS.items()},
                    **{name: record.details.get(key) for name, key in DETAIL_METRICS.items()},
                },
            }
        )
    if len(groups) <= 1:
        write_json(folder / RESULTS, next(iter(groups.values()), []))
        return
    for name, entries in groups.items():
        plain = re.sub(r"[^A-Za-z0-9._-]", "_", name)
        write_json(folder / "results" / f"{plain}.json", entries)


def _metric(record: LayerScores, figure: FigureName) -> float | None:
    found = record.figures.get(figure)
    if found is not None and found.outcome is Outcome.NOT_REACHED:
        return 0.0
    return found.value if found is not None else None
