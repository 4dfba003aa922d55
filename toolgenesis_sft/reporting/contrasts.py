"""Two rows on the same servers: before and after training, strategies, the oracle gap."""

from __future__ import annotations

from collections.abc import Iterable

import numpy as np

from toolgenesis_sft.records import BEFORE, FigureName, Record
from toolgenesis_sft.reporting import stats
from toolgenesis_sft.reporting.study import Contestant, ScenarioSet, Study
from toolgenesis_sft.reporting.values import Values


class Difference(Record):
    """A paired difference of one figure; `num_servers` have a value on both sides."""

    figure: FigureName
    a: float
    b: float
    difference: float
    ci95: tuple[float, float]
    p: float
    wins: int
    losses: int
    ties: int
    num_servers: int


class Contrast(Record):
    """Two rows on the same servers: `b` minus `a`."""

    a: str
    b: str
    scenarios: ScenarioSet
    memorisation: bool = False
    differences: tuple[Difference, ...]


def contrast(
    values: Values,
    a: Contestant,
    b: Contestant,
    slugs: Iterable[str],
    scenarios: ScenarioSet,
    resamples: int,
    memorisation: bool = False,
) -> Contrast:
    """`b` minus `a` for each figure that both have, paired by server."""
    differences = []
    slugs = tuple(slugs)
    for figure in values[a]:
        side_a, side_b = values[a][figure], values[b].get(figure, {})
        pairs = [
            (x, y)
            for slug in slugs
            if (x := side_a.get(slug)) is not None and (y := side_b.get(slug)) is not None
        ]
        if not pairs:
            continue
        matrix = np.array(pairs)
        result = stats.paired(matrix[:, 0], matrix[:, 1], resamples)
        differences.append(
            Difference(
                figure=figure,
                a=float(matrix[:, 0].mean()),
                b=float(matrix[:, 1].mean()),
                difference=result.difference,
                ci95=result.ci95,
                p=result.p,
                wins=result.wins,
                losses=result.losses,
                ties=result.ties,
                num_servers=len(pairs),
            )
        )
    return Contrast(
        a=str(a),
        b=str(b),
        scenarios=scenarios,
        memorisation=memorisation,
        differences=tuple(differences),
    )


def before_and_after(study: Study, values: Values, resamples: int) -> list[Contrast]:
    """Each model of the run against the one before training, on each set of scenarios."""
    return [
        contrast(
            values,
            Contestant(BEFORE, after.strategy),
            after,
            slugs,
            scenarios,
            resamples,
            study.memorised(after, scenarios),
        )
        for after in study.contestants
        if after.model != BEFORE and Contestant(BEFORE, after.strategy) in study.contestants
        for scenarios, slugs in study.sets.items()
        if scenarios != "all" or len(study.sets) == 1
    ]


def strategy_gaps(study: Study, values: Values, resamples: int) -> list[Contrast]:
    """Each strategy of a model against `direct`, and `oracle` (gold schema given) against each:
    the oracle gap is what the model loses by having to find the schema itself."""
    gaps = []
    for model in dict.fromkeys(contestant.model for contestant in study.contestants):
        mine = [c for c in study.contestants if c.model == model]
        pairs = [(a, b) for a in mine for b in mine if b.strategy == "oracle" and a != b]
        pairs += [
            (a, b)
            for a in mine
            for b in mine
            if a.strategy == "direct" and b.strategy not in ("direct", "oracle")
        ]
        gaps += [
            contrast(values, a, b, slugs, scenarios, resamples)
            for a, b in pairs
            for scenarios, slugs in study.sets.items()
        ]
    return gaps
