"""What the means hide: funnel, domains, faults, before and after, strategies, confidence.

Every breakdown is a frozen record, kept in report.json under `extra` and drawn by `page`.
"""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Callable, Iterable

import numpy as np

from toolgenesis_sft.errors import Outcome
from toolgenesis_sft.records import FigureName, FigureScore, Record, Strategy
from toolgenesis_sft.reporting import stats
from toolgenesis_sft.reporting.study import BEFORE, TRAINED, Contestant, ScenarioSet, Study

Values = dict[Contestant, dict[FigureName, dict[str, float | None]]]
"""A counted value a server (mean over its samples); None where a harness fault hides it."""

NO_PROGRAM = frozenset(
    {"no_prediction", "empty_completion", "unfinished_think", "truncated", "syntax_error"}
)
FUNNEL: tuple[FigureName, ...] = (
    "launch",
    "compliance",
    "schema_f1",
    "ut_hard",
    "capability_boundary",
    "task_utility",
)
SIDE_FIGURES: dict[str, FigureName] = {
    "tool_f1": "schema_f1",
    "args_f1": "schema_f1",
    "ut_soft_answerable": "ut_soft",
    "ut_hard_answerable": "ut_hard",
    "boundary_static": "capability_boundary",
    "boundary_observed": "capability_boundary",
    "boundary_judge": "capability_boundary",
    "share_tasks_solved": "task_utility",
}
MAX_EXAMPLES = 5


class Row(Record):
    """Common to all breakdowns: whose numbers these are."""

    model: str
    strategy: Strategy
    scenarios: ScenarioSet


class FunnelStep(Record):
    """`passed` servers cleared this gate and all before it; `failed_here` fail it first."""

    gate: str
    passed: int
    failed_here: int


class Funnel(Row):
    num_servers: int
    steps: tuple[FunnelStep, ...]


class Slice(Row):
    """Means over the servers of one domain, class or difficulty level."""

    by: str
    key: str
    num_servers: int
    means: dict[FigureName, float | None]


class FaultCount(Row):
    """How often one kind of fault occurs: predictions (or unit tests) that it ended."""

    where: str
    outcome: Outcome
    kind: str
    count: int
    examples: tuple[str, ...]


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


class PassAtK(Row):
    figure: FigureName
    num_samples: int
    pass_at_k: dict[int, float]
    pass_hat_k: dict[int, float]


class Alignment(Row):
    """The model's confidence (mean log-probability of its answer) against what came out."""

    figure: FigureName
    num_predictions: int
    num_passed: int
    auroc: float | None
    spearman: float | None


class SideFigure(Row):
    name: str
    mean_all: float | None
    mean_reached: float
    num_reached: int


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


def _groups(study: Study) -> Iterable[tuple[Contestant, ScenarioSet, tuple[str, ...]]]:
    for contestant in study.contestants:
        for scenarios, slugs in study.sets.items():
            yield contestant, scenarios, slugs


def _row(contestant: Contestant, scenarios: ScenarioSet) -> dict[str, str]:
    return {
        "model": contestant.model,
        "strategy": contestant.strategy,
        "scenarios": scenarios,
    }


def funnels(study: Study, values: Values) -> list[Funnel]:
    """Where servers first fail. A gate is passed from stats.PASS on; a figure that does not apply
    to a server lets it through; a harness fault stops it without blame to the model."""
    gates = [figure for figure in FUNNEL if figure in study.figures]
    funnels = []
    for contestant, scenarios, slugs in _groups(study):
        alive = [slug for slug in slugs if _wrote_program(study, contestant, slug)]
        steps = [FunnelStep(gate="program", passed=len(alive), failed_here=len(slugs) - len(alive))]
        for gate in gates:
            figure = values[contestant][gate]
            through = [s for s in alive if s not in figure or (figure[s] or 0.0) >= stats.PASS]
            steps.append(
                FunnelStep(gate=gate, passed=len(through), failed_here=len(alive) - len(through))
            )
            alive = through
        funnels.append(
            Funnel.model_validate(
                {**_row(contestant, scenarios), "num_servers": len(slugs), "steps": steps}
            )
        )
    return funnels


def _wrote_program(study: Study, contestant: Contestant, slug: str) -> bool:
    first = study.figures[0]
    scores = study.figure(contestant, slug, first)
    if "launch" in study.figures:
        scores = study.figure(contestant, slug, "launch")
    whole = sum(score.reason not in NO_PROGRAM for score in scores)
    return whole >= stats.PASS * len(scores)


def slices(study: Study, values: Values) -> list[Slice]:
    """By domain, by class and by difficulty (`sandbox_level`), largest first."""
    scenario = {s.slug: s for s in study.benchmark.scenarios}
    keys: dict[str, Callable[[str], str]] = {
        "domain": lambda slug: scenario[slug].primary_label or "no domain",
        "class": lambda slug: scenario[slug].server_class,
        "level": lambda slug: scenario[slug].sandbox_level or "no level",
    }
    rows = []
    for contestant, scenarios, slugs in _groups(study):
        for by, key_of in keys.items():
            members: defaultdict[str, list[str]] = defaultdict(list)
            for slug in slugs:
                members[key_of(slug)].append(slug)
            for key, inside in sorted(members.items(), key=lambda m: (-len(m[1]), m[0])):
                rows.append(
                    Slice.model_validate(
                        {
                            **_row(contestant, scenarios),
                            "by": by,
                            "key": key,
                            "num_servers": len(inside),
                            "means": {
                                figure: mean_over(values[contestant][figure], inside)
                                for figure in study.figures
                            },
                        }
                    )
                )
    return rows


def mean_over(values: dict[str, float | None], slugs: Iterable[str]) -> float | None:
    """Mean over those servers that the figure applies to; None while one of them is unscored."""
    inside = [values[slug] for slug in slugs if slug in values]
    known = [value for value in inside if value is not None]
    return stats.mean(known) if len(known) == len(inside) else None


TestFaults = dict[Contestant, dict[str, Counter[str]]]


def taxonomy(study: Study, test_faults: TestFaults) -> list[FaultCount]:
    """Faults by kind. `test_faults[contestant][slug]` counts the faults of single unit tests."""
    rows = []
    for contestant, scenarios, slugs in _groups(study):
        found: defaultdict[tuple[str, Outcome, str], Counter[str]] = defaultdict(Counter)
        for slug in slugs:
            for figure in study.figures:
                if not study.applies(slug, figure):
                    continue
                for score in study.figure(contestant, slug, figure):
                    if score.outcome in (Outcome.MODEL_FAULT, Outcome.HARNESS_FAULT):
                        where = "program" if score.reason in NO_PROGRAM else figure
                        found[where, score.outcome, kind_of(score.reason)][slug] = 1
            for kind, count in test_faults.get(contestant, {}).get(slug, {}).items():
                found["unit test", Outcome.MODEL_FAULT, kind][slug] += count
        rows += [
            FaultCount.model_validate(
                {
                    **_row(contestant, scenarios),
                    "where": where,
                    "outcome": outcome,
                    "kind": kind,
                    "count": sum(by_slug.values()),
                    "examples": [slug for slug, _ in by_slug.most_common(MAX_EXAMPLES)],
                }
            )
            for (where, outcome, kind), by_slug in sorted(
                found.items(), key=lambda item: (-sum(item[1].values()), item[0])
            )
        ]
    return rows


def kind_of(reason: str) -> str:
    """The short, stable name at the start of a reason."""
    return reason.partition(":")[0].strip() or "unnamed"


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
    """The trained model against itself before training, on each set of scenarios."""
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
        if after.model == TRAINED and Contestant(BEFORE, after.strategy) in study.contestants
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


def passes_at_k(study: Study) -> list[PassAtK]:
    """pass@k and pass^k over servers, for rows with several samples. A sample passes a figure
    with the value 1: every launch, every unit test, every task."""
    rows = []
    for contestant, scenarios, slugs in _groups(study):
        n = study.num_samples[contestant]
        if n == 1:
            continue
        for figure in ("launch", "ut_hard", "task_utility"):
            if figure not in study.figures:
                continue
            scores = [
                [stats.counted(score) for score in study.figure(contestant, slug, figure)]
                for slug in slugs
                if study.applies(slug, figure)
            ]
            if not scores or any(value is None for server in scores for value in server):
                continue
            passed = [sum(value == 1.0 for value in server) for server in scores]
            ks = sorted({k for k in (1, 2, 4, 8, 16, 32, 64) if k < n} | {n})
            rows.append(
                PassAtK.model_validate(
                    {
                        **_row(contestant, scenarios),
                        "figure": figure,
                        "num_samples": n,
                        "pass_at_k": {
                            k: stats.mean([stats.pass_at_k(n, c, k) for c in passed]) for k in ks
                        },
                        "pass_hat_k": {
                            k: stats.mean([stats.pass_hat_k(n, c, k) for c in passed]) for k in ks
                        },
                    }
                )
            )
    return rows


def alignments(study: Study) -> list[Alignment]:
    """AUROC of the model's confidence for `figure >= stats.PASS`, and its rank correlation with
    the figure. Only predictions whose engine gave log-probabilities take part."""
    rows = []
    for contestant, scenarios, slugs in _groups(study):
        for figure in study.figures:
            pairs = [
                (prediction.mean_logprob, value)
                for slug in slugs
                if study.applies(slug, figure)
                for sample, score in enumerate(study.figure(contestant, slug, figure))
                if (prediction := study.predictions.get((*contestant, slug, sample))) is not None
                and prediction.mean_logprob is not None
                and (value := stats.counted(score)) is not None
            ]
            if len(pairs) < 2:
                continue
            confidence, value = np.array(pairs).T
            passed = value >= stats.PASS
            rows.append(
                Alignment.model_validate(
                    {
                        **_row(contestant, scenarios),
                        "figure": figure,
                        "num_predictions": len(pairs),
                        "num_passed": int(passed.sum()),
                        "auroc": stats.auroc(confidence, passed),
                        "spearman": stats.spearman(confidence, value),
                    }
                )
            )
    return rows


def side_figures(study: Study) -> list[SideFigure]:
    """Means of the scorer's side figures. Where a main figure stands behind one, servers that do
    not reach it count as 0 in `mean_all`, by the same rule."""
    rows = []
    for contestant, scenarios, slugs in _groups(study):
        for name, main in SIDE_FIGURES.items():
            if main not in study.figures:
                continue
            reached: list[float] = []
            counted: list[float | None] = []
            for slug in slugs:
                if not study.applies(slug, main) or not _answerable(study, slug, name):
                    continue
                for sample, score in enumerate(study.figure(contestant, slug, main)):
                    record = study.scores.get((*contestant, slug, sample))
                    value = record.details.get(name) if record else None
                    if isinstance(value, int | float):
                        reached.append(float(value))
                        counted.append(float(value))
                    else:
                        counted.append(0.0 if stats.counted(score) is not None else None)
            if not reached:
                continue
            known = [value for value in counted if value is not None]
            rows.append(
                SideFigure.model_validate(
                    {
                        **_row(contestant, scenarios),
                        "name": name,
                        "mean_all": stats.mean(known) if len(known) == len(counted) else None,
                        "mean_reached": stats.mean(reached),
                        "num_reached": len(reached),
                    }
                )
            )
    return rows


def _answerable(study: Study, slug: str, name: str) -> bool:
    """Figures without the unanswerable tests need a server with at least one other test."""
    if not name.endswith("_answerable"):
        return True
    return any(not test.unanswerable for test in study.keys[slug].unit_tests)
