"""Compare scored runs, paired by server: what differs, how surely, and what could have been seen.

The first folder is the baseline. One family of tests is made for each comparison, over all figures
and pairs on the primary set of scenarios (held-out ones where there are any), and Holm's step-down
keeps the chance of any false finding below stats.ALPHA. Other sets are described, not tested.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Literal, NamedTuple

import numpy as np

from toolgenesis_sft.errors import UserError
from toolgenesis_sft.records import FigureName, Json, Record, RunReport
from toolgenesis_sft.reporting import page, stats
from toolgenesis_sft.reporting.analysis import Analysis
from toolgenesis_sft.reporting.breakdown import Difference
from toolgenesis_sft.reporting.report import load_report
from toolgenesis_sft.reporting.study import BEFORE, TRAINED, ScenarioSet
from toolgenesis_sft.runs import RunFolder, read_json, sha256_file, write_json, write_text

RESAMPLES = 5000
SCENARIO_SETS: tuple[ScenarioSet, ...] = ("held_out", "train", "all")
BLOCKING = ("benchmark_digest", "tasks_digest", "profile")
MAX_LISTED = 30  # servers listed a figure and side; comparison.json has them all


class Setting(Record):
    """A setting in which the runs differ. A blocking one makes their figures incomparable."""

    name: str
    values: tuple[str, ...]
    blocking: bool


class FigureComparison(Difference):
    """A tested difference. `ci_family` is the bootstrap interval at the level of one test of the
    family (1 - ALPHA / number of tests): differences outside it are excluded, all at once."""

    p_holm: float | None
    ci_family: tuple[float, float]
    smallest_detectable: float
    verdict: Literal["better", "worse", "not_shown", "described"]
    won: tuple[str, ...]
    lost: tuple[str, ...]


class Pair(Record):
    """Contestant `b` against the baseline `a`, on one set of scenarios."""

    a: str
    b: str
    scenarios: ScenarioSet
    tested: bool
    memorisation: bool
    num_servers: int
    num_unscored: int
    figures: tuple[FigureComparison, ...]


class Comparison(Record):
    folders: tuple[str, ...]
    settings: tuple[Setting, ...]
    num_tests: int
    pairs: tuple[Pair, ...]


class Loaded(NamedTuple):
    folder: Path
    report: RunReport
    analysis: Analysis


class Side(NamedTuple):
    """One contestant of one run."""

    run: Loaded
    name: str

    def __str__(self) -> str:
        return f"{self.run.folder.name}: {self.name}"


class Duel(NamedTuple):
    """Two sides on the servers that both were asked for, and that both have scores of."""

    a: Side
    b: Side
    scenarios: ScenarioSet
    tested: bool
    slugs: tuple[str, ...]


def compare(folders: list[Path], force: bool) -> Comparison:
    """Each later folder against the first; one folder: its rows against each other.

    Raises UserError where the runs cannot be compared (other benchmark, other profile, figures
    that the harness still owes), unless `force`; the comparison then names what differs.
    """
    runs = [_load(folder) for folder in folders]
    settings = tuple(_differing_settings(runs))
    refused = [setting for setting in settings if setting.blocking]
    if refused and not force:
        raise UserError(
            f"compare: {refused[0].name}",
            " | ".join(value[:16] for value in refused[0].values),
            "must be equal for figures to be comparable",
            "score both on the same benchmark with the same profile, or add --force",
        )
    for run in runs:
        if run.report.headline_blocked and not force:
            raise UserError(
                "compare",
                str(run.folder),
                f"has {len(run.report.harness_faults)} predictions that the harness did not score",
                "run score and report again, or add --force to leave those servers out",
            )
    duels = list(_duels(runs))
    tests = [(i, f) for i, duel in enumerate(duels) if duel.tested for f in _figures(duel)]
    p_values = significance([_differences(duels[i], figure) for i, figure in tests])
    adjusted = dict(zip(tests, p_values, strict=True))
    return Comparison(
        folders=tuple(str(folder) for folder in folders),
        settings=settings,
        num_tests=len(tests),
        pairs=tuple(
            Pair(
                a=str(duel.a),
                b=str(duel.b),
                scenarios=duel.scenarios,
                tested=duel.tested,
                memorisation=duel.scenarios == "train" and _was_trained(duel.b),
                num_servers=len(duel.slugs),
                num_unscored=_num_unscored(duel),
                figures=tuple(
                    _compared(duel, figure, adjusted.get((i, figure)), len(tests))
                    for figure in _figures(duel)
                ),
            )
            for i, duel in enumerate(duels)
        ),
    )


def significance(differences: list[stats.Floats]) -> list[float]:
    """Holm-adjusted p of paired permutation tests, one for each array of differences [n]."""
    return stats.holm([stats.sign_flip_p(difference) for difference in differences])


def _load(folder: Path) -> Loaded:
    run = RunFolder(folder)
    if not run.report_json.exists():
        raise UserError(
            "compare",
            str(folder),
            "has no report.json",
            "run `toolgenesis-sft report` on it first (or `score --out` it again)",
        )
    report, analysis = load_report(folder)
    if run.scores.exists() and sha256_file(run.scores) != analysis.scores_digest:
        raise UserError(
            "compare",
            str(folder),
            "was scored again after its report",
            "run `toolgenesis-sft report` on it again",
        )
    return Loaded(folder, report, analysis)


def _differing_settings(runs: list[Loaded]) -> Iterator[Setting]:
    facts = [_facts(run) for run in runs]
    for name in dict.fromkeys(name for fact in facts for name in fact):
        values = tuple(_shown(fact.get(name)) for fact in facts)
        if len(set(values)) > 1:
            yield Setting(name=name, values=values, blocking=name in BLOCKING)


def _shown(value: Json) -> str:
    return "none" if value is None else value if isinstance(value, str) else str(value)


def _facts(run: Loaded) -> dict[str, Json]:
    """What a run was made with, flat: the scorer's settings, the recipe, commit and versions."""
    facts: dict[str, Json] = {
        "benchmark_digest": run.report.benchmark_digest,
        "profile": run.report.profile,
    }
    for name in ("score.json", "config.json"):
        path = run.folder / name
        if path.exists():
            for key, value in _flat(read_json(path)):
                facts.setdefault(key, value)
    score = run.report.provenance.get("score")
    if isinstance(score, dict):
        for key, value in _flat({k: score.get(k) for k in ("commit", "versions", "sandbox")}):
            facts.setdefault(f"score.{key}", value)
    return facts


def _flat(tree: Json, prefix: str = "") -> Iterator[tuple[str, Json]]:
    for name, value in tree.items():
        if isinstance(value, dict):
            yield from _flat(value, f"{prefix}{name}.")
        else:
            yield f"{prefix}{name}", value


def _duels(runs: list[Loaded]) -> Iterator[Duel]:
    if len(runs) == 1:
        sides = list(_sides_within(runs[0]))
    else:
        sides = [pair for other in runs[1:] for pair in _sides_between(runs[0], other)]
    for a, b in sides:
        sets = {name: _common(a, b, name) for name in SCENARIO_SETS}
        primary = next(name for name in SCENARIO_SETS if sets[name] and name != "train")
        for name, slugs in sets.items():
            if slugs and not (name == "all" and slugs == sets[primary] and name != primary):
                yield Duel(a, b, name, name == primary, slugs)


def _common(a: Side, b: Side, scenarios: ScenarioSet) -> tuple[str, ...]:
    """Slugs of a set that both runs were asked for, in the baseline's order."""
    theirs = set(b.run.analysis.sets.get(scenarios, ()))
    common = tuple(s for s in a.run.analysis.sets.get(scenarios, ()) if s in theirs)
    if scenarios == "all" and not common:
        raise UserError(
            "compare",
            f"{a} | {b}",
            "have no scenario in common",
            "compare runs that were asked for the same scenarios",
        )
    return common


def _sides_within(run: Loaded) -> Iterator[tuple[Side, Side]]:
    """Before against after training, then strategies of one model against its first."""
    names = list(run.analysis.servers)
    by_model: dict[str, list[str]] = {}
    for name in names:
        by_model.setdefault(name.rpartition("/")[0], []).append(name)
    if len(names) < 2:
        raise UserError(
            "compare", str(run.folder), "has one row only", "name a second run to compare it with"
        )
    for name in by_model.get(TRAINED, ()):
        before = f"{BEFORE}/{name.rpartition('/')[2]}"
        if before in names:
            yield Side(run, before), Side(run, name)
    first, *others = [model for model in by_model if model != BEFORE]
    for model in (first, *others):
        baseline, *variants = by_model[model]
        for name in variants:
            yield Side(run, baseline), Side(run, name)
    for model in others:
        yield Side(run, by_model[first][0]), Side(run, by_model[model][0])


def _sides_between(a: Loaded, b: Loaded) -> Iterator[tuple[Side, Side]]:
    """Equal rows of two runs. Where only the models' names differ, equal strategies; where each
    has one row, those."""
    ours, theirs = _rows(a), _rows(b)
    equal = [name for name in ours if name in theirs]
    if equal:
        for name in equal:
            yield Side(a, name), Side(b, name)
        return
    by_strategy = {name.rpartition("/")[2]: name for name in theirs}
    same_strategy = [name for name in ours if name.rpartition("/")[2] in by_strategy]
    one_model = (
        len({n.rpartition("/")[0] for n in ours})
        == 1
        == len({n.rpartition("/")[0] for n in theirs})
    )
    if one_model and same_strategy:
        for name in same_strategy:
            yield Side(a, name), Side(b, by_strategy[name.rpartition("/")[2]])
    elif len(ours) == len(theirs) == 1:
        yield Side(a, ours[0]), Side(b, theirs[0])
    else:
        raise UserError(
            "compare",
            f"{a.folder}: {', '.join(ours)} | {b.folder}: {', '.join(theirs)}",
            "have no row (model and strategy) in common",
            "compare runs with equal strategies, one model each",
        )


def _rows(run: Loaded) -> list[str]:
    names = list(run.analysis.servers)
    trained = [name for name in names if not name.startswith(f"{BEFORE}/")]
    return trained or names


def _figures(duel: Duel) -> list[FigureName]:
    """Figures that both sides have on at least one common server."""
    return [
        figure
        for figure in duel.a.run.analysis.servers[duel.a.name]
        if figure in duel.b.run.analysis.servers[duel.b.name] and _pairs(duel, figure)
    ]


def _pairs(duel: Duel, figure: FigureName) -> list[tuple[str, float, float]]:
    ours = duel.a.run.analysis.servers[duel.a.name][figure]
    theirs = duel.b.run.analysis.servers[duel.b.name][figure]
    return [
        (slug, x, y)
        for slug in duel.slugs
        if (x := ours.get(slug)) is not None and (y := theirs.get(slug)) is not None
    ]


def _differences(duel: Duel, figure: FigureName) -> stats.Floats:
    return np.array([y - x for _, x, y in _pairs(duel, figure)])


def _num_unscored(duel: Duel) -> int:
    """Servers that a harness fault keeps out of at least one figure."""
    tables = [side.run.analysis.servers[side.name] for side in (duel.a, duel.b)]
    return sum(
        any(slug in values and values[slug] is None for t in tables for values in t.values())
        for slug in duel.slugs
    )


def _was_trained(side: Side) -> bool:
    return side.name.startswith(f"{TRAINED}/") and bool(side.run.analysis.trained_on)


def _compared(
    duel: Duel, figure: FigureName, p_holm: float | None, num_tests: int
) -> FigureComparison:
    pairs = _pairs(duel, figure)
    a = np.array([x for _, x, _ in pairs])
    b = np.array([y for _, _, y in pairs])
    difference = b - a
    result = stats.paired(a, b, RESAMPLES)
    family_level = 1 - stats.ALPHA / max(num_tests, 1)
    verdict: Literal["better", "worse", "not_shown", "described"] = "described"
    if p_holm is not None:
        found = "better" if result.difference > 0 else "worse"
        verdict = found if p_holm < stats.ALPHA else "not_shown"  # type: ignore[assignment]
    changed = sorted(pairs, key=lambda pair: pair[1] - pair[2])
    return FigureComparison(
        figure=figure,
        a=float(a.mean()),
        b=float(b.mean()),
        difference=result.difference,
        ci95=result.ci95,
        p=result.p,
        wins=result.wins,
        losses=result.losses,
        ties=result.ties,
        num_servers=len(pairs),
        p_holm=p_holm,
        ci_family=stats.intervals(difference[:, None], RESAMPLES, family_level)[0],
        smallest_detectable=stats.smallest_detectable(difference, max(num_tests, 1)),
        verdict=verdict,
        won=tuple(slug for slug, x, y in changed if y > x),
        lost=tuple(slug for slug, x, y in reversed(changed) if y < x),
    )


def sentence(figure: FigureComparison) -> str:
    """What one row says, in words."""
    low, high = figure.ci_family
    if figure.verdict in ("better", "worse"):
        return f"{figure.verdict} by {abs(100 * figure.difference):.1f} points"
    if figure.verdict == "described":
        return "not tested"
    return (
        f"no difference shown: {page.points_text(low)} to {page.points_text(high)} points remain"
        f" possible; {100 * figure.smallest_detectable:.0f} points or more would show"
        f" {100 * stats.POWER:.0f} times in 100"
    )


def write(comparison: Comparison, out: Path) -> None:
    """comparison.json and comparison.html."""
    write_json(out / "comparison.json", comparison.model_dump(mode="json"))
    html = page.render_template(
        "comparison.html.j2",
        script=None,
        comparison=comparison,
        sentence=sentence,
        max_listed=MAX_LISTED,
    )
    write_text(out / "comparison.html", html)


def table(comparison: Comparison) -> str:
    """For a terminal: each tested pair, what the figures say, and what differs besides."""
    lines: list[str] = []
    for pair in comparison.pairs:
        tested = "" if pair.tested else " (described, not tested)"
        memory = ", memorisation" if pair.memorisation else ""
        lines += [
            f"{page.plain(pair.b)}  against  {page.plain(pair.a)}",
            f"{pair.num_servers} {page.SETS[pair.scenarios]} scenarios{memory}{tested}",
            f"  {'figure':<14}{'a':>7}{'b':>7}{'b - a':>8}{'95 % interval':>18}{'p Holm':>8}"
            f"{'won/lost':>10}  verdict",
        ]
        for figure in pair.figures:
            low, high = (f"{100 * bound:+.1f}" for bound in figure.ci95)
            p = "-" if figure.p_holm is None else f"{figure.p_holm:.3f}"
            lines.append(
                f"  {page.TITLES[figure.figure]:<14}{figure.a:>7.3f}{figure.b:>7.3f}"
                f"{100 * figure.difference:>+8.1f}{f'{low} to {high}':>18}{p:>8}"
                f"{f'{figure.wins}/{figure.losses}':>10}  {sentence(figure)}"
            )
        if pair.num_unscored:
            lines.append(f"  {pair.num_unscored} servers are left out: the harness owes a score")
        lines.append("")
    if comparison.settings:
        lines.append("What else differs between the runs:")
        for setting in comparison.settings:
            mark = "!" if setting.blocking else " "
            values = " | ".join(page.plain(value)[:40] for value in setting.values)
            lines.append(f" {mark}{setting.name}: {values}")
        if any(setting.blocking for setting in comparison.settings):
            lines.append(
                "Settings marked ! make the figures above incomparable (--force was given)."
            )
    return "\n".join(lines).rstrip()
