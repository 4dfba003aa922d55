"""Scoring in worker processes of this machine, each with a sandbox of its own."""

from __future__ import annotations

import contextlib
import multiprocessing
import os
import signal
import traceback
from collections.abc import Generator, Iterator
from concurrent.futures import FIRST_COMPLETED, Future, ProcessPoolExecutor, wait
from concurrent.futures.process import BrokenProcessPool

from toolgenesis_sft.errors import UserError
from toolgenesis_sft.orphans import end_with
from toolgenesis_sft.records import LayerScores, ServerPrediction
from toolgenesis_sft.scoring.worker import Kit, Worker, given_up, keep_evidence


def score_all(
    kit: Kit, todo: Iterator[ServerPrediction]
) -> Generator[tuple[LayerScores, str], None, None]:
    """Records as they finish, each with a note for the terminal where scoring itself failed.

    A worker that dies takes its pool with it. What was in flight is tried once more in a new pool,
    one after the other, so that a prediction which ends its worker takes no other with it.
    """
    again: list[ServerPrediction] = []
    at_once = 2 * kit.job.settings.workers  # one at work and one waiting a worker
    while True:
        in_flight: dict[Future[LayerScores], tuple[ServerPrediction, bool]] = {}
        broken = False
        with worker_pool(kit) as pool:
            while not broken or in_flight:
                retrying = bool(again) or any(is_retry for _, is_retry in in_flight.values())
                while not broken and len(in_flight) < (1 if retrying else at_once):
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
                        yield given_up(kit, prediction, error), note
        if not broken:
            return


@contextlib.contextmanager
def worker_pool(kit: Kit) -> Iterator[ProcessPoolExecutor]:
    """Spawned, not forked: a worker has nothing of the parent but what it is given.

    After an interrupt or a full disk nobody waits for what the workers are at: they are killed.
    """
    before = set(multiprocessing.active_children())
    pool = ProcessPoolExecutor(
        kit.job.settings.workers,
        mp_context=multiprocessing.get_context("spawn"),
        initializer=start_worker,
        initargs=(kit, os.getpid()),
    )
    try:
        yield pool
    except BaseException:  # an interrupt is one; whatever it is, it goes on
        for worker in set(multiprocessing.active_children()) - before:
            worker.kill()
        raise
    finally:
        pool.shutdown(cancel_futures=True)


_worker: Worker | None = None


def start_worker(kit: Kit, parent: int) -> None:
    """Runs once in each worker process: open its sandbox, and end with the parent."""
    global _worker
    end_with(parent)
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # the parent decides what an interrupt ends
    _worker = Worker(kit)


def score_one(prediction: ServerPrediction) -> LayerScores:
    """Score one prediction in this worker and write its evidence."""
    assert _worker is not None
    return keep_evidence(_worker.kit.job.run, _worker.score(prediction))
