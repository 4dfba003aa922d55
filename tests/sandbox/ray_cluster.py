"""A Ray of two machines: two of Ray's nodes on this one, and how to lose what works there."""

from __future__ import annotations

import contextlib
import os
import signal
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path

from ray.cluster_utils import Cluster


@contextlib.contextmanager
def two_machines() -> Iterator[Cluster]:
    """Two of Ray's nodes with one core each."""
    small = {"num_cpus": 1, "object_store_memory": 80 << 20}
    os.environ.setdefault("RAY_worker_niceness", "0")  # as on_ray does for a Ray of its own
    cluster = Cluster(initialize_head=True, head_node_args={**small, "include_dashboard": False})
    try:
        cluster.add_node(**small)
        yield cluster
    finally:
        cluster.shutdown()


def machines(cluster: Cluster) -> list[int]:
    """Process ids of the nodes, that of the head first."""
    return [node.all_processes["raylet"][0].process.pid for node in cluster.list_all_nodes()]


def workers(parents: list[int], doing: str) -> list[int]:
    """Process ids of workers of ours that are doing this; Ray writes it in their title."""
    found = []
    for process in Path("/proc").iterdir():
        if process.name.isdigit():
            with contextlib.suppress(OSError):
                title = (process / "cmdline").read_bytes().decode(errors="replace")
                parent = int((process / "stat").read_text().rpartition(")")[2].split()[1])
                if parent in parents and title.startswith(f"ray::RemoteWorker.{doing}"):
                    found.append(int(process.name))
    return found


@contextlib.contextmanager
def meanwhile(act: Callable[[], bool]) -> Iterator[None]:
    """Repeat `act` beside the block until it says that it is done; it must be, in the end."""
    over, done = threading.Event(), threading.Event()

    def repeat() -> None:
        while not over.is_set() and not done.is_set():
            if act():
                done.set()
            time.sleep(0.02)

    thread = threading.Thread(target=repeat)
    thread.start()
    try:
        yield
    finally:
        over.set()
        thread.join()
    assert done.is_set()


def kill_one(parents: list[int]) -> bool:
    """End a worker that is at work, if there is one."""
    at_work = workers(parents, "do")[:1]
    for pid in at_work:
        os.kill(pid, signal.SIGKILL)
    return bool(at_work)
