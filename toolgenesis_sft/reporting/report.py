"""The report stage: count what was scored, write report.json and report.html, print the table."""

from __future__ import annotations

import shutil
import textwrap
from collections import Counter, defaultdict
from pathlib import Path

import numpy as np
from pydantic import ValidationError

from toolgenesis_sft.config import Recipe, Report
from toolgenesis_sft.errors import Outcome, UserError
from toolgenesis_sft.records import (
    FIGURES,
    FigureName,
    FigureScore,
    FigureSummary,
    GroupSummary,
    RunReport,
)
from toolgenesis_sft.reporting import breakdown, contrasts, curves, evidence, page, samples, stats
from toolgenesis_sft.reporting.analysis import Analysis
from toolgenesis_sft.reporting.published import PublishedRow, published_rows
from toolgenesis_sft.reporting.study import (
    OWED,
    Contestant,
    ScenarioSet,
    Study,
    study_folder,
    study_run,
)
from toolgenesis_sft.reporting.values import Values, mean_over, server_values
from toolgenesis_sft.runs import RunFolder, add_provenance, read_json, sha256_file, write_json
from toolgenesis_sft.tracking import track_report

SHORT: dict[FigureName, str] = {
    "compliance": "compliance",
    "launch": "launch",
    "schema_f1": "schema F1",
    "ut_soft": "UT soft",
    "ut_hard": "UT hard",
    "capability_boundary": "boundary",
    "task_utility": "tasks",
}
SHORTEST: dict[FigureName, str] = {
    "compliance": "compl",
    "launch": "launch",
    "schema_f1": "F1",
    "ut_soft": "UTsoft",
    "ut_hard": "UThard",
    "capability_boundary": "bound",
    "task_utility": "tasks",
}
NAME_CHARS = 26
WIDE_COLUMNS = NAME_CHARS + 4 + 12 * len(FIGURES)


def report_run(recipe: Recipe, run: RunFolder) -> RunReport:
    """Write report.json and report.html of a run. Raises UserError before generate and score."""
    report = _write(study_run(recipe, run), recipe.report)
    track_report(recipe, run, report)
    return report


def report_folder(benchmark: Path, out: Path, settings: Report) -> RunReport:
    """The same for a `score --out` folder, with the whole benchmark as the denominator."""
    return _write(study_folder(benchmark, out), settings)


def summarise_run(recipe: Recipe, run: RunFolder) -> RunReport:
    """The report of a run, without writing anything."""
    return summarise(study_run(recipe, run), recipe.report)


def _write(study: Study, settings: Report) -> RunReport:
    with study.folder.locked("report"):
        add_provenance(
            study.folder,
            "report",
            {"benchmark_digest": study.benchmark.digest, "profile": study.profile},
        )
        report = summarise(study, settings)
        report = report.model_copy(update={"provenance": read_json(study.folder.provenance)})
        page.write(study, report, Analysis.model_validate(report.extra))
        write_json(study.folder.report_json, report.model_dump(mode="json"))
    return report


def summarise(study: Study, settings: Report) -> RunReport:
    """Count: the one way from scores to figures."""
    values = server_values(study)
    groups = tuple(
        _group(study, values, contestant, scenarios, settings.bootstrap_resamples)
        for contestant in study.contestants
        for scenarios in study.sets
    )
    faults = harness_faults(study)
    resamples = settings.bootstrap_resamples
    rows, note = published_rows(settings)
    analysis = Analysis(
        figures=study.figures,
        sets=study.sets,
        trained_on=tuple(slug for slug in study.sets["all"] if slug in study.trained_on),
        num_samples={str(c): n for c, n in study.num_samples.items()},
        not_applicable=_not_applicable(study),
        scores_digest=sha256_file(study.folder.scores),
        notes=(*notes(study, groups), *note),
        published=rows,
        funnels=tuple(breakdown.funnels(study, values)),
        slices=tuple(breakdown.slices(study, values)),
        faults=tuple(breakdown.taxonomy(study, evidence.unit_test_faults(study))),
        before_and_after=tuple(contrasts.before_and_after(study, values, resamples)),
        strategy_gaps=tuple(contrasts.strategy_gaps(study, values, resamples)),
        passes_at_k=tuple(samples.passes_at_k(study)),
        alignments=tuple(samples.alignments(study)),
        side_figures=tuple(breakdown.side_figures(study)),
        loss=curves.loss_curve(study, settings),
        servers={str(contestant): figures for contestant, figures in values.items()},
    )
    return RunReport(
        name=study.name,
        benchmark=study.benchmark.path.name,
        benchmark_digest=study.benchmark.digest,
        profile=study.profile,
        provenance=study.provenance,
        groups=groups,
        harness_faults=tuple(faults),
        headline_blocked=bool(faults),
        extra=analysis.model_dump(mode="json"),
    )


def _group(
    study: Study,
    values: Values,
    contestant: Contestant,
    scenarios: ScenarioSet,
    resamples: int,
) -> GroupSummary:
    slugs = study.sets[scenarios]
    return GroupSummary(
        model=contestant.model,
        strategy=contestant.strategy,
        scenarios=scenarios,
        memorisation=study.memorised(contestant, scenarios),
        num_servers=len(slugs),
        missing_slugs=study.missing(contestant, slugs),
        figures={
            figure: _summary(study, counted, contestant, figure, slugs, resamples)
            for figure, counted in values[contestant].items()
            if any(slug in counted for slug in slugs)
        },
    )


def _summary(
    study: Study,
    values: dict[str, float | None],
    contestant: Contestant,
    figure: FigureName,
    slugs: tuple[str, ...],
    resamples: int,
) -> FigureSummary:
    inside = [slug for slug in slugs if slug in values]
    scores = {slug: study.figure(contestant, slug, figure) for slug in inside}
    reached = [mean for samples in scores.values() if (mean := _mean_scored(samples)) is not None]
    known = [values[slug] for slug in inside if values[slug] is not None]
    complete = len(known) == len(inside)
    return FigureSummary(
        mean_all=mean_over(values, inside),
        mean_reached=stats.mean(reached),
        n=len(inside),
        ci95=stats.intervals(np.array(known, dtype=np.float64)[:, None], resamples)[0]
        if complete
        else None,
        outcomes=dict(
            sorted(Counter(s.outcome for samples in scores.values() for s in samples).items())
        ),
    )


def _mean_scored(samples: list[FigureScore]) -> float | None:
    return stats.mean(
        [s.value for s in samples if s.outcome is Outcome.SCORED and s.value is not None]
    )


def harness_faults(study: Study) -> list[str]:
    """One line a prediction that the harness owes a score: what was asked and what went wrong."""
    lines = []
    for contestant in study.contestants:
        for slug in study.sets["all"]:
            reasons: defaultdict[int, dict[str, None]] = defaultdict(dict)
            for figure in study.figures:
                if not study.applies(slug, figure):
                    continue
                for sample, score in enumerate(study.figure(contestant, slug, figure)):
                    if score.outcome is Outcome.HARNESS_FAULT:
                        reasons[sample][score.reason or "unnamed"] = None
            lines += [
                f"{contestant} {slug} sample {sample}: {'; '.join(found)}"
                for sample, found in reasons.items()
            ]
    return lines


def _not_applicable(study: Study) -> dict[FigureName, int]:
    counts = {f: len(study.sets["all"]) - len(slugs) for f, slugs in study.applicable.items()}
    return {figure: count for figure, count in counts.items() if count}


def _without_data(figure: FigureName, with_agent: bool) -> str:
    if figure == "task_utility" and with_agent:
        return "have no tasks, or none that the agent solves with the reference server,"
    return "have no data for it in the benchmark"


def notes(study: Study, groups: tuple[GroupSummary, ...]) -> list[str]:
    """What a reader must know to read the figures rightly, one sentence each."""
    lines = [
        "The benchmark is the denominator: a model fault and a layer that was not reached count as"
        " 0 in every mean over all servers; the means over reached servers leave them out.",
        f"Intervals are 95 % percentile bootstrap intervals over servers"
        f" (seed {stats.SEED}); where all servers agree, the exact binomial bound: what so few"
        " servers could have missed.",
    ]
    if study.trained_on:
        lines.append(
            f"The trained model saw {len(study.trained_on)} of these scenarios with their answers:"
            " its rows on training scenarios show memorisation, not skill. Skill is what the rows"
            " on held-out scenarios show."
        )
    missing = sorted({slug for group in groups for slug in group.missing_slugs})
    if missing:
        lines.append(
            f"{len(missing)} scenarios lack a prediction, or a sample of it, in at least one row;"
            " what is left out counts as 0:"
            f" {', '.join(missing[:10])}{' ...' if len(missing) > 10 else ''}."
        )
    stopped = {p.slug for p in study.predictions.values() if p.finish_reason == "error"}
    if stopped:
        lines.append(
            f"A content filter of the endpoint refused or ended answers for {len(stopped)}"
            " scenarios. It is part of what was asked: what there is of those answers counts."
            f" {', '.join(sorted(stopped)[:10])}{' ...' if len(stopped) > 10 else ''}."
        )
    scored_with = study.provenance.get("score", {})
    with_agent = bool(scored_with.get("agent"))
    lines += [
        f"{figure}: {count} of {len(study.sets['all'])} servers"
        f" {_without_data(figure, with_agent)} and are not in its n."
        for figure, count in _not_applicable(study).items()
    ]
    if scored_with.get("judge"):
        lines.append(
            f"The LLM judge ({scored_with['judge']}) has a column of its own for the capability"
            " boundary. It is an opinion beside the figures and no part of them."
        )
    if scored_with.get("agent"):
        lines.append(
            "Task utility is an agent's success as an LLM judge rates it, against the same agent"
            " with the reference server; two scorings of one run may differ."
        )
    if study.left_out:
        lines.append(
            f"Scores of {len(study.left_out)} scenarios that were not asked for are left out:"
            f" {', '.join(study.left_out[:10])}."
        )
    return lines


def table(report: RunReport) -> str:
    """The table for a terminal: measured rows by set of scenarios, then the published ones that
    answer to the same strategies. Narrow terminals get it without the intervals."""
    columns = shutil.get_terminal_size((120, 24)).columns
    wide = columns >= WIDE_COLUMNS
    column = 12 if wide else 7
    heads = [name.rjust(column) for name in (SHORT if wide else SHORTEST).values()]
    lines = [" " * NAME_CHARS + "   n" + "".join(heads)]
    num_samples = Analysis.model_validate(report.extra).num_samples
    for title, groups in page.table_sections(report):
        lines += ["", title]
        for group in groups:
            means = [_mean_text(group.figures.get(figure)) for figure in FIGURES]
            ranges = [_range_text(group.figures.get(figure)) for figure in FIGURES]
            lines.append(_line(_who(group), str(group.num_servers), means, column))
            notes = ["memorisation"] if group.memorisation else []
            if (num := num_samples[f"{group.model}/{group.strategy}"]) > 1:
                notes.append(f"{num} samples a server")
            if group.missing_slugs:
                notes.append(f"{len(group.missing_slugs)} left out, count as 0")
            first, *others = notes or [""]
            if wide or notes:
                lines.append(_line(f"  {first}", "", ranges if wide else [], column))
            lines += [f"  {note}" for note in others]
    for source, rows in _published(report):
        lines += ["", f"Published, not measured here: {source}"]
        for row in rows:
            values = [_number(row.figures.get(figure)) for figure in FIGURES]
            lines.append(
                _line(f"{row.model}, {page.strategy_title(row.strategy)}", "", values, column)
            )
    if report.headline_blocked:
        count, first = len(report.harness_faults), report.harness_faults[0]
        told = (
            f"No headline: the harness failed on {count} predictions (no fault of the model, no"
            f" zeros). Run {_owing(report)} again, then report. First: {page.plain(first)}"
        )
        lines += ["", *textwrap.wrap(told, max(columns, 80))]
    return "\n".join(line.rstrip() for line in lines)


def _owing(report: RunReport) -> str:
    """The stages to run again."""
    unanswered = any(OWED.reason in line for line in report.harness_faults)
    return "generate and score" if unanswered else "score"


def _published(report: RunReport) -> list[tuple[str, list[PublishedRow]]]:
    """Published rows with a strategy of this run, by source; all of them are in report.html."""
    asked = {group.strategy for group in report.groups}
    if not asked & {"direct", "coder_agent"}:
        asked = {"direct"}
    rows = [r for r in Analysis.model_validate(report.extra).published if r.strategy in asked]
    sources = dict.fromkeys(row.source for row in rows)
    return [(source, [row for row in rows if row.source == source]) for source in sources]


def _line(name: str, n: str, cells: list[str], column: int) -> str:
    shown = page.plain(name)
    if len(shown) > NAME_CHARS:
        shown = shown[: NAME_CHARS - 3] + "..."
    return shown.ljust(NAME_CHARS) + n.rjust(4) + "".join(cell.rjust(column) for cell in cells)


def _who(group: GroupSummary) -> str:
    return page.row_title(f"{group.model}/{group.strategy}")


def _mean_text(summary: FigureSummary | None) -> str:
    if summary is None:
        return "-"
    return "blocked" if summary.mean_all is None else _number(summary.mean_all)


def _range_text(summary: FigureSummary | None) -> str:
    if summary is None or summary.ci95 is None:
        return ""
    return f"{summary.ci95[0]:.2f}-{summary.ci95[1]:.2f}"


def _number(value: float | None) -> str:
    return "-" if value is None else f"{value:.3f}"


def load_report(folder: Path) -> tuple[RunReport, Analysis]:
    """A report that was written before, as `compare` needs it. Raises UserError where it is none,
    or that of another version."""
    path = RunFolder(folder).report_json
    try:
        report = RunReport.model_validate(read_json(path))
        return report, Analysis.model_validate(report.extra)
    except ValidationError as error:
        first = error.errors()[0]
        raise UserError(
            str(path),
            ".".join(map(str, first["loc"])),
            f"is not as this version writes it ({first['msg']})",
            "run `toolgenesis-sft report` on its folder again",
        ) from error
