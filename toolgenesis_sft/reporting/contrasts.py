"""Two rows on the same servers: before and after training, strategies, the oracle gap."""

from __future__ import annotations

from collections.abc import Iterable

import numpy as np

from toolgenesis_sft.records import BEFORE, FigureName, Record
from toolgenesis_sft.reporting import stats
from toolgenesis_sft.reporting.study import Contestant, ScenarioSet, Study
from toolgenesis_sft.reporting.values import Values


class Difference(stats.Paired):
    """A paired difference of one figure; `num_servers` have a value on both sides."""

    figure: FigureName
    a: float
    b: float
    num_servers: int

    @classmethod
    def of(cls, figure: FigureName, a: stats.Floats, b: stats.Floats, resamples: int) -> Difference:
        """From the values of both sides, [servers] each, at least one."""
        return cls(
            figure=figure,
            a=float(a.mean()),
            b=float(b.mean()),
            num_servers=len(a),
            **stats.paired(a, b, resamples).model_dump(),
        )


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
        of_a, of_b = values[a][figure], values[b].get(figure, {})
        pairs = [
            (x, y)
            for slug in slugs
            if (x := of_a.get(slug)) is not None and (y := of_b.get(slug)) is not None
        ]
        if not pairs:
            continue
        side_a, side_b = np.array(pairs).T
        differences.append(Difference.of(figure, side_a, side_b, resamples))
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
