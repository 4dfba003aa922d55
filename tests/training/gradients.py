"""One rank of a program that saves the gradients of the first optimizer step, then what `update`
makes of gradients that are not finite; see test_loop.py.

accelerate launch ... -m tests.training.gradients RECIPE RUN OUT [section.key=value ...]
"""

import sys
from pathlib import Path
from typing import Any

import torch
from deepspeed.utils import safe_get_full_fp32_param, safe_get_full_grad

from toolgenesis_sft.config import load_recipe
from toolgenesis_sft.errors import HarnessFault
from toolgenesis_sft.runs import RunFolder
from toolgenesis_sft.training.engine import Engine, join, leave, make_engine
from toolgenesis_sft.training.loop import Training, forward_backward, next_batch, update
from toolgenesis_sft.training.packing import Order, OrderSettings
from toolgenesis_sft.training.saving import Saver
from toolgenesis_sft.training.signals import StopRequest, end_rank
from toolgenesis_sft.training.tokens import load_tokens


def main(recipe_path: str, run_root: str, out: str, *overrides: str) -> None:
    recipe, run = load_recipe(Path(recipe_path), overrides), RunFolder(Path(run_root))
    join(recipe.train)
    engine = make_engine(recipe, run, resume=None)
    tokens = load_tokens(recipe, run)
    settings = OrderSettings.of(recipe)
    order = Order(tokens.lengths, tokens.num_supervised, settings, engine.world_size)
    training = Training(
        recipe=recipe,
        run=run,
        engine=engine,
        tokens=tokens,
        order=order,
        val_tokens=tokens,
        validation=None,
        metrics=None,
        saver=Saver(recipe, run, engine, order.num_steps, identity=""),
        stop=StopRequest(),
    )
    batch = next_batch(training, 0)
    loss, _ = forward_backward(training, batch, 0)
    gradients = {
        name: safe_get_full_grad(parameter)
        for name, parameter in engine.deepspeed.module.named_parameters()
    }
    held = [parameter.ds_tensor.numel() for parameter in engine.deepspeed.module.parameters()]
    before = weights(engine)
    fault = fault_of_a_poisoned_step(training)
    same = all(torch.equal(one, other) for one, other in zip(before, weights(engine), strict=True))
    if engine.rank == 0:
        facts = {
            "loss": loss,
            "gradients": gradients,
            "num_rows": len(batch.rows),
            "world_size": engine.world_size,
            "num_held": sum(held),
            "fault": fault,
            "weights_unchanged": same,
        }
        torch.save(facts, out)
    leave()
    end_rank(0)


def fault_of_a_poisoned_step(training: Training) -> str:
    """What is raised where the loss is finite and its gradient is not."""
    engine = training.engine
    clean = engine.losses

    def poisoned(inputs: dict[str, Any]) -> torch.Tensor:
        losses = clean(inputs)
        return losses + (losses - losses.detach()).abs().sqrt()  # + 0, with a gradient of 0 x inf

    engine.losses = poisoned  # type: ignore[method-assign]
    batch = next_batch(training, 0)
    forward_backward(training, batch, 0)
    try:
        update(training, batch, 0, rate=0.1)
    except HarnessFault as fault:
        return str(fault)
    return ""


def weights(engine: Engine) -> list[torch.Tensor]:
    """All parameters, whole."""
    return [safe_get_full_fp32_param(one) for one in engine.deepspeed.module.parameters()]


main(*sys.argv[1:])
