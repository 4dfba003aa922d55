"""Who meets whom in a comparison, and on which servers."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import numpy as np

from toolgenesis_sft.errors import UserError
from toolgenesis_sft.records import BEFORE, TRAINED, FigureName, RunReport
from toolgenesis_sft.reporting import stats
from toolgenesis_sft.reporting.analysis import Analysis
from toolgenesis_sft.reporting.study import ScenarioSet

SCENARIO_SETS: tuple[ScenarioSet, ...] = ("held_out", "train", "all")


class Loaded(NamedTuple):
    """A run that is compared; `name` tells it from the others."""

    folder: Path
    name: str
    report: RunReport
    analysis: Analysis


class Side(NamedTuple):
    """One contestant of one run."""

    run: Loaded
    name: str

    def __str__(self) -> str:
        return f"{self.run.name}: {self.name}"


class Duel(NamedTuple):
    """Two sides on the servers that both were asked for, and that both have scores of."""

    a: Side
    b: Side
    scenarios: ScenarioSet
    tested: bool
    slugs: tuple[str, ...]


def duels_of(runs: list[Loaded]) -> Iterator[Duel]:
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
    names = _all_rows(run)
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
    names = _all_rows(run)
    trained = [name for name in names if not name.startswith(f"{BEFORE}/")]
    return trained or names


def _all_rows(run: Loaded) -> list[str]:
    """Model and strategy of each row, in the table's order."""
    return list(dict.fromkeys(f"{g.model}/{g.strategy}" for g in run.report.groups))


def figures_of(duel: Duel) -> list[FigureName]:
    """Figures that both sides have on at least one common server."""
    return [
        figure
        for figure in duel.a.run.analysis.figures
        if figure in duel.b.run.analysis.figures and pairs_of(duel, figure)
    ]


def pairs_of(duel: Duel, figure: FigureName) -> list[tuple[str, float, float]]:
    ours = duel.a.run.analysis.servers[duel.a.name][figure]
    theirs = duel.b.run.analysis.servers[duel.b.name][figure]
    return [
        (slug, x, y)
        for slug in duel.slugs
        if (x := ours.get(slug)) is not None and (y := theirs.get(slug)) is not None
    ]


def differences_of(duel: Duel, figure: FigureName) -> stats.Floats:
    return np.array([y - x for _, x, y in pairs_of(duel, figure)])


def num_unscored(duel: Duel) -> int:
    """Servers that a harness fault keeps out of at least one figure."""
    tables = [side.run.analysis.servers[side.name] for side in (duel.a, duel.b)]
    return sum(
        any(slug in values and values[slug] is None for t in tables for values in t.values())
        for slug in duel.slugs
    )


def is_memorised(duel: Duel) -> bool:
    """Whether one side was trained on all of these scenarios."""
    return any(
        set(duel.slugs) <= set(side.run.analysis.trained_on)
        for side in (duel.a, duel.b)
        for group in side.run.report.groups
        if group.memorisation and f"{group.model}/{group.strategy}" == side.name
    )
