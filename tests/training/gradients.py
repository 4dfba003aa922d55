"""One rank of a program that saves the gradients of the first optimizer step; see test_loop.py.

accelerate launch ... -m tests.training.gradients RECIPE RUN OUT [section.key=value ...]
"""

import sys
from pathlib import Path

import torch
from deepspeed.utils import safe_get_full_grad

from toolgenesis_sft.config import load_recipe
from toolgenesis_sft.runs import RunFolder
from toolgenesis_sft.training.engine import join, leave, make_engine
from toolgenesis_sft.training.loop import Training, forward_backward, next_batch
from toolgenesis_sft.training.packing import Order, OrderSettings
from toolgenesis_sft.training.signals import StopRequest, end_rank
from toolgenesis_sft.training.tokens import load_tokens


def main(recipe_path: str, run_root: str, out: str, *overrides: str) -> None:
    recipe, run = load_recipe(Path(recipe_path), overrides), RunFolder(Path(run_root))
    join(recipe.train)
    engine = make_engine(recipe, run, resume=None)
    tokens = load_tokens(recipe, run)
    settings = OrderSettings.of(recipe)
    training = Training(
        recipe=recipe,
        run=run,
        engine=engine,
        tokens=tokens,
        order=Order(tokens.lengths, tokens.num_supervised, settings, engine.world_size),
        val_tokens=tokens,
        validation=None,
        metrics=None,
        stop=StopRequest(),
        identity="",
    )
    batch = next_batch(training, 0)
    loss, _ = forward_backward(training, batch, 0)
    gradients = {
        name: safe_get_full_grad(parameter)
        for name, parameter in engine.deepspeed.module.named_parameters()
    }
    if engine.rank == 0:
        facts = {"loss": loss, "gradients": gradients, "num_rows": len(batch.rows)}
        torch.save({**facts, "world_size": engine.world_size}, out)
    leave()
    end_rank(0)


main(*sys.argv[1:])
