"""Score predictions over workers: finished ones are appended, and never redone.

scores.jsonl grows in the order in which servers finish and is put into the predictions' order
at the end, so its bytes do not depend on workers, machines, shards or interruptions. score.json
beside it says what it was scored with; other settings want another folder.
"""

from __future__ import annotations

import contextlib
import sys
from collections.abc import Callable, Generator, Iterator
from pathlib import Path

from toolgenesis_sft.benchmark import load_answer_keys
from toolgenesis_sft.config import Score, server_python
from toolgenesis_sft.errors import HarnessFault, Outcome, UserError
from toolgenesis_sft.predictions import read_predictions
from toolgenesis_sft.progress import Progress
from toolgenesis_sft.records import AnswerKey, Json, LayerScores, ServerPrediction
from toolgenesis_sft.runs import (
    RunFolder,
    add_provenance,
    append_record,
    mend_torn_line,
    read_json,
    read_records,
    write_json,
    write_text,
)
from toolgenesis_sft.sandbox.jail import self_test
from toolgenesis_sft.sandbox.workshop import require_ray
from toolgenesis_sft.scoring import compat, pool
from toolgenesis_sft.scoring.examination import all_at_fault, figures_for
from toolgenesis_sft.scoring.job import Key, ScoreJob, check_models, check_predictions, job_facts
from toolgenesis_sft.scoring.worker import Kit

Executor = Callable[
    [Kit, Iterator[ServerPrediction]], Generator[tuple[LayerScores, str], None, None]
]
"""Scores what it is given and yields records as they finish, each with a note for the terminal
where scoring itself failed."""


def score_predictions(job: ScoreJob) -> None:
    """Score what is not scored yet. Raises HarnessFault at the end if anything stayed unscored."""
    interpreter, keys, order = check(job)
    with claimed(job):
        facts = job_facts(job, keys, interpreter)
        claim_folder(job, facts)
        mend_torn_line(job.scores)
        scored = scored_before(job, order)
        is_new = len(scored) < len(order) or not is_concluded(job.run)
        sandbox_facts = self_test(interpreter) if is_new else {}
        score_the_rest(Kit.of(job, keys, interpreter), order, scored)
        records = [scored[key] for key in order]
        is_whole = job.settings.shard is None
        if is_whole and job.complete:
            records += missing_records(job, keys, set(order))
        write_text(job.scores, "".join(record.to_line() for record in records))
        if is_whole:
            for path in job.shards():
                path.unlink()
            if job.settings.profile == "tg-compat":
                compat.write_results(records, job.run.root)
            if is_new:
                add_provenance(job.run, "score", {**facts, "sandbox": dict(sandbox_facts)})
    owed = [(record.slug, fault) for record in records if (fault := fault_of_harness(record))]
    if owed:
        slug, fault = owed[0]
        raise HarnessFault(
            "unscored", f"{len(owed)} of {len(records)} predictions, first {slug}: {fault}"
        )


def check(job: ScoreJob) -> tuple[Path, dict[str, AnswerKey], dict[Key, str]]:
    """What a job needs: the servers' interpreter, the answer keys, a digest of each prediction.

    Raises UserError where something is missing or wrong; nothing is written or run.
    """
    interpreter = server_python(job.settings.server_python)
    keys = load_answer_keys(job.benchmark.path)
    order = job.share(check_predictions(job))
    check_models(job, keys, order)
    return interpreter, keys, order


def score_the_rest(kit: Kit, order: dict[Key, str], scored: dict[Key, LayerScores]) -> None:
    """Add to `scored`, and to the job's file, what of `order` is not in it yet."""
    job = kit.job
    todo = (
        prediction
        for prediction in read_predictions(job.predictions)
        if prediction.key in order and prediction.key not in scored
    )
    score_all = executor(job.settings)
    with (
        Progress("score", len(order) - len(scored), "servers") as progress,
        contextlib.closing(score_all(kit, todo)) as finished,
    ):
        for record, note in finished:
            append_record(job.scores, record)
            scored[record.key] = record
            progress.done(headline(record))
            if note:
                print(f"score: {record.slug}: {note}", file=sys.stderr, flush=True)


def executor(settings: Score) -> Executor:
    """Where the workers are."""
    if settings.executor == "local":
        return pool.score_all
    require_ray()
    from toolgenesis_sft.scoring import on_ray

    return on_ray.score_all


@contextlib.contextmanager
def claimed(job: ScoreJob) -> Iterator[None]:
    """The folder is this job's; shards have it together, each with a file of its own."""
    is_shard = job.settings.shard is not None
    with contextlib.ExitStack() as locks:
        locks.enter_context(job.run.locked("score", shared=is_shard))
        if is_shard:
            locks.enter_context(job.run.locked(job.scores.stem))
        yield


def scored_before(job: ScoreJob, order: dict[Key, str]) -> dict[Key, LayerScores]:
    """What this job need not score: here or in a shard, from the same prediction, without fault."""
    files = {job.run.scores, job.scores, *job.shards()}
    return {
        record.key: record
        for path in sorted(files)
        for record in read_records(path, LayerScores)
        if order.get(record.key) == record.prediction_digest and not fault_of_harness(record)
    }


def is_concluded(run: RunFolder) -> bool:
    """Whether an earlier call came to its end here: the provenance is written last."""
    return run.provenance.exists() and "score" in read_json(run.provenance)


def claim_folder(job: ScoreJob, facts: dict[str, Json]) -> None:
    path = job.run.root / "score.json"
    if path.exists():
        old = read_json(path)
        for name, value in facts.items():
            if old.get(name) != value:
                raise UserError(
                    f"score: {name}",
                    str(value),
                    f"{job.run.root} was scored with {old.get(name)}",
                    "give another folder, or remove scores.jsonl and score.json to score again",
                )
    else:
        write_json(path, facts)


def missing_records(
    job: ScoreJob, keys: dict[str, AnswerKey], present: set[Key]
) -> Iterator[LayerScores]:
    """A zero, with the outcome model_fault, for each server that a submission leaves out."""
    groups = sorted({(model, strategy) for model, strategy, _, _ in present}) or [
        ("imported", "imported")
    ]
    predicted = {(model, strategy, slug) for model, strategy, slug, _ in present}
    zeros = all_at_fault("no_prediction")
    for model, strategy in groups:
        for slug in job.benchmark.slugs:
            if (model, strategy, slug) not in predicted:
                yield LayerScores.model_validate(
                    {
                        "slug": slug,
                        "model": model,
                        "strategy": strategy,
                        "figures": {
                            name: zeros[name] for name in figures_for(keys[slug], job.settings)
                        },
                    }
                )


def fault_of_harness(record: LayerScores) -> str:
    """Why this record is owed: a figure, or the judged column, that the harness failed to score.
    Empty where nothing is. The same command scores it again."""
    for figure in record.figures.values():
        if figure.outcome is Outcome.HARNESS_FAULT:
            return figure.reason
    return str(record.details.get("boundary_judged_fault") or "")


def headline(record: LayerScores) -> str:
    """One word on a finished prediction, for the progress line."""
    if fault_of_harness(record):
        return "harness_fault"
    launch = record.figures.get("launch")
    return "launched" if launch is not None and launch.value else "not launched"
