"""Checkpoint folders: which one is whole, which one is newest, which ones may go.

    checkpoints/step_000039/  zero_pp_rank_*  ...  COMPLETE (written last: step, digests, losses)

No torch here: the launcher asks these questions before a process group exists.
"""

from __future__ import annotations

import re
import shutil
import sys
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

from pydantic import ValidationError

from toolgenesis_sft.config import Recipe
from toolgenesis_sft.errors import UserError
from toolgenesis_sft.records import Record
from toolgenesis_sft.runs import COMPLETE, RunFolder, fingerprint, sha256_file, write_text
from toolgenesis_sft.sections import is_execution

STEP = re.compile(r"step_\d{6,}")


class Marker(Record):
    """What COMPLETE says. `files` maps each file's path in the folder to its SHA-256."""

    step: int
    num_steps: int
    world_size: int
    identity: str
    val_loss: float | None = None
    files: dict[str, str]


@dataclass(frozen=True)
class Checkpoint:
    """A checkpoint whose marker is there."""

    folder: Path
    marker: Marker

    @property
    def step(self) -> int:
        return self.marker.step

    @property
    def finished(self) -> bool:
        """Whether it is the training's last."""
        return self.marker.step >= self.marker.num_steps


def step_folder(run: RunFolder, step: int) -> Path:
    return run.checkpoints / f"step_{step:06d}"


def complete_checkpoints(run: RunFolder) -> list[Checkpoint]:
    """Those with a readable marker, newest first."""
    found = []
    for folder in run.checkpoints.glob("step_*"):
        marker = folder / COMPLETE
        if not STEP.fullmatch(folder.name) or not marker.exists():
            continue
        try:
            found.append(Checkpoint(folder, Marker.from_line(marker.read_bytes())))
        except ValidationError:
            continue
    return sorted(found, key=lambda checkpoint: checkpoint.step, reverse=True)


def require_checkpoint(run: RunFolder) -> None:
    """Raises UserError where training has saved nothing yet."""
    if not complete_checkpoints(run):
        raise UserError(
            "checkpoint",
            str(run.checkpoints),
            "holds no complete checkpoint",
            "run `toolgenesis-sft train` first",
        )


def fault_of(checkpoint: Checkpoint, names: Sequence[str]) -> str:
    """Why these files of a checkpoint cannot be trusted; empty where they can."""
    for name in names:
        if not (checkpoint.folder / name).is_file():
            return f"{name} is missing"
    for name, digest in digests(checkpoint.folder, names).items():
        if digest != checkpoint.marker.files[name]:
            return f"{name} is not what was written"
    return ""


def newest_whole(
    candidates: Sequence[Checkpoint], fault: Callable[[Checkpoint], str] | None = None
) -> Checkpoint | None:
    """The first of these (newest first) whose files are as they were written.

    Says which ones it passes by. `fault` may share the check among ranks.
    """
    for checkpoint in candidates:
        reason = fault(checkpoint) if fault else fault_of(checkpoint, list(checkpoint.marker.files))
        if not reason:
            return checkpoint
        print(
            f"{checkpoint.folder} is corrupt ({reason}); taking the checkpoint before it",
            file=sys.stderr,
            flush=True,
        )
    return None


def digests(folder: Path, names: Sequence[str]) -> dict[str, str]:
    """SHA-256 of files, several at once: hashing releases the interpreter."""
    with ThreadPoolExecutor(4) as pool:
        return dict(
            zip(names, pool.map(lambda name: sha256_file(folder / name), names), strict=True)
        )


def files_in(folder: Path) -> list[str]:
    return sorted(
        str(path.relative_to(folder))
        for path in folder.rglob("*")
        if path.is_file() and path.name != COMPLETE
    )


def mark_complete(folder: Path, marker: Marker) -> None:
    write_text(folder / COMPLETE, marker.to_line())


def prune(run: RunFolder, keep_last: int) -> None:
    """Remove all but the newest `keep_last` and the best by validation loss.

    The marker goes first: what is half removed no longer counts as a checkpoint. So do the
    leftovers of interrupted saves, which are never newer than the newest.
    """
    checkpoints = complete_checkpoints(run)
    measured = [one for one in checkpoints if one.marker.val_loss is not None]
    best = min(measured, key=lambda one: one.marker.val_loss or 0.0, default=None)
    keep = {one.folder for one in checkpoints[:keep_last]} | ({best.folder} if best else set())
    for folder in run.checkpoints.glob("step_*"):
        if STEP.fullmatch(folder.name) and folder not in keep:
            (folder / COMPLETE).unlink(missing_ok=True)
            shutil.rmtree(folder)


def require_space(run: RunFolder, needed_bytes: int, free_bytes: int) -> None:
    """Raises UserError where the disk cannot take one more checkpoint."""
    if free_bytes < needed_bytes:
        raise UserError(
            "disk",
            f"{free_bytes / 2**30:.1f} GiB free at {run.root}",
            f"a checkpoint takes {needed_bytes / 2**30:.1f} GiB",
            "free space, lower train.keep_last, or put the run folder on another disk",
        )


def identity_of(recipe: Recipe, tokens_fingerprint: str) -> str:
    """What a checkpoint continues: the tokens, the model and the settings that shape the weights.

    Execution fields (ranks, time-outs) are not part of it.
    """
    settings = {
        name: value
        for name, value in recipe.train.model_dump(mode="json").items()
        if not is_execution(type(recipe.train).model_fields[name])
    }
    model = recipe.model.model_dump(mode="json")
    return fingerprint(
        {"tokens": tokens_fingerprint, "seed": recipe.seed, "model": model, "train": settings}
    )


def require_same_identity(checkpoint: Checkpoint, identity: str) -> None:
    """Raises UserError for a checkpoint of another model, recipe or data set."""
    if checkpoint.marker.identity != identity:
        raise UserError(
            "checkpoint",
            str(checkpoint.folder),
            "was trained with another model, recipe or data set",
            "give --run NEW_NAME, or remove the checkpoints to train from the start",
        )
