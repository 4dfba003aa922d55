"""Score predictions over a worker pool: finished ones are appended, and never redone.

scores.jsonl grows in the order in which servers finish and is put into the predictions' order
at the end, so its bytes do not depend on the number of workers or on interruptions. score.json
beside it says what it was scored with; other settings want another folder.
"""

from __future__ import annotations

import contextlib
import ctypes
import hashlib
import math
import multiprocessing
import os
import re
import signal
import sys
import traceback
from collections.abc import Generator, Iterator
from concurrent.futures import FIRST_COMPLETED, Future, ProcessPoolExecutor, wait
from concurrent.futures.process import BrokenProcessPool
from dataclasses import dataclass
from pathlib import Path

from toolgenesis_sft import __version__
from toolgenesis_sft.benchmark import Benchmark, load_answer_keys, load_benchmark
from toolgenesis_sft.client import read_key
from toolgenesis_sft.config import Recipe, Score, resolve_path, server_python
from toolgenesis_sft.errors import HarnessFault, Outcome, UserError, classified
from toolgenesis_sft.predictions import read_predictions
from toolgenesis_sft.progress import Progress
from toolgenesis_sft.prompts import parse_prediction
from toolgenesis_sft.records import AnswerKey, Json, LayerScores, Scenario, ServerPrediction
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
from toolgenesis_sft.scoring import compat, strict
from toolgenesis_sft.scoring.agent import Agent
from toolgenesis_sft.scoring.examination import all_at_fault, figures_for, harness_failed
from toolgenesis_sft.scoring.judge import Endpoint, Judge

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
        sandbox_facts = self_test(interpreter) if num_todo else {}
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
        if num_todo or not job.run.provenance.exists():
            add_provenance(job.run, "score", {**facts, "sandbox": dict(sandbox_facts)})
    owed = [(record.slug, fault) for record in records if (fault := fault_of_harness(record))]
    if owed:
        slug, fault = owed[0]
        raise HarnessFault(
            "unscored", f"{len(owed)} of {len(records)} predictions, first {slug}: {fault}"
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


def check_models(job: ScoreJob, keys: dict[str, AnswerKey], order: dict[Key, str]) -> None:
    """Keys that are set, and a reference server for each task. Raises UserError."""
    settings = job.settings
    for variable in (settings.judge_key_variable, settings.solver_key_variable):
        read_key(variable)
    if settings.utility == "agent" and "L4" in settings.layers:
        known = oracle_servers(settings)
        for slug in sorted({key[2] for key in order}):
            if keys[slug].tasks and slug not in known:
                raise UserError(
                    f"score.oracle: {slug}",
                    str(settings.oracle),
                    "has no server with code for it",
                    "add one: an agent's success is measured against it",
                )


def oracle_servers(settings: Score) -> dict[str, str]:
    """Code by slug, of a folder of servers, of predictions, or of a run; the first of a slug."""
    assert settings.oracle is not None
    path = resolve_path(settings.oracle)
    if not path.exists() and "/" not in settings.oracle:
        path = RunFolder(Path("runs") / settings.oracle).predictions
    servers: dict[str, str] = {}
    for prediction in read_predictions(path):
        code = parse_prediction(prediction).code
        if code is not None:
            servers.setdefault(prediction.slug, code)
    return servers


def judge_of(settings: Score) -> Judge | None:
    if settings.judge_url is None or settings.judge_model is None:
        return None
    return Judge(Endpoint(settings.judge_url, settings.judge_model, settings.judge_key_variable))


def agent_of(job: ScoreJob, judge: Judge | None) -> Agent | None:
    settings = job.settings
    if settings.utility != "agent" or "L4" not in settings.layers:
        return None
    assert judge is not None
    solver = judge.endpoint
    if settings.solver_url is not None and settings.solver_model is not None:
        solver = Endpoint(settings.solver_url, settings.solver_model, settings.solver_key_variable)
    return Agent(solver, judge, oracle_servers(settings), job.run.root / "oracle")


def job_facts(job: ScoreJob, keys: dict[str, AnswerKey], interpreter: Path) -> dict[str, Json]:
    """What a score depends on besides the prediction."""
    settings = job.settings
    agent = None
    if settings.utility == "agent":
        agent = {
            "solver": settings.solver_model or settings.judge_model,
            "oracle_digest": fingerprint(oracle_servers(settings)),
        }
    return {
        "benchmark": job.benchmark.path.name,
        "benchmark_digest": job.benchmark.digest,
        "tasks_digest": fingerprint(
            {slug: key.model_dump(mode="json") for slug, key in keys.items()}
        ),
        "profile": settings.profile,
        "layers": list(settings.layers),
        "launch_attempts": settings.launch_attempts,
        "call_timeout_s": settings.call_timeout_s,
        "memory_mib": settings.memory_mib,
        "judge": settings.judge_model,
        "agent": agent,
        "server_runtime_digest": runtime_digest(interpreter),
        "scorer": __version__,
    }


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
    job: ScoreJob,
    keys: dict[str, AnswerKey],
    interpreter: Path,
    todo: Iterator[ServerPrediction],
) -> Generator[tuple[LayerScores, str], None, None]:
    """Records as they finish, each with a note for the terminal where scoring itself failed.

    A worker that dies takes its pool with it. What was in flight is tried once more in a new pool,
    one after the other, so that a prediction which ends its worker takes no other with it.
    """
    again: list[ServerPrediction] = []
    while True:
        in_flight: dict[Future[LayerScores], tuple[ServerPrediction, bool]] = {}
        broken = False
        with worker_pool(job, interpreter) as pool:
            while not broken or in_flight:
                retrying = bool(again) or any(is_retry for _, is_retry in in_flight.values())
                while not broken and len(in_flight) < (1 if retrying else 2 * job.settings.workers):
                    is_retry = bool(again)
                    prediction = again.pop() if is_retry else next(todo, None)
                    if prediction is None:
                        break
                    try:
                        in_flight[pool.submit(score_one, prediction)] = prediction, is_retry
                    except BrokenProcessPool:
                        again.append(prediction)
                        broken = True
                if not in_flight:
                    break
                for future in wait(in_flight, return_when=FIRST_COMPLETED).done:
                    prediction, is_retry = in_flight.pop(future)
                    error = future.exception()
                    broken = broken or isinstance(error, BrokenProcessPool)
                    if error is None:
                        yield future.result(), ""
                    elif isinstance(error, UserError):
                        raise error
                    elif isinstance(error, BrokenProcessPool) and not is_retry:
                        again.append(prediction)
                    else:
                        note = "".join(traceback.format_exception(error))
                        reason = f"scorer: {type(error).__name__}: {error}"
                        yield unscored(job, keys[prediction.slug], prediction, reason), note
        if not broken:
            return


@contextlib.contextmanager
def worker_pool(job: ScoreJob, interpreter: Path) -> Iterator[ProcessPoolExecutor]:
    """Spawned, not forked: a worker has nothing of the parent but what it is given.

    After an interrupt or a full disk nobody waits for what the workers are at: they are killed.
    """
    before = set(multiprocessing.active_children())
    pool = ProcessPoolExecutor(
        job.settings.workers,
        mp_context=multiprocessing.get_context("spawn"),
        initializer=start_worker,
        initargs=(job, interpreter, os.getpid()),
    )
    try:
        yield pool
    except BaseException:
        for worker in set(multiprocessing.active_children()) - before:
            worker.kill()
        raise
    finally:
        pool.shutdown(cancel_futures=True)


@dataclass
class Worker:
    """What one worker process keeps between predictions."""

    job: ScoreJob
    scenarios: dict[str, Scenario]
    keys: dict[str, AnswerKey]
    sandbox: Sandbox
    judge: Judge | None
    agent: Agent | None


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
    judge = judge_of(job.settings)
    keys = load_answer_keys(job.benchmark.path)
    _worker = Worker(job, scenarios, keys, sandbox, judge, agent_of(job, judge))


def score_one(prediction: ServerPrediction) -> LayerScores:
    """Score one prediction in this worker and write its evidence."""
    assert _worker is not None
    job, slug = _worker.job, prediction.slug
    by_profile = {"strict": strict.score_server, "tg-compat": compat.score_server}
    score_server = by_profile[job.settings.profile]
    reason = ""
    for _ in range(NUM_TRIES):
        with classified() as verdict:
            record, evidence = score_server(
                prediction,
                _worker.scenarios[slug],
                _worker.keys[slug],
                _worker.sandbox,
                job.settings,
                _worker.judge,
                _worker.agent,
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
    return unscored(job, _worker.keys[slug], prediction, reason)


def unscored(
    job: ScoreJob, key: AnswerKey, prediction: ServerPrediction, reason: str
) -> LayerScores:
    return LayerScores(
        slug=prediction.slug,
        model=prediction.model,
        strategy=prediction.strategy,
        sample_index=prediction.sample_index,
        prediction_digest=digest(prediction),
        figures=dict.fromkeys(figures_for(key, job.settings), harness_failed(reason)),
    )


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
