"""Compare scored runs, paired by server: what differs, how surely, and what could have been seen.

The first folder is the baseline. One family of tests is made for each comparison, over all figures
and pairs on the primary set of scenarios (held-out ones where there are any), and Holm's step-down
keeps the chance of any false finding below stats.ALPHA. Other sets are described, not tested.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Literal

import numpy as np

from toolgenesis_sft.errors import UserError
from toolgenesis_sft.records import FigureName, Json, Record
from toolgenesis_sft.reporting import page, stats
from toolgenesis_sft.reporting.contrasts import Difference
from toolgenesis_sft.reporting.duels import (
    Duel,
    Loaded,
    differences_of,
    duels_of,
    figures_of,
    is_memorised,
    num_unscored,
    pairs_of,
)
from toolgenesis_sft.reporting.report import load_report
from toolgenesis_sft.reporting.study import ScenarioSet
from toolgenesis_sft.runs import (
    RunFolder,
    make_folder,
    read_json,
    sha256_file,
    write_json,
    write_text,
)

RESAMPLES = 5000
BLOCKING = ("benchmark_digest", "tasks_digest", "profile")
Verdict = Literal["better", "worse", "not_shown", "described"]
MAX_SHOWN = 40  # characters of a setting in the terminal
MAX_LISTED = 30  # servers listed a figure and side; comparison.json has them all


class Setting(Record):
    """A setting in which the runs differ. A blocking one makes their figures incomparable."""

    name: str
    values: tuple[str, ...]
    blocking: bool


class FigureComparison(Difference):
    """A tested difference. `ci_family` is the bootstrap interval at the level of one test of the
    family (1 - ALPHA / number of tests): differences outside it are excluded, all at once. Where
    the test cannot exclude 0 it reaches to 0 as well: few changed servers make a bootstrap interval
    too narrow, and the test is exact."""

    p_holm: float | None
    ci_family: tuple[float, float]
    smallest_detectable: float | None
    verdict: Verdict
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


def compare(folders: list[Path], force: bool) -> Comparison:
    """Each later folder against the first; one folder: its rows against each other.

    Raises UserError where the runs cannot be compared (other benchmark, other profile, figures
    that the harness still owes), unless `force`; the comparison then names what differs.
    """
    names = Counter(folder.resolve().name for folder in folders)
    runs = [_load(f, f.resolve().name if names[f.resolve().name] == 1 else str(f)) for f in folders]
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
                "run generate, score and report again, or add --force to leave those servers out",
            )
    duels = list(duels_of(runs))
    tests = [(i, f) for i, duel in enumerate(duels) if duel.tested for f in figures_of(duel)]
    p_values = significance([differences_of(duels[i], figure) for i, figure in tests])
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
                memorisation=is_memorised(duel),
                num_servers=len(duel.slugs),
                num_unscored=num_unscored(duel),
                figures=tuple(
                    _compared(duel, figure, adjusted.get((i, figure)), len(tests))
                    for figure in figures_of(duel)
                ),
            )
            for i, duel in enumerate(duels)
        ),
    )


def significance(differences: list[stats.Floats]) -> list[float]:
    """Holm-adjusted p of paired permutation tests, one for each array of differences [n]."""
    return stats.holm([stats.sign_flip_p(difference) for difference in differences])


def _load(folder: Path, name: str) -> Loaded:
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
    return Loaded(folder, name, report, analysis)


def _differing_settings(runs: list[Loaded]) -> Iterator[Setting]:
    """What was scored and with what; then the recipes, of those runs that have one."""
    facts: list[Json] = [_facts(run) for run in runs]
    yield from _differences(facts)
    recipes = [_recipe(run) for run in runs]
    known = {name for fact in facts for name in fact}
    yield from (setting for setting in _differences(recipes) if setting.name not in known)
    has_one = tuple("none" if recipe is None else "config.json" for recipe in recipes)
    if len(set(has_one)) > 1:
        yield Setting(name="recipe", values=has_one, blocking=False)


def _differences(facts: list[Json]) -> Iterator[Setting]:
    """Settings that are not the same in all facts that are there."""
    known = [fact for fact in facts if fact is not None]
    for name in dict.fromkeys(name for fact in known for name in fact):
        if len({_shown(fact.get(name)) for fact in known}) > 1:
            values = tuple(_shown(fact.get(name) if fact else None) for fact in facts)
            yield Setting(name=name, values=values, blocking=name in BLOCKING)


def _shown(value: Json) -> str:
    return "none" if value is None else value if isinstance(value, str) else str(value)


def _facts(run: Loaded) -> dict[str, Json]:
    """The scorer's settings, its commit and its versions, flat."""
    facts: dict[str, Json] = {
        "benchmark_digest": run.report.benchmark_digest,
        "profile": run.report.profile,
    }
    path = run.folder / "score.json"
    if path.exists():
        facts = dict(_flat(read_json(path))) | facts
    score = run.report.provenance.get("score")
    if isinstance(score, dict):
        told = {name: score.get(name) for name in ("commit", "versions", "sandbox")}
        facts |= {f"score.{name}": value for name, value in _flat(told)}
    return facts


def _recipe(run: Loaded) -> Json:
    """The recipe's fields, flat; None for a folder that was scored without one."""
    path = run.folder / "config.json"
    return dict(_flat(read_json(path))) if path.exists() else None


def _flat(tree: Json, prefix: str = "") -> Iterator[tuple[str, Json]]:
    for name, value in tree.items():
        if isinstance(value, dict):
            yield from _flat(value, f"{prefix}{name}.")
        else:
            yield f"{prefix}{name}", value


def _compared(
    duel: Duel, figure: FigureName, p_holm: float | None, num_tests: int
) -> FigureComparison:
    pairs = pairs_of(duel, figure)
    a = np.array([x for _, x, _ in pairs])
    b = np.array([y for _, _, y in pairs])
    # So many that ten of them lie beyond either end of the family's interval.
    resamples = max(RESAMPLES, math.ceil(20 * num_tests / stats.ALPHA))
    found = Difference.of(figure, a, b, resamples)
    verdict: Verdict = "described"
    if p_holm is not None and p_holm < stats.ALPHA:
        verdict = "better" if found.difference > 0 else "worse"
    elif p_holm is not None:
        verdict = "not_shown"
    family_level = 1 - stats.ALPHA / max(num_tests, 1)
    low, high = stats.intervals((b - a)[:, None], resamples, family_level, stats.DIFFERENCES)[0]
    if verdict == "not_shown":
        low, high = min(low, 0.0), max(high, 0.0)
    changed = sorted(pairs, key=lambda pair: pair[1] - pair[2])
    return FigureComparison(
        **found.model_dump(),
        p_holm=p_holm,
        ci_family=(low, high),
        smallest_detectable=stats.smallest_detectable(b - a, max(num_tests, 1)),
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
    could = (
        "no difference could show on so few servers"
        if figure.smallest_detectable is None
        else f"{100 * figure.smallest_detectable:.0f} points or more would show"
        f" {100 * stats.POWER:.0f} times in 100"
    )
    return (
        f"no difference shown: {page.points_text(low)} to {page.points_text(high)} points remain"
        f" possible; {could}"
    )


def _points(value: float) -> str:
    """For terminals of any encoding."""
    return page.points_text(value).replace("\N{MINUS SIGN}", "-")


def _cut(values: tuple[str, ...]) -> list[str]:
    """Values for a terminal; long ones that begin alike from where they differ."""
    shown = [page.plain(value) for value in values]
    apart = next((i for i, chars in enumerate(zip(*shown, strict=False)) if len(set(chars)) > 1), 0)
    if apart > MAX_SHOWN // 2:
        shown = [f"...{value[apart - 8 :]}" for value in shown]
    return [value if len(value) <= MAX_SHOWN else f"{value[:MAX_SHOWN]}..." for value in shown]


def write(comparison: Comparison, out: Path) -> None:
    """comparison.json and comparison.html."""
    make_folder(out)
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
            f"a  {page.plain(pair.a)}",
            f"b  {page.plain(pair.b)}",
            f"{page.num_scenarios(pair.num_servers, pair.scenarios)}{memory}{tested}",
            f"  {'figure':<13}{'a':>7}{'b':>7}{'b - a':>8}{'95 % interval':>17}{'p Holm':>8}"
            f"{'won/lost':>10}{'could show':>12}  verdict",
        ]
        for figure in pair.figures:
            low, high = map(_points, figure.ci95)
            p = "-" if figure.p_holm is None else f"{figure.p_holm:.3f}"
            least = figure.smallest_detectable
            could = "nothing" if least is None else f"{100 * least:.1f}"
            lines.append(
                f"  {page.TITLES[figure.figure]:<13}{figure.a:>7.3f}{figure.b:>7.3f}"
                f"{_points(figure.difference):>8}{f'{low} to {high}':>17}{p:>8}"
                f"{f'{figure.wins}/{figure.losses}':>10}{could:>12}  {page.words(figure.verdict)}"
            )
        if pair.num_unscored:
            lines.append(f"  {pair.num_unscored} servers are left out: the harness owes a score")
        lines.append("")
    lines += [
        f"Differences in points of 100; {comparison.num_tests} tests, p by Holm. `could show`: the"
        f" true difference that this",
        f"many servers show {100 * stats.POWER:.0f} times in 100. `not shown` is no proof of"
        " equality: see the interval.",
    ]
    if comparison.settings:
        lines.append("What else differs between the runs:")
        for setting in comparison.settings:
            mark = "!" if setting.blocking else " "
            lines.append(f" {mark}{setting.name}: {' | '.join(_cut(setting.values))}")
        if any(setting.blocking for setting in comparison.settings):
            lines.append(
                "Settings marked ! make the figures above incomparable (--force was given)."
            )
    return "\n".join(lines).rstrip()
