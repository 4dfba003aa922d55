"""Work that needs a sandbox, done by workers of a Ray cluster, each on a core of it.

A worker is sent what it needs and sends back what came out; it shares no folder with this process,
which alone writes. Its machine must have bubblewrap and the same environments, this package's and
the servers'; each worker says so before it begins. What a lost worker was at is done once more by
another.
"""

from __future__ import annotations

import contextlib
import os
import platform
import socket
import threading
from collections import deque
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import Future
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Generic, TypeVar

import ray
from ray.exceptions import RayError, RayTaskError

from toolgenesis_sft import __version__
from toolgenesis_sft.config import Score
from toolgenesis_sft.errors import HarnessFault, UserError
from toolgenesis_sft.records import Json
from toolgenesis_sft.sandbox.jail import runtime_digest, self_test

KNOCK_S = 10.0  # until a cluster's address accepts a connection
START_TIMEOUT_S = 600.0  # until the first of the cluster's cores is free for a worker
IDLE_S = 60.0  # a worker without work for so long gives its core back
MAX_STILLBORN = 20  # workers that end before they began: some machines go, not all of them

Bench = TypeVar("Bench")  # what a worker works at: a sandbox, or an object that has one
R = TypeVar("R")


class RemoteWorker(Generic[Bench]):
    """A worker in a process of Ray's, on any machine."""

    def __init__(self, open_bench: Callable[[], Bench], secrets: Mapping[str, str]) -> None:
        os.environ.update(secrets)
        self.open_bench = open_bench

    def begin(self, server_python: Path, needed: Mapping[str, Path]) -> dict[str, Json]:
        """Open the bench. Returns the machine and what must be the same on all of them."""
        for field_name, path in {"score.server_python": server_python, **needed}.items():
            if not path.exists():
                raise UserError(
                    field_name,
                    str(path),
                    f"is not there on {platform.node()}",
                    "a Ray worker needs it at the same path",
                )
        self_test(server_python)
        self.bench = self.open_bench()
        return {"machine": platform.node(), **facts(server_python)}

    def do(self, work: Callable[..., R], *args: Any) -> R:
        return work(self.bench, *args)


def facts(server_python: Path) -> dict[str, Json]:
    return {"toolgenesis_sft": __version__, "server_runtime": runtime_digest(server_python)}


def check(there: Mapping[str, Json], here: Mapping[str, Json]) -> None:
    """Refuse a machine whose answers could differ from this one's. Raises UserError."""
    for name, value in here.items():
        if there[name] != value:
            raise UserError(
                f"{name} on {there['machine']}",
                there[name],
                f"must be that of this machine, {value}",
                "install the same environments on all machines of the cluster",
            )


@dataclass
class Task:
    """A piece of work, and who waits for it."""

    call: tuple[Any, ...]  # the function and its arguments
    future: Future[Any] = field(default_factory=Future)
    was_lost: bool = False

    def starts(self) -> bool:
        """Whether anybody still waits for it."""
        return self.was_lost or self.future.set_running_or_notify_cancel()


class Crew(Generic[Bench]):
    """Workers, hired as there is work for them, and what is left for them to do.

    open_bench: opens what a worker works at, in its process; sent there once.
    needed: further paths that its machine must have, by the setting that names each.
    secrets: variables of the environment that it is given.
    """

    def __init__(
        self,
        server_python: Path,
        num_workers: int,
        open_bench: Callable[[], Bench],
        needed: Mapping[str, Path] | None = None,
        secrets: Mapping[str, str] | None = None,
    ) -> None:
        self.server_python, self.num_workers = server_python, num_workers
        self.needed, self.secrets = needed or {}, secrets or {}
        self.parcel = ray.put(open_bench)
        self.changed = threading.Condition()  # guards all that follows
        self.tasks: deque[Task] = deque()
        self.hands: set[Hand] = set()
        self.num_idle = self.num_stillborn = 0
        self.nothing_follows = False
        self.end: BaseException | None = None  # why nothing more is begun

    def submit(self, work: Callable[..., R], *args: Any) -> Future[R]:
        """Have some worker do work(bench, *args); `work` is a function of a module.

        The future raises what the work raises, HarnessFault where it ended two workers; and what
        ended the crew, UserError where a machine is not fit, HarnessFault where there is none.
        """
        task = Task((work, *args))
        with self.changed:
            self.tasks.append(task)
            self.see_to_tasks()
        return task.future

    def dismiss_idle(self) -> None:
        """Nothing more will be submitted: whoever has no work gives its core back at once."""
        with self.changed:
            self.nothing_follows = True
            self.changed.notify_all()

    def see_to_tasks(self) -> None:
        """Hire where too few are idle, wake those who are; or end what nobody will do."""
        while self.end is not None and self.tasks:
            task = self.tasks.popleft()
            if task.starts():
                task.future.set_exception(self.end)
        if len(self.tasks) > self.num_idle and len(self.hands) < self.num_workers:
            hand = Hand(self)
            self.hands.add(hand)
            hand.start()
        self.changed.notify_all()

    def next_task(self) -> Task | None:
        """For a worker; None where there is none in a while, or none any more."""
        with self.changed:
            self.num_idle += 1
            self.changed.wait_for(
                lambda: self.tasks or self.nothing_follows or self.end is not None, IDLE_S
            )
            self.num_idle -= 1
            while self.tasks:
                task = self.tasks.popleft()
                if task.starts():
                    return task
            return None

    def lose(self, task: Task, error: RayError) -> None:
        """Its worker is gone: once that may be the worker's fault, twice it is the task's."""
        with self.changed:
            if task.was_lost:
                fault = HarnessFault("worker_lost", f"{type(error).__name__}: {error}")
                task.future.set_exception(fault)
            else:
                task.was_lost = True
                self.tasks.appendleft(task)
                self.see_to_tasks()

    def leave(self, hand: Hand) -> None:
        with self.changed:
            self.hands.remove(hand)
            self.see_to_tasks()

    def end_with(self, error: BaseException) -> None:
        """Begin nothing more; what is at work goes on."""
        with self.changed:
            self.end = self.end or error
            self.see_to_tasks()

    def close(self) -> None:
        """Kill the workers, whatever they are at."""
        self.end_with(HarnessFault("ray", "the crew is dismissed"))
        with self.changed:
            hands = list(self.hands)
        for hand in hands:
            ray.kill(hand.actor)
        for hand in hands:
            hand.join()


class Hand(threading.Thread):
    """One worker as this process sees it."""

    def __init__(self, crew: Crew[Any]) -> None:
        super().__init__(name="ray worker", daemon=True)
        self.crew, self.has_begun = crew, False
        self.actor = ray.remote(num_cpus=1)(RemoteWorker).remote(crew.parcel, crew.secrets)

    def run(self) -> None:
        """Begin, do what there is to do, and go."""
        try:
            self.begin()
            while task := self.crew.next_task():
                self.do(task)
        except RayError:
            pass  # lost; who takes its place is the crew's affair
        except (UserError, HarnessFault) as error:
            self.crew.end_with(error)
        except BaseException as error:  # a bug of ours, and nobody may wait for ever
            self.crew.end_with(error)
            raise
        finally:
            try:
                ray.kill(self.actor)
            finally:
                self.crew.leave(self)

    def begin(self) -> None:
        crew = self.crew
        try:
            begun = self.actor.begin.remote(crew.server_python, crew.needed)
            while not ray.wait([begun], timeout=START_TIMEOUT_S)[0]:
                with crew.changed:
                    if not any(hand.has_begun for hand in crew.hands):
                        said = f"no core was free for a worker in {START_TIMEOUT_S:.0f} s"
                        raise HarnessFault("ray", said)
            check(ray.get(begun), facts(crew.server_python))
        except RayTaskError as error:
            crew.end_with(error.cause)
            raise
        except RayError as error:
            crew.num_stillborn += 1
            if crew.num_stillborn > MAX_STILLBORN:
                raise HarnessFault("ray", f"workers end before they begin: {error}") from error
            raise
        self.has_begun = True

    def do(self, task: Task) -> None:
        try:
            result = ray.get(self.actor.do.remote(*task.call))
        except RayTaskError as error:
            task.future.set_exception(error.cause)
        except RayError as error:
            self.crew.lose(task, error)
            raise
        except BaseException as error:  # likewise
            task.future.set_exception(error)
            raise
        else:
            task.future.set_result(result)


@contextlib.contextmanager
def connected(settings: Score) -> Iterator[None]:
    """To the cluster that the recipe or RAY_ADDRESS names; else a Ray of this machine, for now."""
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
    # Ray's 15 would have servers run into their time limits beside anything else that works here.
    os.environ.setdefault("RAY_worker_niceness", "0")
    address = settings.ray_address or os.environ.get("RAY_ADDRESS")
    if address is None:
        own = {"address": "local", "num_cpus": settings.workers, "include_dashboard": False}
    else:
        knock(address)
        own = {"address": address}
    ray.init(**own, log_to_driver=False, logging_level="ERROR")
    try:
        yield
    finally:
        ray.shutdown()


def knock(address: str) -> None:
    """Ray itself would wait minutes for an address where nobody is."""
    host, _, port = address.rpartition(":")
    try:
        socket.create_connection((host, int(port)), timeout=KNOCK_S).close()
    except (OSError, ValueError) as error:
        raise UserError(
            "score.ray_address",
            address,
            f"no Ray cluster answers there ({error})",
            "give the host:port that `ray start --head` said, or unset it and RAY_ADDRESS",
        ) from error
