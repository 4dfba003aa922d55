"""The training loop: `fit` is the paragraph, the functions below it are its verbs."""

from __future__ import annotations

import math
import sys
import time
from collections.abc import Iterable
from dataclasses import dataclass
from itertools import chain
from typing import Literal

import torch
from torch import Tensor

from toolgenesis_sft.config import Recipe
from toolgenesis_sft.errors import HarnessFault
from toolgenesis_sft.runs import RunFolder
from toolgenesis_sft.training.engine import Engine, gather
from toolgenesis_sft.training.metrics import MetricsLog, ModelFlops, StepMetrics, peak_flops
from toolgenesis_sft.training.model import check_first_loss
from toolgenesis_sft.training.packing import Order, StepPlan
from toolgenesis_sft.training.rows import Row, make_row
from toolgenesis_sft.training.saving import Saver
from toolgenesis_sft.training.schedule import learning_rate
from toolgenesis_sft.training.signals import StopRequest
from toolgenesis_sft.training.tokens import TokenSet

Ending = Literal["finished", "stopped"]


@dataclass(frozen=True)
class Training:
    """Everything the loop works with. `metrics` is there on rank 0 only.

    validation: one step that holds all of val_tokens, or None where there is none.
    """

    recipe: Recipe
    run: RunFolder
    engine: Engine
    tokens: TokenSet
    order: Order
    val_tokens: TokenSet
    validation: StepPlan | None
    metrics: MetricsLog | None
    saver: Saver
    stop: StopRequest


@dataclass(frozen=True)
class Batch:
    """One optimizer step: the plan of all ranks, and this rank's rows."""

    plan: StepPlan
    rows: list[Row]
    started: float
    data_wait_s: float


def fit(training: Training, first_step: int) -> Ending:
    """Train from step `first_step` (counted from 0) to the end or to a request to stop."""
    settings, num_steps = training.recipe.train, training.order.num_steps
    with training.saver as saver:
        for step in range(first_step, num_steps):
            batch = next_batch(training, step)
            loss, stop = forward_backward(training, batch, step)
            rate = learning_rate(step, num_steps, settings)
            norm = update(training, batch, step, rate)
            done, last = step + 1, step + 1 == num_steps
            val_loss = None
            if training.validation and (last or done % settings.validate_every_steps == 0):
                val_loss = validate(training, training.validation)
            log(training, batch, done, loss, norm, rate, val_loss)
            saver.settle()
            if last or stop or done % settings.checkpoint_every_steps == 0:
                saver.save(done, val_loss)
                draw(training)
            if stop and not last:
                return "stopped"
    return "finished"


def next_batch(training: Training, step: int) -> Batch:
    started = time.perf_counter()
    plan = training.order.step(step)
    rows = [make_row(training.tokens, row) for row in plan.ranks[training.engine.rank]]
    return Batch(plan, rows, started, data_wait_s=time.perf_counter() - started)


def forward_backward(training: Training, batch: Batch, step: int) -> tuple[float, bool]:
    """Gradients of the step's loss: the sum of all ranks' cross-entropies over the number of
    supervised tokens of the whole step. Yields that loss and whether any rank was asked to stop.
    """
    engine, num_supervised = training.engine, batch.plan.num_supervised
    losses: list[Tensor] = []
    for row in batch.rows:
        row_losses = engine.losses(row.inputs(engine.device))
        engine.accumulate(row_losses.sum() / num_supervised, last=row is batch.rows[-1])
        losses.append(row_losses.detach())
    total = float(torch.cat(losses).double().sum())
    total, stop = engine.sum_over_ranks(total, training.stop.requested)
    loss = total / num_supervised
    if not math.isfinite(loss):
        culprits = [
            name
            for row, row_losses in zip(batch.rows, losses, strict=True)
            for name, finite in zip(
                row.sample_of_losses(), row_losses.isfinite().tolist(), strict=True
            )
            if not finite
        ]
        raise not_finite("loss", step, chain.from_iterable(gather(culprits)))
    if step == 0:
        check_first_loss(loss, engine.config.vocab_size, training.recipe.model.random is None)
    return loss, stop > 0


def update(training: Training, batch: Batch, step: int, rate: float) -> float:
    """The optimizer step; yields the gradient norm. One that is not finite changes no weight."""
    norm = training.engine.step(rate)
    if not math.isfinite(norm):
        samples = (training.tokens.sample_ids[sample] for sample in batch.plan.samples)
        raise not_finite("gradient norm", step, samples)
    return norm


def not_finite(what: str, step: int, samples: Iterable[str]) -> HarnessFault:
    names = list(dict.fromkeys(samples))
    shown = ", ".join(names[:8]) + (f" and {len(names) - 8} more" if len(names) > 8 else "")
    return HarnessFault(
        f"{what} is not finite",
        f"at step {step + 1}, samples {shown}; nothing was saved, the last checkpoint stands",
    )


@torch.no_grad()
def validate(training: Training, plan: StepPlan) -> float:
    """Mean cross-entropy over all supervised tokens of the validation set."""
    engine = training.engine
    engine.deepspeed.eval()
    total = 0.0
    for row in plan.ranks[engine.rank]:
        losses = engine.losses(make_row(training.val_tokens, row).inputs(engine.device))
        total += float(losses.double().sum())
    engine.deepspeed.train()
    [total] = engine.sum_over_ranks(total)
    return total / plan.num_supervised


def log(
    training: Training,
    batch: Batch,
    done: int,
    loss: float,
    norm: float,
    rate: float,
    val_loss: float | None,
) -> None:
    """One line of metrics, on rank 0."""
    if training.metrics is None:
        return
    engine, plan = training.engine, batch.plan
    seconds = time.perf_counter() - batch.started
    lengths = [int(length) for length in training.tokens.lengths[plan.samples]]
    peak = peak_flops(engine.device_name)
    flops = ModelFlops.of(engine.config).of_samples(lengths, plan.num_supervised)
    epoch, _ = training.order.place(done - 1)
    line = StepMetrics(
        step=done,
        epoch=epoch + 1,
        loss=loss,
        val_loss=val_loss,
        grad_norm=norm,
        lr=rate,
        num_tokens=plan.num_tokens,
        num_supervised_tokens=plan.num_supervised,
        seconds=seconds,
        data_wait_s=batch.data_wait_s,
        tokens_per_s=plan.num_tokens / seconds,
        mfu=flops / seconds / peak / engine.world_size if peak else None,
        memory_gib=engine.peak_memory_gib(),
    )
    training.metrics.append(line)
    print(
        f"step {done}/{training.order.num_steps}: loss {loss:.4f}, gradient norm {norm:.3f}, "
        f"learning rate {rate:.2e}, {line.tokens_per_s:,.0f} tokens/s",
        file=sys.stderr,
        flush=True,
    )


def draw(training: Training) -> None:
    """The loss so far, on rank 0."""
    if training.metrics is not None:
        training.metrics.draw()
