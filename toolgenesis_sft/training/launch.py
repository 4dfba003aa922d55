"""`toolgenesis-sft train`: prepare without torch, start accelerate's launcher, watch, report.

    toolgenesis-sft train RECIPE      this process: no torch, holds the run's lock
      python -m ...training.launch    accelerate's launcher (main, below), in a process of its own
        python -m ...training RECIPE  one a rank (training/__main__.py)

The launcher yields 1 whatever its ranks yield, so a rank that ends on purpose leaves its exit
status and a line for people in the attempt's log folder.
"""

from __future__ import annotations

import contextlib
import importlib.util
import json
import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from types import FrameType

from toolgenesis_sft.config import Recipe, load_recipe, resolve_path
from toolgenesis_sft.errors import EXIT_REQUEUE, EXIT_USER_ERROR, HarnessFault, UserError
from toolgenesis_sft.progress import Progress
from toolgenesis_sft.records import Record
from toolgenesis_sft.runs import RunFolder, write_text
from toolgenesis_sft.training.checkpoint import (
    complete_checkpoints,
    identity_of,
    require_same_identity,
)
from toolgenesis_sft.training.machines import Machine
from toolgenesis_sft.training.packing import Order, OrderSettings
from toolgenesis_sft.training.signals import STOP_SIGNALS, end_with_parent, parent_of_children
from toolgenesis_sft.training.tokens import TokenSet, built_file, load_tokens

ATTEMPT_VARIABLE = "TOOLGENESIS_ATTEMPT"  # the attempt's log folder; the run's lock is held
POLL_S = 0.5


class Status(Record):
    """How a rank ended on purpose. `detail` is empty, or says why in one line."""

    exit_code: int
    detail: str = ""


def train(recipe_path: Path, overrides: tuple[str, ...], run: RunFolder) -> int:
    """Train, or continue, to the end. Yields the exit status: 0, or 85 (saved, to be requeued).

    Raises UserError for what a person can mend, also where a rank found it, and HarnessFault
    with the cause where training ended otherwise.
    """
    recipe = load_recipe(recipe_path, overrides)
    check(recipe, run)
    machine = Machine.here()
    with run.locked("train") if machine.leads else contextlib.nullcontext():
        tokens = load_tokens(recipe, run)
        if is_finished(recipe, run, tokens):
            print(f"train: {run.root} is trained already", file=sys.stderr)
            return 0
        order = Order(tokens.lengths, tokens.num_supervised, OrderSettings.of(recipe), 1)
        given = os.environ.get(ATTEMPT_VARIABLE)  # by launch/slurm/train.sh.j2, one a node
        attempt = Path(given) if given else run.new_attempt("train")
        command = launcher_command(recipe_path, overrides, recipe, run, machine)
        return_code, stopped = watch(command, run, attempt, order.num_steps)
        return how_it_ended(attempt, return_code, stopped)


def check(recipe: Recipe, run: RunFolder) -> None:
    """What training needs besides machines: its packages, its data, the launcher's configuration.

    Raises UserError where one is missing.
    """
    for package in ("torch", "accelerate", "deepspeed", "transformers"):
        if importlib.util.find_spec(package) is None:
            raise UserError(
                "environment", package, "is not installed", "pip install 'toolgenesis-sft[train]'"
            )
    built_file(run)
    accelerate_config(recipe)


def is_finished(recipe: Recipe, run: RunFolder, tokens: TokenSet) -> bool:
    """Whether the last step's checkpoint is there. Raises UserError for another training's."""
    for newest in complete_checkpoints(run)[:1]:
        require_same_identity(newest, identity_of(recipe, tokens.fingerprint))
        return newest.finished
    return False


def launcher_command(
    recipe_path: Path,
    overrides: tuple[str, ...],
    recipe: Recipe,
    run: RunFolder,
    machine: Machine,
) -> list[str]:
    """accelerate's launcher with the recipe's configuration, and what each rank runs."""
    launcher = [sys.executable, "-m", "toolgenesis_sft.training.launch"]
    options = {
        "config_file": str(accelerate_config(recipe)),
        "num_processes": str(recipe.train.num_processes),
        **machine.launcher_options(),
    }
    flags = [part for name, value in options.items() for part in (f"--{name}", value)]
    rank = [sys.executable, "-m", "toolgenesis_sft.training", str(recipe_path), *overrides]
    return [*launcher, *flags, "--no_python", *rank, "--run", str(run.root.absolute())]


def accelerate_config(recipe: Recipe) -> Path:
    """Raises UserError where it is not there."""
    configuration = resolve_path(recipe.train.accelerate_config)
    if not configuration.exists():
        raise UserError(
            "train.accelerate_config",
            str(configuration),
            "cannot be read",
            "name one of launch/accelerate_*.yaml",
        )
    return configuration


def watch(command: list[str], run: RunFolder, attempt: Path, num_steps: int) -> tuple[int, bool]:
    """Run the launcher to its end and show progress from metrics.jsonl.

    Yields its return code, and whether this process was asked to stop; the launcher is told.
    """
    env = {key: value for key, value in os.environ.items() if not key.startswith("ACCELERATE_")}
    env |= {ATTEMPT_VARIABLE: str(attempt.absolute()), **parent_of_children()}
    env.setdefault("PYTHONWARNINGS", "ignore")
    env.setdefault("PYTORCH_CUDA_ALLOC_CONF", "expandable_segments:True")
    with (attempt / "launcher.log").open("wb") as log:
        launcher = subprocess.Popen(
            command,
            env=env,
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=subprocess.STDOUT,
            start_new_session=True,  # Ctrl-C is for this process alone, which asks for a save
        )
    try:
        with passed_on(launcher) as asked, Progress("train", num_steps, "steps") as progress:
            while launcher.poll() is None:
                time.sleep(POLL_S)
                show(progress, run)
            show(progress, run)
    finally:
        launcher.kill()  # a no-op after its end; on a second Ctrl-C the ranks end with it
        launcher.wait()
    return launcher.returncode, bool(asked)


def show(progress: Progress, run: RunFolder) -> None:
    """Bring the progress up to the steps that metrics.jsonl has."""
    lines = run.metrics.read_bytes().split(b"\n")[:-1] if run.metrics.exists() else []
    for line in lines[progress.num_done :]:
        progress.done(note=f"loss {json.loads(line)['loss']:.3f}")


@contextmanager
def passed_on(launcher: subprocess.Popen[bytes]) -> Iterator[list[int]]:
    """Pass requests to stop on to the launcher; the list holds those that came. Ctrl-C is one as
    well, unless it is ignored (`nohup`); the second one ends everything at once."""
    asked: list[int] = []

    def receive(number: int, frame: FrameType | None) -> None:
        if number == signal.SIGINT and number in asked:
            raise KeyboardInterrupt
        asked.append(number)
        launcher.send_signal(signal.SIGTERM if number == signal.SIGINT else number)

    before = {number: signal.signal(number, receive) for number in STOP_SIGNALS}
    if signal.getsignal(signal.SIGINT) is signal.default_int_handler:
        before[signal.SIGINT] = signal.signal(signal.SIGINT, receive)
    try:
        yield asked
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def how_it_ended(attempt: Path, return_code: int, stopped: bool) -> int:
    """The exit status of `train`, from what the ranks left behind; else raise with the cause."""
    status = read_status(attempt)
    if status is None and stopped:
        return EXIT_REQUEUE  # asked before the ranks could listen: nothing is lost
    if status is None or (status.exit_code == 0 and return_code != 0):
        cause = read_cause(attempt) or f"the launcher ended with {return_code}"
        raise HarnessFault("training ended", f"{cause}; its logs are in {attempt}")
    if status.detail:
        print(
            f"{'error' if status.exit_code in (1, EXIT_USER_ERROR) else 'train'}: {status.detail}",
            file=sys.stderr,
        )
    return status.exit_code


def leave_status(attempt: Path, status: Status) -> None:
    """The first rank's word counts: what the others say follows from it."""
    with contextlib.suppress(FileExistsError), (attempt / "status.json").open("x") as file:
        file.write(status.to_line())


def read_status(attempt: Path) -> Status | None:
    path = attempt / "status.json"
    return Status.from_line(path.read_bytes()) if path.exists() and path.stat().st_size else None


def read_cause(attempt: Path) -> str:
    """What the launcher wrote down about the first rank that failed; empty where it could not."""
    path = attempt / "cause.txt"
    return path.read_text().strip() if path.exists() else ""


def main() -> None:
    """accelerate's launcher, tied to the process that watches it."""
    end_with_parent()
    from accelerate.commands.launch import main as accelerate_launch
    from torch.distributed.elastic.multiprocessing.errors import ChildFailedError

    try:
        accelerate_launch()
    except ChildFailedError as error:
        rank, failure = error.get_first_failure()
        how = (
            f"was ended by {failure.signal_name()}"
            if failure.exitcode < 0
            else f"ended with exit status {failure.exitcode}"
        )
        attempt = Path(os.environ[ATTEMPT_VARIABLE])
        write_text(attempt / "cause.txt", f"rank {rank} {how}{last_words(attempt, rank)}\n")
        raise


def last_words(attempt: Path, rank: int) -> str:
    """The exception that a rank died of, from its log."""
    log = attempt / f"rank_{rank}.log"
    text = log.read_text(errors="replace") if log.exists() else ""
    exceptions = re.findall(r"^[\w.]+(?:Error|Exception|Fault|Interrupt)\b.*", text, re.MULTILINE)
    return f" ({exceptions[-1]})" if exceptions else ""


if __name__ == "__main__":
    main()
