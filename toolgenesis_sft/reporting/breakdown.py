"""What the means hide: funnel, domains, faults, and the figures behind the figures.

Every breakdown is a frozen record, kept in report.json under `extra` and drawn by `page`.
"""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Callable
from typing import Literal

from toolgenesis_sft.errors import Outcome
from toolgenesis_sft.records import FigureName, Record
from toolgenesis_sft.reporting import stats
from toolgenesis_sft.reporting.study import Contestant, Study
from toolgenesis_sft.reporting.values import Row, Values, groups, mean_over, row_of

# Reasons of the scorer for a completion that holds no whole Python program.
NO_PROGRAM = frozenset(
    {
        "no_prediction",
        "unanswered",
        "empty_completion",
        "unfinished_think",
        "truncated",
        "syntax_error",
        "code_too_large",
    }
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
    "boundary_judged": "capability_boundary",
    "share_tasks_solved": "task_utility",
}
MAX_EXAMPLES = 5


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


Side = Literal["model", "harness", "benchmark"]
SIDES: dict[Outcome, Side] = {Outcome.MODEL_FAULT: "model", Outcome.HARNESS_FAULT: "harness"}
# Kinds of unit test that no server can pass: broken arguments, or an answer that was recorded while
# the collecting harness failed.
OF_BENCHMARK = frozenset({"broken_arguments_in_benchmark", "unanswerable"})


class FaultCount(Row):
    """How often one kind of fault occurs: predictions (or unit tests) that it ended."""

    where: str
    at_fault: Side
    kind: str
    count: int
    examples: tuple[str, ...]


class SideFigure(Row):
    name: str
    mean_all: float | None
    mean_reached: float
    num_reached: int


def funnels(study: Study, values: Values) -> list[Funnel]:
    """Where servers first fail. A gate is passed from stats.PASS on; a figure that does not apply
    to a server lets it through; a harness fault stops it without blame to the model."""
    gates = [figure for figure in FUNNEL if figure in study.figures]
    funnels = []
    for contestant, scenarios, slugs in groups(study):
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
                {**row_of(contestant, scenarios), "num_servers": len(slugs), "steps": steps}
            )
        )
    return funnels


def _wrote_program(study: Study, contestant: Contestant, slug: str) -> bool:
    first = study.figures[0]
    scores = study.figure(contestant, slug, first)
    if "launch" in study.figures:
        scores = study.figure(contestant, slug, "launch")
    whole = sum(kind_of(score.reason) not in NO_PROGRAM for score in scores)
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
    for contestant, scenarios, slugs in groups(study):
        for by, key_of in keys.items():
            members: defaultdict[str, list[str]] = defaultdict(list)
            for slug in slugs:
                members[key_of(slug)].append(slug)
            for key, inside in sorted(members.items(), key=lambda m: (-len(m[1]), m[0])):
                rows.append(
                    Slice.model_validate(
                        {
                            **row_of(contestant, scenarios),
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


TestFaults = dict[Contestant, dict[str, Counter[str]]]


def taxonomy(study: Study, test_faults: TestFaults) -> list[FaultCount]:
    """Faults by kind. `test_faults[contestant][slug]` counts the faults of single unit tests."""
    rows = []
    for contestant, scenarios, slugs in groups(study):
        found: defaultdict[tuple[str, Side, str], Counter[str]] = defaultdict(Counter)
        for slug in slugs:
            hit: set[tuple[int, tuple[str, Side, str]]] = set()  # one fault may end many figures
            for figure in study.figures:
                if not study.applies(slug, figure):
                    continue
                for sample, score in enumerate(study.figure(contestant, slug, figure)):
                    if score.outcome in SIDES:
                        kind = kind_of(score.reason)
                        where = "program" if kind in NO_PROGRAM else figure
                        hit.add((sample, (where, SIDES[score.outcome], kind)))
            for _, fault in hit:
                found[fault][slug] += 1
            for kind, count in test_faults.get(contestant, {}).get(slug, {}).items():
                side: Side = "benchmark" if kind in OF_BENCHMARK else "model"
                found["unit test", side, kind][slug] += count
        rows += [
            FaultCount.model_validate(
                {
                    **row_of(contestant, scenarios),
                    "where": where,
                    "at_fault": side,
                    "kind": kind,
                    "count": sum(by_slug.values()),
                    "examples": [slug for slug, _ in by_slug.most_common(MAX_EXAMPLES)],
                }
            )
            for (where, side, kind), by_slug in sorted(
                found.items(), key=lambda item: (-sum(item[1].values()), item[0])
            )
        ]
    return rows


def kind_of(reason: str) -> str:
    """The short, stable name at the start of a reason."""
    return reason.partition(":")[0].strip() or "unnamed"


def side_figures(study: Study) -> list[SideFigure]:
    """Means of the scorer's side figures. Where a main figure stands behind one, servers that do
    not reach it count as 0 in `mean_all`, by the same rule."""
    rows = []
    for contestant, scenarios, slugs in groups(study):
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
                    elif record is not None and f"{name}_fault" in record.details:
                        counted.append(None)  # the judge did not answer: no fault of the server's
                    else:
                        counted.append(0.0 if stats.counted(score) is not None else None)
            if not reached:
                continue
            known = [value for value in counted if value is not None]
            rows.append(
                SideFigure.model_validate(
                    {
                        **row_of(contestant, scenarios),
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
