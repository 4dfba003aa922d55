"""Where servers are tried, several at once: on this machine, or on a Ray cluster."""

from __future__ import annotations

import contextlib
import importlib.util
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from functools import partial
from pathlib import Path
from types import TracebackType
from typing import Any, Protocol, Self, TypeVar

from toolgenesis_sft.config import Score
from toolgenesis_sft.errors import UserError
from toolgenesis_sft.sandbox.jail import Limits, self_test
from toolgenesis_sft.sandbox.session import Sandbox

R = TypeVar("R")


class Crew(Protocol):
    """Does work(sandbox, *args), wherever it has one."""

    def submit(self, work: Callable[..., R], *args: Any) -> Future[R]: ...


class Workshop:
    """Threads that share a sandbox, or Ray's workers with one each, as `score.executor` says.

    It opens with the first piece of work, so that a build in which every verdict is known starts
    neither. num_threads: servers at once on this machine; default: `score.workers`.
    """

    def __init__(
        self,
        server_python: Path,
        settings: Score,
        limits: Limits | None = None,
        num_threads: int | None = None,
    ) -> None:
        self.server_python, self.settings, self.limits = server_python, settings, limits
        self.num_threads = num_threads or settings.workers
        self._opening = threading.Lock()
        self._crew: Crew | None = None
        self._open = contextlib.ExitStack()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._open.close()

    def submit(self, work: Callable[..., R], *args: Any) -> Future[R]:
        """Have work(sandbox, *args) done; `work` is a function of a module, and keeps nothing.

        Raises UserError where the workshop cannot be opened.
        """
        with self._opening:
            if self._crew is None:
                is_ray = self.settings.executor == "ray"
                crew = self._on_ray() if is_ray else self._on_this_machine()
                self._crew = self._open.enter_context(crew)
        return self._crew.submit(work, *args)

    @contextlib.contextmanager
    def _on_this_machine(self) -> Iterator[Crew]:
        self_test(self.server_python)
        with Sandbox(self.server_python, self.limits) as sandbox:
            pool = ThreadPoolExecutor(self.num_threads)
            try:
                yield Threads(pool, sandbox)
            finally:
                pool.shutdown(cancel_futures=True)

    @contextlib.contextmanager
    def _on_ray(self) -> Iterator[Crew]:
        require_ray()
        from toolgenesis_sft.sandbox import on_ray

        open_bench = partial(open_sandbox, self.server_python, self.limits)
        with (
            on_ray.connected(self.settings),
            contextlib.closing(
                on_ray.Crew(self.server_python, self.settings.workers, open_bench)
            ) as crew,
        ):
            yield crew


class Threads:
    """The crew of this machine."""

    def __init__(self, pool: ThreadPoolExecutor, sandbox: Sandbox) -> None:
        self.pool, self.sandbox = pool, sandbox

    def submit(self, work: Callable[..., R], *args: Any) -> Future[R]:
        return self.pool.submit(work, self.sandbox, *args)


def open_sandbox(server_python: Path, limits: Limits | None) -> Sandbox:
    """For a worker that ends with its process, and its sandbox with it."""
    return Sandbox(server_python, limits).__enter__()


def nothing(sandbox: Sandbox) -> None:
    """Work that is done once there is a sandbox."""


def require_ray() -> None:
    """Ray is a package that most people work without. Raises UserError."""
    if importlib.util.find_spec("ray") is None:
        raise UserError(
            "score.executor",
            "ray",
            "needs the package ray, which is not installed",
            "pip install 'toolgenesis-sft[ray]', or set score.executor=local",
        )
