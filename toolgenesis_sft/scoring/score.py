"""Score predictions over a worker pool: finished ones are appended, and never redone.

scores.jsonl grows in the order in which servers finish and is put into the predictions' order
at the end, so its bytes do not depend on the number of workers or on interruptions. score.json
beside it says what it was scored with; other settings want another folder.
"""

from __future__ import annotations

import ctypes
import hashlib
import math
import multiprocessing
import os
import re
import signal
import sys
import traceback
from collections.abc import Iterator
from concurrent.futures import FIRST_COMPLETED, Future, ProcessPoolExecutor, wait
from concurrent.futures.process import BrokenProcessPool
from dataclasses import dataclass
from pathlib import Path

from toolgenesis_sft import __version__
from toolgenesis_sft.benchmark import Benchmark, load_answer_keys, load_benchmark
from toolgenesis_sft.config import Recipe, Score, resolve_path, server_python
from toolgenesis_sft.errors import HarnessFault, Outcome, UserError, classified
from toolgenesis_sft.predictions import read_predictions
from toolgenesis_sft.progress import Progress
from toolgenesis_sft.records import FigureScore, Json, LayerScores, Scenario, ServerPrediction
from toolgenesis_sft.runs import (
    RunFolder,
    add_provenance,
    append_record,
    fingerprint,
    mend_torn_line,
    read_json,
    read_records,
    write_json,
    write_text,
)
from toolgenesis_sft.sandbox.jail import Limits, runtime_digest, self_test
from toolgenesis_sft.sandbox.session import Sandbox
from toolgenesis_sft.scoring.strict import LAYER_FIGURES, all_at_fault, score_server

NUM_TRIES = 2  # of a prediction whose scoring ended in a harness fault
MAX_SHOWN_CHARS = 4000  # of one answer in the evidence
PR_SET_PDEATHSIG = 1  # <linux/prctl.h>

Key = tuple[str, str, str, int]


@dataclass(frozen=True)
class ScoreJob:
    """What is scored, with what, and where it goes."""

    benchmark: Benchmark
    predictions: Path
    run: RunFolder
    settings: Score
    complete: bool
    """Whether the predictions are a whole submission: a server without one is then a zero."""

    @classmethod
    def of_run(cls, recipe: Recipe, run: RunFolder) -> ScoreJob:
        """The predictions of a run; those that generation still owes are not scored."""
        if not run.predictions.exists():
            raise UserError(
                "predictions",
                str(run.predictions),
                "does not exist",
                f"run `toolgenesis-sft generate` for {run.root.name} first",
            )
        benchmark = load_benchmark(resolve_path(recipe.benchmark))
        return cls(benchmark, run.predictions, run, recipe.score, complete=False)

    @classmethod
    def of_folder(cls, benchmark: Path, predictions: Path, out: Path, settings: Score) -> ScoreJob:
        """Anyone's predictions: JSON lines, a registry.json, or a folder of <slug>.py."""
        if not predictions.exists():
            raise UserError(
                "--predictions",
                str(predictions),
                "does not exist",
                "give predictions.jsonl, registry.json or a folder of <slug>.py",
            )
        loaded = load_benchmark(benchmark)
        return cls(loaded, predictions, RunFolder(out), settings, complete=True)


def score_predictions(job: ScoreJob) -> None:
    """Score what is not scored yet. Raises HarnessFault at the end if anything stayed unscored."""
    interpreter = server_python(job.settings.server_python)
    order = check_predictions(job)
    sandbox_facts = self_test(interpreter)
    with job.run.locked("score"):
        facts = job_facts(job, interpreter)
        claim_folder(job, facts)
        mend_torn_line(job.run.scores)
        scored = {
            record.key: record
            for record in read_records(job.run.scores, LayerScores)
            if order.get(record.key) == record.prediction_digest and not is_harness_fault(record)
        }
        todo = (
            prediction
            for prediction in read_predictions(job.predictions)
            if prediction.key not in scored
        )
        with Progress("score", len(order) - len(scored), "servers") as progress:
            for record, note in score_all(job, interpreter, todo):
                append_record(job.run.scores, record)
                scored[record.key] = record
                progress.done(headline(record))
                if note:
                    print(f"score: {record.slug}: {note}", file=sys.stderr, flush=True)
        records = [scored[key] for key in order]
        if job.complete:
            records += list(missing_records(job, set(order)))
        write_text(job.run.scores, "".join(record.to_line() for record in records))
        add_provenance(job.run, "score", {**facts, "sandbox": dict(sandbox_facts)})
    unscored = [record for record in records if is_harness_fault(record)]
    if unscored:
        raise HarnessFault(
            "unscored",
            f"{len(unscored)} of {len(records)} predictions, first {unscored[0].slug}:"
            f" {next(iter(unscored[0].figures.values())).reason}",
        )


def check_predictions(job: ScoreJob) -> dict[Key, str]:
    """Key -> digest of each prediction, in order. Raises UserError before any work begins."""
    known = set(job.benchmark.slugs)
    order: dict[Key, str] = {}
    for prediction in read_predictions(job.predictions):
        if prediction.slug not in known:
            raise UserError(
                f"{job.predictions.name}: slug",
                prediction.slug,
                f"is not in the benchmark {job.benchmark.path.name}",
                "remove that prediction, or give the benchmark that has it",
            )
        if prediction.key in order:
            raise UserError(
                f"{job.predictions.name}: {prediction.slug}",
                f"{prediction.model}, {prediction.strategy}, sample {prediction.sample_index}",
                "is predicted twice",
                "remove one of the two",
            )
        order[prediction.key] = digest(prediction)
    return order


def digest(prediction: ServerPrediction) -> str:
    """Of all that the score depends on."""
    parts = (prediction.completion, prediction.schema_completion, prediction.finish_reason)
    return hashlib.sha256(repr(parts).encode(errors="surrogatepass")).hexdigest()[:16]


def job_facts(job: ScoreJob, interpreter: Path) -> dict[str, Json]:
    """What a score depends on besides the prediction."""
    settings = job.settings
    return {
        "benchmark": job.benchmark.path.name,
        "benchmark_digest": job.benchmark.digest,
        "tasks_digest": fingerprint(
            {slug: key.model_dump(mode="json") for slug, key in answer_keys(job).items()}
        ),
        "profile": settings.profile,
        "layers": list(settings.layers),
        "launch_attempts": settings.launch_attempts,
        "call_timeout_s": settings.call_timeout_s,
        "memory_mib": settings.memory_mib,
        "server_runtime_digest": runtime_digest(interpreter),
        "scorer": __version__,
    }


def answer_keys(job: ScoreJob) -> dict[str, Json]:
    return load_answer_keys(job.benchmark.path)


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


def score_all(
    job: ScoreJob, interpreter: Path, todo: Iterator[ServerPrediction]
) -> Iterator[tuple[LayerScores, str]]:
    """Records as they finish, each with a note for the terminal where scoring itself failed.

    A worker that dies takes its pool with it: what was in flight is tried once more in a new one.
    """
    waiting: list[tuple[ServerPrediction, int]] = []
    while True:
        in_flight: dict[Future[LayerScores], tuple[ServerPrediction, int]] = {}
        with worker_pool(job, interpreter) as pool:
            while True:
                while len(in_flight) < 2 * job.settings.workers:
                    entry = waiting.pop() if waiting else next(((p, 1) for p in todo), None)
                    if entry is None:
                        break
                    try:
                        in_flight[pool.submit(score_one, entry[0])] = entry
                    except BrokenProcessPool:
                        waiting.append(entry)
                        break
                if not in_flight:
                    break
                for future in wait(in_flight, return_when=FIRST_COMPLETED).done:
                    prediction, attempt = in_flight.pop(future)
                    error = future.exception()
                    if error is None:
                        yield future.result(), ""
                    elif isinstance(error, UserError):
                        raise error
                    elif attempt < NUM_TRIES and isinstance(error, BrokenProcessPool):
                        waiting.append((prediction, attempt + 1))
                    else:
                        note = "".join(traceback.format_exception(error))
                        reason = f"scorer: {type(error).__name__}: {error}"
                        yield unscored(job, prediction, reason[:300]), note
        if not waiting:
            return


def worker_pool(job: ScoreJob, interpreter: Path) -> ProcessPoolExecutor:
    """Spawned, not forked: a worker has nothing of the parent but what it is given."""
    return ProcessPoolExecutor(
        job.settings.workers,
        mp_context=multiprocessing.get_context("spawn"),
        initializer=start_worker,
        initargs=(job, interpreter, os.getpid()),
    )


@dataclass
class Worker:
    """What one worker process keeps between predictions."""

    job: ScoreJob
    scenarios: dict[str, Scenario]
    keys: dict[str, Json]
    sandbox: Sandbox


_worker: Worker | None = None


def start_worker(job: ScoreJob, interpreter: Path, parent: int) -> None:
    """Runs once in each worker process: open its sandbox, and end with the parent."""
    global _worker
    ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, signal.SIGKILL)
    if os.getppid() != parent:
        os._exit(1)
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # the parent decides what an interrupt ends
    limits = Limits(call_s=job.settings.call_timeout_s, memory_mib=job.settings.memory_mib)
    sandbox = Sandbox(interpreter, limits)
    sandbox.__enter__()
    scenarios = {scenario.slug: scenario for scenario in job.benchmark.scenarios}
    _worker = Worker(job, scenarios, answer_keys(job), sandbox)


def score_one(prediction: ServerPrediction) -> LayerScores:
    """Score one prediction in this worker and write its evidence."""
    assert _worker is not None
    job, slug = _worker.job, prediction.slug
    reason = ""
    for _ in range(NUM_TRIES):
        with classified() as verdict:
            record, evidence = score_server(
                prediction,
                _worker.scenarios[slug],
                _worker.keys[slug],
                _worker.sandbox,
                job.settings,
            )
        if verdict.outcome is Outcome.SCORED:
            path = evidence_path(job.run, prediction)
            write_json(path, presentable(evidence))
            return record.model_copy(
                update={
                    "prediction_digest": digest(prediction),
                    "evidence": str(path.relative_to(job.run.root)),
                }
            )
        reason = f"{verdict.kind}: {verdict.detail}"
    return unscored(job, prediction, reason)


def unscored(job: ScoreJob, prediction: ServerPrediction, reason: str) -> LayerScores:
    fault = FigureScore(outcome=Outcome.HARNESS_FAULT, reason=reason)
    return LayerScores(
        slug=prediction.slug,
        model=prediction.model,
        strategy=prediction.strategy,
        sample_index=prediction.sample_index,
        prediction_digest=digest(prediction),
        figures={name: fault for layer in job.settings.layers for name in LAYER_FIGURES[layer]},
    )


def missing_records(job: ScoreJob, present: set[Key]) -> Iterator[LayerScores]:
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
                            name: zeros[name]
                            for layer in job.settings.layers
                            for name in LAYER_FIGURES[layer]
                        },
                    }
                )


def is_harness_fault(record: LayerScores) -> bool:
    return any(f.outcome is Outcome.HARNESS_FAULT for f in record.figures.values())


def headline(record: LayerScores) -> str:
    """One word on a finished prediction, for the progress line."""
    if is_harness_fault(record):
        return "harness_fault"
    launch = record.figures.get("launch")
    return "launched" if launch is not None and launch.value else "not launched"


def evidence_path(run: RunFolder, prediction: ServerPrediction) -> Path:
    """evidence/<slug>/<model>.<strategy>.<sample>.json; a hub name's slash becomes `_`."""
    model = re.sub(r"[^A-Za-z0-9._-]", "_", prediction.model)
    if model != prediction.model:
        model += "-" + hashlib.sha256(prediction.model.encode()).hexdigest()[:6]
    name = f"{model}.{prediction.strategy}.{prediction.sample_index}.json"
    return run.evidence / prediction.slug / name


def presentable(value: Json, depth: int = 0) -> Json:
    """Evidence that any JSON reader takes: long texts cut (and marked), no NaN, bounded depth."""
    if isinstance(value, str):
        text = value.encode(errors="replace").decode()
        limit = MAX_SHOWN_CHARS if depth > 1 else 50 * MAX_SHOWN_CHARS  # the code is at depth 1
        cut = f"... [{len(text) - limit} more characters]"
        return text if len(text) <= limit else text[:limit] + cut
    if isinstance(value, float):
        return value if math.isfinite(value) else str(value)
    if isinstance(value, int) and not isinstance(value, bool) and abs(value) >= 1 << 64:
        return f"[a number of {value.bit_length()} bits]"
    if isinstance(value, dict | list | tuple):
        if depth > 40:
            return "[deeper values are not shown]"
        if isinstance(value, dict):
            return {str(key): presentable(inner, depth + 1) for key, inner in value.items()}
        return [presentable(inner, depth + 1) for inner in value]
    return value
