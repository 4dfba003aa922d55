"""The same work on several processes: results in the order of the items, memory flat."""

from __future__ import annotations

import multiprocessing
import os
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from itertools import chain, islice
from typing import Any, TypeVar

from toolgenesis_sft.errors import HarnessFault
from toolgenesis_sft.orphans import end_with

T = TypeVar("T")
R = TypeVar("R")

ITEMS_IN_FLIGHT = 3  # per process: one at work, two waiting

_work: Callable[[Any], Any]  # a worker process's own, made once


def ordered_map(
    make: Callable[[], Callable[[T], R]], items: Iterable[T], num_processes: int
) -> Iterator[R]:
    """`make()` gives the function, once a process; results come in the order of the items.

    Items are taken from their iterator only as they are needed. One item, or one process, is
    worked on right here. Raises HarnessFault where a worker process dies.
    """
    stream = iter(items)
    first = list(islice(stream, 2))
    if num_processes == 1 or len(first) < 2:
        work = make()
        yield from map(work, chain(first, stream))
        return
    # spawn: a fork would copy the threads' locks of whatever library has threads
    context = multiprocessing.get_context("spawn")
    with ProcessPoolExecutor(num_processes, context, _prepare, (make, os.getpid())) as pool:
        waiting: deque[Future[R]] = deque()
        try:
            for item in chain(first, stream):
                waiting.append(pool.submit(_run, item))
                if len(waiting) >= num_processes * ITEMS_IN_FLIGHT:
                    yield waiting.popleft().result()
            while waiting:
                yield waiting.popleft().result()
        except BrokenProcessPool as error:
            raise HarnessFault(
                "worker_died", "a process of the build was killed; out of memory?"
            ) from error
        finally:
            for future in waiting:
                future.cancel()


def _prepare(make: Callable[[], Callable[[Any], Any]], parent: int) -> None:
    global _work
    # Otherwise a worker waits for ever for the next item of a build that was killed with -9.
    end_with(parent)
    _work = make()


def _run(item: Any) -> Any:
    return _work(item)
