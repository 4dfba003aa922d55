"""Worker processes, each with a sandbox of its own, and what one of them does with a prediction."""

from __future__ import annotations

import contextlib
import ctypes
import hashlib
import math
import multiprocessing
import os
import re
import signal
import traceback
from collections.abc import Generator, Iterator
from concurrent.futures import FIRST_COMPLETED, Future, ProcessPoolExecutor, wait
from concurrent.futures.process import BrokenProcessPool
from dataclasses import dataclass
from pathlib import Path

from toolgenesis_sft.benchmark import load_answer_keys
from toolgenesis_sft.errors import Outcome, UserError, classified
from toolgenesis_sft.records import AnswerKey, Json, LayerScores, Scenario, ServerPrediction
from toolgenesis_sft.runs import RunFolder, write_json
from toolgenesis_sft.sandbox.jail import Limits
from toolgenesis_sft.sandbox.session import Sandbox
from toolgenesis_sft.scoring import compat, strict
from toolgenesis_sft.scoring.agent import Agent
from toolgenesis_sft.scoring.examination import figures_for, harness_failed
from toolgenesis_sft.scoring.job import ScoreJob, agent_of, digest, judge_of
from toolgenesis_sft.scoring.judge import Judge

NUM_TRIES = 2  # of a prediction whose scoring ended in a harness fault
MAX_SHOWN_CHARS = 4000  # of one answer in the evidence
PR_SET_PDEATHSIG = 1  # <linux/prctl.h>


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
    except BaseException:  # an interrupt is one; whatever it is, it goes on
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
