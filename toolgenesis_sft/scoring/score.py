"""Score predictions over a worker pool: finished ones are appended, and never redone.

scores.jsonl grows in the order in which servers finish and is put into the predictions' order
at the end, so its bytes do not depend on the number of workers or on interruptions. score.json
beside it says what it was scored with; other settings want another folder.
"""

from __future__ import annotations

import contextlib
import sys
from collections.abc import Iterator

from toolgenesis_sft.benchmark import load_answer_keys
from toolgenesis_sft.config import server_python
from toolgenesis_sft.errors import HarnessFault, Outcome, UserError
from toolgenesis_sft.predictions import read_predictions
from toolgenesis_sft.progress import Progress
from toolgenesis_sft.records import AnswerKey, Json, LayerScores
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
from toolgenesis_sft.scoring import compat
from toolgenesis_sft.scoring.examination import all_at_fault, figures_for
from toolgenesis_sft.scoring.job import Key, ScoreJob, check_models, check_predictions, job_facts
from toolgenesis_sft.scoring.pool import score_all


def score_predictions(job: ScoreJob) -> None:
    """Score what is not scored yet. Raises HarnessFault at the end if anything stayed unscored."""
    interpreter = server_python(job.settings.server_python)
    keys = load_answer_keys(job.benchmark.path)
    order = check_predictions(job)
    check_models(job, keys, order)
    with job.run.locked("score"):
        facts = job_facts(job, keys, interpreter)
        claim_folder(job, facts)
        mend_torn_line(job.run.scores)
        scored = {
            record.key: record
            for record in read_records(job.run.scores, LayerScores)
            if order.get(record.key) == record.prediction_digest and not fault_of_harness(record)
        }
        num_todo = len(order) - len(scored)
        is_new = num_todo > 0 or not is_concluded(job.run)
        sandbox_facts = self_test(interpreter) if is_new else {}
        todo = (
            prediction
            for prediction in read_predictions(job.predictions)
            if prediction.key not in scored
        )
        with (
            Progress("score", num_todo, "servers") as progress,
            contextlib.closing(score_all(job, keys, interpreter, todo)) as finished,
        ):
            for record, note in finished:
                append_record(job.run.scores, record)
                scored[record.key] = record
                progress.done(headline(record))
                if note:
                    print(f"score: {record.slug}: {note}", file=sys.stderr, flush=True)
        records = [scored[key] for key in order]
        if job.complete:
            records += list(missing_records(job, keys, set(order)))
        write_text(job.run.scores, "".join(record.to_line() for record in records))
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
