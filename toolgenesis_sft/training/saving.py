"""Checkpoints are written here, at once or while training goes on. The marker comes last."""

from __future__ import annotations

import contextlib
import hashlib
import io
import os
import re
import shutil
from collections import ChainMap
from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Any, Self

import torch
import torch.distributed as dist
from deepspeed.runtime.checkpoint_engine import TorchCheckpointEngine

from toolgenesis_sft.config import Recipe
from toolgenesis_sft.errors import HarnessFault, UserError
from toolgenesis_sft.runs import RunFolder, disk_error
from toolgenesis_sft.training.checkpoint import (
    Marker,
    digests,
    files_in,
    mark_complete,
    prune,
    require_space,
    step_folder,
)
from toolgenesis_sft.training.engine import Engine, gather


@dataclass(frozen=True)
class _Unmarked:
    """A checkpoint that is written, or being written, and has no marker yet."""

    folder: Path
    step: int
    val_loss: float | None


class Saver:
    """Saves one training's state. All ranks call each method together.

    With train.async_save a checkpoint is copied into host memory and written by a thread, so the
    loop waits for the copy only. It counts once every rank has written its files: `settle` looks
    for that after each step, and the next save and the end of training wait for it.
    """

    def __init__(
        self, recipe: Recipe, run: RunFolder, engine: Engine, num_steps: int, identity: str
    ) -> None:
        self.run, self.engine = run, engine
        self.num_steps, self.identity = num_steps, identity
        self.keep_last = recipe.train.keep_last
        self.writer = BackgroundWriter() if recipe.train.async_save else None
        if self.writer is not None:
            engine.deepspeed.checkpoint_engine = self.writer
        self.unmarked: _Unmarked | None = None

    def __enter__(self) -> Self:
        self.require_room()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        # A loop's HarnessFault is raised by all ranks; after any other error one may be alone.
        if kind is None or issubclass(kind, HarnessFault):
            self.finish()

    def require_room(self) -> None:
        """Raises UserError, on all ranks or on none, where the disk cannot take a checkpoint."""
        free = min(gather(shutil.disk_usage(self.run.root).free))
        require_space(self.run, self.engine.checkpoint_bytes, free)

    def save(self, step: int, val_loss: float | None) -> None:
        """Save the state after `step` as checkpoints/step_N."""
        self.finish()
        self.require_room()
        folder = step_folder(self.run, step)
        if self.engine.rank == 0:
            shutil.rmtree(folder, ignore_errors=True)
        dist.barrier()
        with failed_writes_named(folder):
            self.engine.deepspeed.save_checkpoint(
                str(folder.parent), tag=folder.name, save_latest=False
            )
        dist.barrier()
        self.unmarked = _Unmarked(folder, step, val_loss)
        if self.writer is None:
            self.finish()

    def settle(self) -> None:
        """Mark what is being written, if every rank has written its files by now."""
        if self.unmarked is not None and self.writer is not None:
            [num_idle] = self.engine.sum_over_ranks(self.writer.is_idle)
            if num_idle == self.engine.world_size:
                self.finish()

    def finish(self) -> None:
        """Wait for what is being written and mark it; then drop what keep_last does not hold.

        Each rank hashes a share of the files that no writer has hashed, so that a corrupt one is
        found before it is resumed.
        """
        if self.unmarked is None:
            return
        folder, rank = self.unmarked.folder, self.engine.rank
        with failed_writes_named(folder):
            written = self.writer.collect(folder) if self.writer else {}
        known = dict(ChainMap(*gather(written)))
        others = [name for name in files_in(folder) if name not in known]
        parts = gather(digests(folder, others[rank :: self.engine.world_size]))
        if rank == 0:
            marker = Marker(
                step=self.unmarked.step,
                num_steps=self.num_steps,
                world_size=self.engine.world_size,
                identity=self.identity,
                val_loss=self.unmarked.val_loss,
                files=dict(sorted(ChainMap(known, *parts).items())),
            )
            mark_complete(folder, marker)
            prune(self.run, self.keep_last)
        dist.barrier()
        self.unmarked = None


class BackgroundWriter(TorchCheckpointEngine):
    """DeepSpeed's checkpoint engine with a thread that writes.

    DeepSpeed's own decoupled engine waits before the next optimizer step, and passes over a
    writer that has died; here the file's content is a copy, and `collect` raises what failed.
    """

    def __init__(self) -> None:
        super().__init__()
        self.thread = ThreadPoolExecutor(1)
        self.writes: dict[Path, Future[str]] = {}

    def save(self, state_dict: Any, path: str) -> None:
        """Returns with a copy in memory: from here on the next step may change the tensors."""
        content = io.BytesIO()
        torch.save(state_dict, content)
        self.writes[Path(path)] = self.thread.submit(write, Path(path), content)

    @property
    def is_idle(self) -> bool:
        return all(one.done() for one in self.writes.values())

    def collect(self, folder: Path) -> dict[str, str]:
        """Wait for all writes; SHA-256 by path in the folder. Raises what one of them raised."""
        written = {str(path.relative_to(folder)): one.result() for path, one in self.writes.items()}
        self.writes.clear()
        return written


def write(path: Path, content: io.BytesIO) -> str:
    """Write a file and push it to the disk; yields its SHA-256."""
    with path.open("wb") as file:
        file.write(content.getbuffer())
        file.flush()
        os.fsync(file.fileno())
    return hashlib.sha256(content.getbuffer()).hexdigest()


@contextlib.contextmanager
def failed_writes_named(folder: Path) -> Iterator[None]:
    """Raise UserError for a disk that takes no more. torch's zip writer says so in its own way."""
    try:
        yield
    except OSError as error:
        raise disk_error(error, folder) from error
    except RuntimeError as error:
        if not re.search("iostream error|inline_container", str(error)):
            raise
        free = shutil.disk_usage(folder).free
        raise UserError(
            "checkpoint",
            str(folder),
            f"a write failed with {free / 2**30:.1f} GiB free (disk full, or a quota)",
            "free space or choose another --run, then run the same command",
        ) from error
