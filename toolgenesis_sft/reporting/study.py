"""What a report is about: which scenarios were asked for, of whom, and what came back.

A run asks for the scenarios of its recipe; a bare folder is a submission to the whole benchmark.
Either way those scenarios are the denominator, whatever was predicted or scored.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Literal, NamedTuple

from toolgenesis_sft.benchmark import Benchmark, load_answer_keys, load_benchmark
from toolgenesis_sft.config import Recipe, resolve_path
from toolgenesis_sft.errors import Outcome, UserError
from toolgenesis_sft.records import (
    BEFORE,
    FIGURES,
    TRAINED,
    AnswerKey,
    ChatSample,
    FigureName,
    FigureScore,
    Json,
    LayerScores,
    ServerPrediction,
    Strategy,
)
from toolgenesis_sft.runs import RunFolder, provenance, read_json, read_records, sha256_file

ScenarioSet = Literal["train", "held_out", "all"]
LAYERS: dict[str, tuple[FigureName, ...]] = {
    "L1": ("compliance", "launch"),
    "L2": ("schema_f1", "ut_soft", "ut_hard"),
    "L3": ("capability_boundary",),
    "L4": ("task_utility",),
}
NO_PREDICTION = "no_prediction"
# A submission that leaves a scenario out is at fault. A run asks for each of its scenarios, so what
# it has no answer to is owed by whoever was to ask and to answer; that says nothing of the model.
LEFT_OUT = FigureScore(outcome=Outcome.MODEL_FAULT, reason=NO_PREDICTION)
OWED = FigureScore(
    outcome=Outcome.HARNESS_FAULT, reason="unanswered: generate has not had an answer to it"
)
NOT_SCORED = FigureScore(outcome=Outcome.HARNESS_FAULT, reason="not_scored")


class Contestant(NamedTuple):
    """A model with a strategy: one row of the table, on each set of scenarios."""

    model: str
    strategy: Strategy

    def __str__(self) -> str:
        return f"{self.model}/{self.strategy}"


class Means(NamedTuple):
    """What scoring had besides the benchmark: its profile, and whether there was a judge, and an
    agent to do the tasks."""

    profile: str
    judge: bool
    agent: bool


Key = tuple[str, str, str, int]


@dataclass(frozen=True)
class Study:
    """Everything that the report counts. `sets` holds slugs in the benchmark's order."""

    name: str
    folder: RunFolder
    benchmark: Benchmark
    keys: dict[str, AnswerKey]
    profile: str
    sets: dict[ScenarioSet, tuple[str, ...]]
    trained_on: frozenset[str]
    start_model: str | None
    contestants: tuple[Contestant, ...]
    num_samples: dict[Contestant, int]
    applicable: dict[FigureName, frozenset[str]]
    """By figure that was asked for: the servers that the benchmark holds data for."""
    predictions: dict[Key, ServerPrediction]
    scores: dict[Key, LayerScores]
    absent: FigureScore
    """What stands for a sample without a prediction: LEFT_OUT or OWED."""
    provenance: dict[str, Json]
    left_out: tuple[str, ...] = ()

    def memorised(self, contestant: Contestant, scenarios: ScenarioSet) -> bool:
        """Whether this row shows what the model was trained on: the run's own model, or one of
        its checkpoints, on training scenarios."""
        if not self.trained_on or scenarios != "train":
            return False
        asked = self.provenance.get("generate", {}).get("models", {}).get(contestant.model, {})
        source = Path(asked.get("source", contestant.model))  # a label is a folder's name alone
        own = source.absolute().is_relative_to(self.folder.root.absolute())
        return contestant.model == TRAINED or own

    @property
    def figures(self) -> tuple[FigureName, ...]:
        """Those that apply to at least one server."""
        return tuple(figure for figure, slugs in self.applicable.items() if slugs)

    def applies(self, slug: str, figure: FigureName) -> bool:
        return slug in self.applicable[figure]

    def figure(self, contestant: Contestant, slug: str, figure: FigureName) -> list[FigureScore]:
        """One score a sample; every sample that was asked for has one."""
        return [
            self._figure((*contestant, slug, sample), figure)
            for sample in range(self.num_samples[contestant])
        ]

    def _figure(self, key: Key, figure: FigureName) -> FigureScore:
        score = self.scores.get(key)
        if score is not None and figure in score.figures:
            return score.figures[figure]
        return NOT_SCORED if score is not None or key in self.predictions else self.absent

    def missing(self, contestant: Contestant, slugs: Iterable[str]) -> tuple[str, ...]:
        """Servers that a submission left out, or a sample of which it left out."""
        return tuple(
            slug
            for slug in slugs
            if any(
                score.reason == NO_PREDICTION
                for score in self.figure(contestant, slug, self.figures[0])
            )
        )


def study_run(recipe: Recipe, run: RunFolder) -> Study:
    """The study of a run folder. Raises UserError where a stage before the report did not run."""
    for path, stage in ((run.predictions, "generate"), (run.scores, "score")):
        if not path.exists():
            raise UserError(
                "report",
                str(path),
                "does not exist",
                f"run `toolgenesis-sft {stage}` with the same recipe first",
            )
    benchmark = load_benchmark(resolve_path(recipe.benchmark))
    trained_on = frozenset(
        sample.scenario
        for sample in read_records(run.data / "train.jsonl", ChatSample)
        if sample.scenario is not None
    )
    predictions = {p.key: p for p in read_records(run.predictions, ServerPrediction)}
    found = {Contestant(p.model, p.strategy) for p in predictions.values()}
    if any(contestant.model == TRAINED for contestant in found):
        refuse_other_data(run)
    # The provenance names all that are asked: a model that answered nothing has its row too.
    generated = _provenance(run).get("generate", {})
    models = set(generated.get("models") or {contestant.model for contestant in found})
    if recipe.generate.compare_before_training and recipe.generate.engine != "endpoint":
        models.add(BEFORE)
    found |= {Contestant(model, s) for model in models for s in recipe.generate.strategies}
    return _study(
        name=run.root.name,
        folder=run,
        benchmark=benchmark,
        means=Means(
            recipe.score.profile,
            judge=recipe.score.judge_url is not None,
            agent=recipe.score.utility == "agent",
        ),
        sets=asked_sets(benchmark, trained_on, recipe.generate.scenarios),
        trained_on=trained_on,
        start_model=recipe.model.name_or_path,
        contestants=found,
        num_samples=recipe.generate.num_samples,
        layers=recipe.score.layers,
        predictions=predictions,
        absent=OWED,
    )


def refuse_other_data(run: RunFolder) -> None:
    """Raises UserError where data/ is not what the run's model was trained on: it would say of the
    wrong scenarios that the model has seen them."""
    owner = RunFolder(run.data.resolve().parent)  # data/ may be a link to another run's
    trained_with = _provenance(owner).get("train", {}).get("data_manifest")
    manifest = run.data / "manifest.json"
    if trained_with and not (manifest.exists() and sha256_file(manifest) == trained_with):
        raise UserError(
            "data",
            str(run.data),
            "is not the data that the model was trained on",
            "put that back, or train on this under --run NEW_NAME",
        )


def study_folder(benchmark_path: Path, out: Path) -> Study:
    """The study of a `score --out` folder: the whole benchmark is the denominator."""
    folder = RunFolder(out)
    if not folder.scores.exists():
        raise UserError(
            "--out",
            str(out),
            "holds no scores.jsonl",
            "run `toolgenesis-sft score` with the same --out first",
        )
    settings = read_json(out / "score.json") if (out / "score.json").exists() else {}
    benchmark = load_benchmark(benchmark_path)
    if settings.get("benchmark_digest", benchmark.digest) != benchmark.digest:
        raise UserError(
            "--benchmark",
            str(benchmark_path),
            f"is not the benchmark that {out} was scored on",
            f"give {settings.get('benchmark', 'that file')} as it was, or score again",
        )
    if settings and "score" not in _provenance(folder):
        raise UserError(
            "--out",
            str(out),
            "was not scored to the end",
            "run `toolgenesis-sft score` with the same options again: it continues",
        )
    return _study(
        name=out.resolve().name,
        folder=folder,
        benchmark=benchmark,
        means=Means(
            settings.get("profile", "strict"),
            judge=settings.get("judge") is not None,
            agent=settings.get("agent") is not None,
        ),
        sets=asked_sets(benchmark, frozenset(benchmark.train), "all"),
        trained_on=frozenset(),
        start_model=None,
        contestants=set(),
        num_samples=1,
        layers=settings.get("layers"),
        predictions={p.key: p for p in read_records(folder.predictions, ServerPrediction)},
        absent=LEFT_OUT,
    )


def asked_sets(
    benchmark: Benchmark, trained_on: frozenset[str], scenarios: str
) -> dict[ScenarioSet, tuple[str, ...]]:
    """The scenarios that were asked for, by set, skill first; `all` is their union and always
    there.

    `train` means those the model was trained on; without training data, the benchmark's split.
    """
    train = trained_on or frozenset(benchmark.train)
    held_out = frozenset(benchmark.held_out) - train
    wanted = {
        "train": train,
        "held_out": held_out,
        "train_and_held_out": train | held_out,
        "all": frozenset(benchmark.slugs),
    }[scenarios]
    asked = tuple(slug for slug in benchmark.slugs if slug in wanted)
    sets: dict[ScenarioSet, tuple[str, ...]] = {
        "held_out": tuple(slug for slug in asked if slug in held_out),
        "train": tuple(slug for slug in asked if slug in train),
    }
    return {**{name: slugs for name, slugs in sets.items() if slugs and train}, "all": asked}


def _study(
    *,
    name: str,
    folder: RunFolder,
    benchmark: Benchmark,
    means: Means,
    sets: dict[ScenarioSet, tuple[str, ...]],
    trained_on: frozenset[str],
    start_model: str | None,
    contestants: set[Contestant],
    num_samples: int,
    layers: Iterable[str] | None,
    predictions: dict[Key, ServerPrediction],
    absent: FigureScore,
) -> Study:
    asked = set(sets["all"])
    every_score = read_records(folder.scores, LayerScores)
    scores = {score.key: score for score in every_score if score.slug in asked}
    left_out = {score.slug for score in every_score} - asked
    contestants |= {Contestant(score.model, score.strategy) for score in scores.values()}
    samples: defaultdict[Contestant, int] = defaultdict(lambda: num_samples)
    made = [(Contestant(p.model, p.strategy), p.sample_index) for p in predictions.values()]
    made += [(Contestant(s.model, s.strategy), s.sample_index) for s in scores.values()]
    for contestant, sample in made:
        samples[contestant] = max(samples[contestant], sample + 1)
    ordered = tuple(sorted(contestants, key=_order)) or (Contestant("imported", "imported"),)
    if layers is not None:
        figures = tuple(figure for layer in LAYERS if layer in layers for figure in LAYERS[layer])
    else:
        present = {figure for score in scores.values() for figure in score.figures}
        figures = tuple(f for f in FIGURES if f in present) or FIGURES
    keys = load_answer_keys(benchmark.path)
    return Study(
        name=name,
        folder=folder,
        benchmark=benchmark,
        keys=keys,
        profile=means.profile,
        sets=sets,
        trained_on=trained_on,
        start_model=start_model,
        contestants=ordered,
        num_samples={contestant: samples[contestant] for contestant in ordered},
        applicable={
            figure: _applicable(figure, sets["all"], keys, scores, means) for figure in figures
        },
        predictions={key: p for key, p in predictions.items() if p.slug in asked},
        scores=scores,
        absent=absent,
        provenance=_provenance(folder),
        left_out=tuple(sorted(left_out)),
    )


def _applicable(
    figure: FigureName,
    slugs: tuple[str, ...],
    keys: dict[str, AnswerKey],
    scores: dict[Key, LayerScores],
    means: Means,
) -> frozenset[str]:
    """The servers that a figure can be had of: with unit tests, with tasks. It must not depend on
    who launches: the denominator is everybody's.

    An agent measures a server by the tasks that it solves with the reference server. Where it
    solves none, the scorer leaves the figure out of that server's record, and of no other.
    """
    compat = means.profile == "tg-compat"
    if figure in ("ut_soft", "ut_hard"):
        return frozenset(slug for slug in slugs if keys[slug].unit_tests)
    if figure == "capability_boundary" and compat and not means.judge:
        return frozenset()
    if figure == "task_utility" and means.agent:
        unsolvable = {score.slug for score in scores.values() if figure not in score.figures}
        return frozenset(slug for slug in slugs if keys[slug].tasks) - unsolvable
    if figure == "task_utility":
        planned = (s for s in slugs if any(task.plan and task.outcome for task in keys[s].tasks))
        return frozenset() if compat else frozenset(planned)
    return frozenset(slugs)


def _provenance(folder: RunFolder) -> dict[str, Json]:
    stages: dict[str, Json] = (
        read_json(folder.provenance) if folder.provenance.exists() else {"report": provenance()}
    )
    return stages


def _order(contestant: Contestant) -> tuple[int, str, str]:
    """Before training first, the trained model after it, then whoever else, by name."""
    place = {BEFORE: 0, TRAINED: 1}.get(contestant.model, 2)
    return place, contestant.model, contestant.strategy
