"""One rank of a training: `python -m toolgenesis_sft.training RECIPE [section.key=value ...]`.

Under `accelerate launch` (or torchrun) this is a rank; started by hand it is `train` itself.
"""

from __future__ import annotations

import argparse
import contextlib
import fcntl
import os
import sys
import traceback
import warnings
from collections.abc import Iterator
from pathlib import Path
from types import TracebackType

import numpy as np

from toolgenesis_sft.config import Recipe, load_recipe
from toolgenesis_sft.errors import EXIT_REQUEUE, EXIT_USER_ERROR, HarnessFault, UserError
from toolgenesis_sft.runs import RunFolder, add_provenance, claim, sha256_file
from toolgenesis_sft.training import launch
from toolgenesis_sft.training.checkpoint import identity_of, require_same_identity
from toolgenesis_sft.training.launch import ATTEMPT_VARIABLE, Status, is_finished, leave_status
from toolgenesis_sft.training.packing import Order, OrderSettings, StepPlan, plan_step
from toolgenesis_sft.training.signals import StopRequest, end_rank, end_with_parent
from toolgenesis_sft.training.tokenizer import resolve_tokenizer
from toolgenesis_sft.training.tokens import TokenSet, load_tokens


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m toolgenesis_sft.training")
    parser.add_argument("recipe", type=Path)
    parser.add_argument("overrides", nargs="*", help="section.key=value")
    parser.add_argument("--run", help="name of the run folder; default: the recipe's name")
    options = parser.parse_args()
    overrides = tuple(options.overrides)
    try:
        recipe = load_recipe(options.recipe, overrides)
        run = RunFolder(Path("runs") / (options.run or recipe.name))
        if "RANK" in os.environ:
            return rank_main(recipe, run)
        claim(run, recipe)
        return launch.train(options.recipe, overrides, run)
    except UserError as error:
        return ended(EXIT_USER_ERROR, str(error))
    except HarnessFault as fault:
        return ended(1, str(fault))


def rank_main(recipe: Recipe, run: RunFolder) -> int:
    """Train as one rank. Yields 0 or 85 (saved on request); raises what `main` turns into 2 or 1.

    All that needs no process group comes before it exists, so that no collective waits for it.
    """
    end_with_parent()
    stop = StopRequest()
    # One a collective: torch renames what DeepSpeed still calls by its old name.
    warnings.filterwarnings("ignore", category=FutureWarning, module=r"torch\.distributed")
    with contextlib.ExitStack() as held:
        if ATTEMPT_VARIABLE not in os.environ and os.environ["RANK"] == "0":
            held.enter_context(run.locked("train"))
            claim(run, recipe)
            os.environ[ATTEMPT_VARIABLE] = str(run.new_attempt("train"))
        sys.excepthook = write_down
        tokens, val_tokens = load_tokens(recipe, run), load_tokens(recipe, run, "val")
        if is_finished(recipe, run, tokens):
            return 0
        return train(recipe, run, tokens, val_tokens, stop)


def train(
    recipe: Recipe, run: RunFolder, tokens: TokenSet, val_tokens: TokenSet, stop: StopRequest
) -> int:
    from toolgenesis_sft.training.engine import agree_on_checkpoint, join, leave, make_engine
    from toolgenesis_sft.training.loop import Training, fit
    from toolgenesis_sft.training.metrics import MetricsLog
    from toolgenesis_sft.training.model import write_base_model
    from toolgenesis_sft.training.saving import Saver

    with alone(run.root / ".base_model.lock"):
        write_base_model(recipe, run, resolve_tokenizer(recipe, run))
    join(recipe.train)
    identity = identity_of(recipe, tokens.fingerprint)
    resume = agree_on_checkpoint(run)
    if resume is not None:
        require_same_identity(resume, identity)
    first_step = resume.step if resume else 0
    engine = make_engine(recipe, run, resume)
    settings = OrderSettings.of(recipe)
    order = Order(tokens.lengths, tokens.num_supervised, settings, engine.world_size)
    training = Training(
        recipe=recipe,
        run=run,
        engine=engine,
        tokens=tokens,
        order=order,
        val_tokens=val_tokens,
        validation=validation_plan(val_tokens, settings, engine.world_size),
        metrics=MetricsLog(recipe, run, first_step) if engine.rank == 0 else None,
        saver=Saver(recipe, run, engine, order.num_steps, identity),
        stop=stop,
    )
    if engine.rank == 0:
        add_provenance(
            run,
            "train",
            {
                "zero_stage": engine.zero_stage,
                "world_size": engine.world_size,
                "device": engine.device_name,
                "num_parameters": engine.num_parameters,
                "data_manifest": sha256_file(run.data / "manifest.json"),
                "tokens": tokens.fingerprint,
                "resumed_from_step": first_step,
            },
        )
    ending = fit(training, first_step)
    if training.metrics:
        training.metrics.close()
    leave()
    if ending == "stopped":
        return ended(EXIT_REQUEUE, "saved on request; the same command continues")
    return ended(0, "")


def validation_plan(
    val_tokens: TokenSet, settings: OrderSettings, world_size: int
) -> StepPlan | None:
    """All validation samples as one step of the order, or None where there are none."""
    if len(val_tokens) == 0:
        return None
    everything = np.arange(len(val_tokens))
    return plan_step(
        everything, val_tokens.lengths, val_tokens.num_supervised, settings, world_size
    )


def ended(exit_code: int, line: str) -> int:
    """Leave the exit status where the launcher's parent finds it; say it where there is none."""
    attempt = os.environ.get(ATTEMPT_VARIABLE)
    if attempt and "RANK" in os.environ:
        leave_status(Path(attempt), Status(exit_code=exit_code, detail=line))
    if line:
        print(f"{'train' if exit_code == EXIT_REQUEUE else 'error'}: {line}", file=sys.stderr)
    return exit_code


def write_down(
    kind: type[BaseException], error: BaseException, trace: TracebackType | None
) -> None:
    """An exception that ends this rank goes to its own log too: the launcher mixes all ranks'."""
    text = "".join(traceback.format_exception(kind, error, trace))
    print(text, file=sys.stderr, flush=True)
    if ATTEMPT_VARIABLE in os.environ:
        log = Path(os.environ[ATTEMPT_VARIABLE]) / f"rank_{os.environ['RANK']}.log"
        log.write_text(text, encoding="utf-8")


@contextlib.contextmanager
def alone(lock: Path) -> Iterator[None]:
    """Hold a lock file, waiting for it; it ends with the process, kill -9 included."""
    with lock.open("w") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        yield


if __name__ == "__main__":
    exit_code = main()
    if "RANK" in os.environ:
        end_rank(exit_code)
    sys.exit(exit_code)
