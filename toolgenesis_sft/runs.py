"""The run folder: paths, attempts, provenance, append-only JSON lines, markers written last."""

from __future__ import annotations

import contextlib
import errno
import fcntl
import hashlib
import importlib.metadata
import json
import os
import platform
import shutil
import subprocess
import sys
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any, TypeVar

from pydantic import ValidationError

from toolgenesis_sft.config import Recipe
from toolgenesis_sft.errors import UserError
from toolgenesis_sft.records import Json, Record
from toolgenesis_sft.sections import differing_fields

R = TypeVar("R", bound=Record)

COMPLETE = "COMPLETE"
# What lies in a run's folder before any stage has a result (two are checkpoint_to_benchmark.sh's).
BEFORE_RESULTS = frozenset({"config.json", "logs", "recipe.yaml", "training_recipe.json"})
MODEL_SUFFIXES = (".safetensors", ".bin", ".json", ".jinja", ".model", ".txt")
TRACKED_PACKAGES = (
    "torch",
    "transformers",
    "deepspeed",
    "accelerate",
    "datasets",
    "pydantic",
    "mcp",
    "numpy",
    "scipy",
    "tokenizers",
    "openai",
)


@dataclass(frozen=True)
class RunFolder:
    """Where one run keeps everything. Stages speak through these files and nothing else."""

    root: Path

    @property
    def config(self) -> Path:
        return self.root / "config.json"

    @property
    def provenance(self) -> Path:
        return self.root / "provenance.json"

    @property
    def data(self) -> Path:
        """train.jsonl, val.jsonl, tokenizer/ (tiny recipe) and manifest.json, written last."""
        return self.root / "data"

    @property
    def base_model(self) -> Path:
        """The random-weight model before training (recipes with `model.random` only)."""
        return self.root / "base_model"

    @property
    def checkpoints(self) -> Path:
        return self.root / "checkpoints"

    @property
    def export(self) -> Path:
        return self.root / "export"

    @property
    def predictions(self) -> Path:
        return self.root / "predictions.jsonl"

    @property
    def scores(self) -> Path:
        return self.root / "scores.jsonl"

    @property
    def evidence(self) -> Path:
        return self.root / "evidence"

    @property
    def metrics(self) -> Path:
        return self.root / "metrics.jsonl"

    @property
    def loss_svg(self) -> Path:
        return self.root / "loss.svg"

    @property
    def report_json(self) -> Path:
        return self.root / "report.json"

    @property
    def report_html(self) -> Path:
        return self.root / "report.html"

    def has_results(self) -> bool:
        """Whether a stage left something here; a link to another run's does not count."""
        return any(
            path.name not in BEFORE_RESULTS and path.name[0] != "." and not path.is_symlink()
            for path in self.root.iterdir()
        )

    def new_attempt(self, stage: str) -> Path:
        """A log folder of this attempt's own: logs/<stage>_attempt_<n>/."""
        logs = self.root / "logs"
        make_folder(logs)
        number = 1
        while True:
            attempt = logs / f"{stage}_attempt_{number}"
            try:
                attempt.mkdir()
            except FileExistsError:
                number += 1
            except OSError as error:
                raise disk_error(error, attempt) from error
            else:
                return attempt

    @contextlib.contextmanager
    def locked(self, stage: str, shared: bool = False) -> Iterator[None]:
        """Hold the folder for one stage; a second process of the same stage is refused, but for
        `shared` ones among themselves.

        The lock ends with its process, kill -9 included.
        """
        make_folder(self.root)
        with _opened(self.root / f".{stage}.lock", "a+") as lock:  # NFS wants both modes
            try:
                fcntl.flock(lock, (fcntl.LOCK_SH if shared else fcntl.LOCK_EX) | fcntl.LOCK_NB)
            except BlockingIOError as error:
                raise UserError(
                    "--run",
                    str(self.root),
                    f"another {stage} is writing here",
                    "wait for it, or give another --run",
                ) from error
            yield


def claim(run: RunFolder, recipe: Recipe, write: bool = True) -> None:
    """Bind a run folder to a recipe. Raises UserError where another recipe made what is in it: a
    recipe that got nowhere, for an endpoint that was misspelled, may be mended.

    Execution fields (workers, ports, ranks) may differ: they do not change what a stage yields.
    """
    if run.config.exists() and run.has_results():
        for field in differing_fields(read_json(run.config), recipe):
            raise UserError(
                field,
                "changed",
                f"{run.root} was made with another value",
                "give --run NEW_NAME, or go back to the recipe that made it",
            )
    if write:
        write_json(run.config, recipe.model_dump(mode="json"))


def sha256_file(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def model_digest(files: Mapping[str, str]) -> str:
    """One digest of a model folder, from the SHA-256 of its files by name: weights, configuration
    and tokenizer count, its card does not."""
    total = hashlib.sha256()
    for name, digest in sorted(files.items()):
        if name.endswith(MODEL_SUFFIXES):
            total.update(f"{name}:{digest}\n".encode())
    return total.hexdigest()


def fingerprint(value: Json) -> str:
    """SHA-256 of a JSON value, keys sorted: equal for equal inputs, whatever their order."""
    return hashlib.sha256(json.dumps(value, sort_keys=True).encode()).hexdigest()


def write_text(path: Path, text: str) -> None:
    """Replace a file as a whole or not at all: a reader never sees half of it."""
    write_lines(path, [text])


def write_lines(path: Path, lines: Iterable[str]) -> None:
    """As write_text, for what does not fit into memory. Each line brings its own newline."""
    make_folder(path.parent)
    partial = path.with_name(f".{path.name}.{platform.node()}.{os.getpid()}.partial")
    try:
        with partial.open("w", encoding="utf-8") as file:
            file.writelines(lines)
            file.flush()
            os.fsync(file.fileno())
        partial.replace(path)
    except OSError as error:
        with contextlib.suppress(OSError):  # a disk that cannot be written has nothing to remove
            partial.unlink(missing_ok=True)
        raise disk_error(error, path) from error


def write_json(path: Path, value: Json) -> None:
    write_text(path, json.dumps(value, indent=2, sort_keys=True) + "\n")


def read_json(path: Path) -> Json:
    """Raises UserError where the file is missing or no JSON."""
    try:
        return json.loads(path.read_bytes())
    except OSError as error:
        raise UserError(
            "file",
            str(path),
            f"cannot be read ({error.strerror})",
            "run the stage that writes it first",
        ) from error
    except ValueError as error:
        raise UserError(
            "file", str(path), f"is not JSON ({error})", "remove it and run its stage again"
        ) from error


def append_record(path: Path, record: Record) -> None:
    """Append one whole line and push it to the disk."""
    make_folder(path.parent)
    try:
        with path.open("a", encoding="utf-8") as file:
            file.write(record.to_line())
            file.flush()
            os.fsync(file.fileno())
    except OSError as error:
        raise disk_error(error, path) from error


def read_records(path: Path, kind: type[R]) -> list[R]:
    """All whole records of an append-only file; a torn last line does not count. Raises UserError
    where a whole line is no such record."""
    if not path.exists():
        return []
    records = []
    lines = path.read_bytes().split(b"\n")[:-1]  # what follows the last newline is torn
    for number, line in enumerate(lines, 1):
        try:
            records.append(kind.from_line(line))
        except ValidationError as error:
            raise UserError(
                f"{path}: line {number}",
                line[:60].decode(errors="replace"),
                f"is no {kind.__name__} ({error.errors()[0]['msg']})",
                "remove the line, or the file, and run its stage again",
            ) from error
    return records


def mend_torn_line(path: Path) -> None:
    """Cut a torn last line, so that the next append begins a line of its own."""
    if not path.exists():
        return
    with _opened(path, "rb+") as file:
        content = file.read()
        whole = content.rfind(b"\n") + 1
        if whole != len(content):
            file.truncate(whole)


def _opened(path: Path, mode: str) -> IO[Any]:
    """An open file. Raises UserError where it cannot be written."""
    try:
        return path.open(mode)
    except OSError as error:
        raise disk_error(error, path) from error


def make_folder(path: Path) -> None:
    """A folder that a person named. Raises UserError where it cannot be."""
    try:
        path.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise disk_error(error, path) from error


def disk_error(error: OSError, path: Path) -> UserError:
    """What a full or read-only disk means for the user."""
    rule = (
        "the disk is full"
        if error.errno == errno.ENOSPC
        else f"cannot be written ({error.strerror})"
    )
    return UserError(
        "path", str(path), rule, "free space or give another folder, then run the same command"
    )


def provenance() -> dict[str, Json]:
    """The commit, the versions and the machine. Digests of inputs are added by each stage."""
    versions: dict[str, Json] = {"python": platform.python_version()}
    for package in TRACKED_PACKAGES:
        with contextlib.suppress(importlib.metadata.PackageNotFoundError):
            versions[package] = importlib.metadata.version(package)
    return {
        "commit": git_commit(),
        "versions": versions,
        "platform": platform.platform(),
        "num_cpus": os.cpu_count(),
        "command": sys.argv[1:],
    }


def add_provenance(run: RunFolder, stage: str, facts: dict[str, Json]) -> None:
    """Write a stage's part of provenance.json; the other stages' parts stay."""
    whole = read_json(run.provenance) if run.provenance.exists() else {}
    whole[stage] = {**provenance(), **facts}
    write_json(run.provenance, whole)


def git_commit() -> str:
    """The commit of the checkout that this package runs from, `+dirty` where it was edited."""
    root = Path(__file__).resolve().parent.parent
    if not (root / ".git").exists() or shutil.which("git") is None:
        return "unknown (not a checkout)"

    def git(*arguments: str) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            ["git", "-C", str(root), *arguments], capture_output=True, text=True, check=False
        )

    head = git("rev-parse", "HEAD")
    if head.returncode != 0:
        return "unknown (no commit)"
    dirty = git("status", "--porcelain").stdout.strip()
    return head.stdout.strip() + ("+dirty" if dirty else "")
