"""One counted value a server and figure: what every mean, interval and comparison starts from."""

from __future__ import annotations

from collections.abc import Iterable

from toolgenesis_sft.records import FigureName, FigureScore, Record, Strategy
from toolgenesis_sft.reporting import stats
from toolgenesis_sft.reporting.study import Contestant, ScenarioSet, Study

Values = dict[Contestant, dict[FigureName, dict[str, float | None]]]
"""By contestant, figure and slug; None where a harness fault hides it."""


class Row(Record):
    """Common to all breakdowns: whose numbers these are."""

    model: str
    strategy: Strategy
    scenarios: ScenarioSet


def server_values(study: Study) -> Values:
    """Mean over samples within each server first, so that every server weighs the same."""
    return {
        contestant: {
            figure: {
                slug: _server_value(study.figure(contestant, slug, figure))
                for slug in study.sets["all"]
                if study.applies(slug, figure)
            }
            for figure in study.figures
        }
        for contestant in study.contestants
    }


def _server_value(scores: list[FigureScore]) -> float | None:
    values = [stats.counted(score) for score in scores]
    known = [value for value in values if value is not None]
    return stats.mean(known) if len(known) == len(values) else None


def mean_over(values: dict[str, float | None], slugs: Iterable[str]) -> float | None:
    """Mean over those servers that the figure applies to; None while one of them is unscored."""
    inside = [values[slug] for slug in slugs if slug in values]
    known = [value for value in inside if value is not None]
    return stats.mean(known) if len(known) == len(inside) else None


def groups(study: Study) -> Iterable[tuple[Contestant, ScenarioSet, tuple[str, ...]]]:
    for contestant in study.contestants:
        for scenarios, slugs in study.sets.items():
            yield contestant, scenarios, slugs


def row_of(contestant: Contestant, scenarios: ScenarioSet) -> dict[str, str]:
    return {
        "model": contestant.model,
        "strategy": contestant.strategy,
        "scenarios": scenarios,
    }
