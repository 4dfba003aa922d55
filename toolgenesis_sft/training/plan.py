"""What a training run will take, told before any GPU is asked for."""

from __future__ import annotations

import shutil
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import NormalDist

import numpy as np
from numpy.typing import NDArray

from toolgenesis_sft.config import Recipe
from toolgenesis_sft.errors import UserError
from toolgenesis_sft.records import Record
from toolgenesis_sft.runs import RunFolder
from toolgenesis_sft.training.memory import (
    GIB,
    Fit,
    Memory,
    checkpoint_gib,
    fit,
    memory_per_gpu,
    run_gib,
)
from toolgenesis_sft.training.metrics import PEAK_FLOPS, ModelFlops
from toolgenesis_sft.training.packing import Order, OrderSettings, StepPlan, row_cost
from toolgenesis_sft.training.shape import model_shape

# What hours are computed with. The GPU figure is what well-tuned trainers publish for 8B models
# (39 to 54 % of an H100's or H200's dense bf16 peak). A recipe in fp32 is planned for CPU ranks.
ASSUMED_GPU, ASSUMED_MFU = "H100", 0.45
ASSUMED_CPU_FLOPS = 5e10  # reached by a rank of one thread, in fp32
ASSUMED_SPREAD = 0.6  # sigma of the log-normal lengths of data that is not built yet
GPU_COUNTS, GPU_SIZES_GB = (1, 8, 16, 64), (80, 141)

FLOPS_CONVENTION = (
    "model FLOPs, causal: 6 x matmul parameters (the head for supervised tokens) + 6 x layers x"
    " attention width x tokens of the same sample; recomputation is not counted"
)


class TrainingPlan(Record):
    """The run in numbers. Row figures (fill, balance, micro-steps) are of the first epoch.

    fill: tokens / (rows x max_row_tokens), empty rows included. balance: share of the ranks' time
    that is not spent waiting for the slowest row of a micro-step.
    """

    assumed: bool
    num_samples: int
    epochs: int
    steps_per_epoch: int
    total_steps: int
    global_batch_size: int
    batch_unit: str
    samples_in_last_step: int
    num_processes: int
    tokens_per_epoch: int
    total_tokens: int
    supervised_share: float | None
    mean_sample_tokens: float
    max_sample_tokens: int
    max_row_tokens: int
    rows_per_epoch: int
    empty_rows_per_epoch: int
    micro_steps_per_epoch: int
    fill: float
    balance: float
    num_parameters: int
    flops_per_token: float
    flops_convention: str
    memory_gib_per_gpu: Memory
    fits: tuple[Fit, ...]
    speed_assumption: str
    tokens_per_s_per_gpu: float
    seconds: float
    hours: float
    checkpoint_gib: float
    disk_gib: float
    free_disk_gib: float
    warnings: tuple[str, ...]


@dataclass(frozen=True)
class _Samples:
    """Tokens and supervised tokens of each sample; `assumed` where no data is built."""

    lengths: NDArray[np.int64]
    num_supervised: NDArray[np.int64]
    assumed: bool


def make_plan(recipe: Recipe, run: RunFolder) -> TrainingPlan:
    """Plan the recipe on the run's data, or on the number of samples that the recipe expects."""
    train, world_size = recipe.train, recipe.train.num_processes
    samples = _samples(recipe, run)
    order = Order(samples.lengths, samples.num_supervised, OrderSettings.of(recipe), world_size)
    steps = [order.step(step) for step in range(order.num_steps_per_epoch)]
    micro_steps = sum(step.num_micro_steps for step in steps)
    num_rows = sum(len(step.rows) for step in steps)
    balance = _balance(steps, samples.lengths)
    tokens = int(samples.lengths.sum())
    shape = model_shape(recipe)
    flops = ModelFlops.of(shape).of_samples(
        samples.lengths.tolist(), int(samples.num_supervised.sum())
    )
    speed, assumption = _speed(recipe)
    seconds = flops * train.epochs / (speed * world_size) / balance
    plan = TrainingPlan(
        assumed=samples.assumed,
        num_samples=len(samples.lengths),
        epochs=train.epochs,
        steps_per_epoch=order.num_steps_per_epoch,
        total_steps=order.num_steps,
        global_batch_size=train.global_batch_size,
        batch_unit=train.batch_unit,
        samples_in_last_step=len(steps[-1].samples),
        num_processes=world_size,
        tokens_per_epoch=tokens,
        total_tokens=tokens * train.epochs,
        supervised_share=None
        if samples.assumed
        else round(float(samples.num_supervised.sum()) / tokens, 4),
        mean_sample_tokens=round(tokens / len(samples.lengths), 1),
        max_sample_tokens=int(samples.lengths.max()),
        max_row_tokens=train.max_row_tokens,
        rows_per_epoch=num_rows,
        empty_rows_per_epoch=micro_steps * world_size - num_rows,
        micro_steps_per_epoch=micro_steps,
        fill=round(tokens / (micro_steps * world_size * train.max_row_tokens), 4),
        balance=round(balance, 4),
        num_parameters=shape.num_parameters,
        flops_per_token=flops / tokens,
        flops_convention=FLOPS_CONVENTION,
        memory_gib_per_gpu=memory_per_gpu(shape, train, world_size),
        fits=tuple(fit(shape, train, count, size) for count in GPU_COUNTS for size in GPU_SIZES_GB),
        speed_assumption=assumption,
        tokens_per_s_per_gpu=round(tokens * train.epochs / seconds / world_size, 1),
        seconds=round(seconds, 1),
        hours=round(seconds / 3600, 4),
        checkpoint_gib=round(checkpoint_gib(shape, train), 2),
        disk_gib=round(run_gib(shape, train), 2),
        free_disk_gib=round(_free_disk_gib(run.root), 2),
        warnings=(),
    )
    return plan.model_copy(update={"warnings": tuple(_warnings(plan, recipe))})


def check(recipe: Recipe, run: RunFolder) -> int:
    """The number of samples that the recipe expects, or 0 where a data set is built, which counts
    then. Raises UserError where there is neither."""
    if (run.data / "manifest.json").exists():
        return 0
    if recipe.data.expected_num_samples is None:
        raise UserError(
            "data",
            str(run.data),
            "holds no built data set to plan with",
            "run `toolgenesis-sft build` first, or set data.expected_num_samples",
        )
    return recipe.data.expected_num_samples


def _samples(recipe: Recipe, run: RunFolder) -> _Samples:
    if (run.data / "manifest.json").exists():
        from toolgenesis_sft.training.tokens import load_tokens

        tokens = load_tokens(recipe, run)
        return _Samples(tokens.lengths, np.asarray(tokens.num_supervised), assumed=False)
    count = check(recipe, run)
    quantiles = [NormalDist().inv_cdf((number + 0.5) / count) for number in range(count)]
    spread = np.exp(ASSUMED_SPREAD * np.array(quantiles))
    lengths = np.round(recipe.data.expected_mean_tokens * spread / spread.mean())
    lengths = np.clip(lengths, 1, recipe.data.max_tokens).astype(np.int64)
    return _Samples(lengths, lengths, assumed=True)


def _balance(steps: Sequence[StepPlan], lengths: NDArray[np.int64]) -> float:
    """Share of the ranks' time that is not spent waiting for the slowest row of a micro-step."""
    busy = spent = 0.0
    for step in steps:
        for rows in zip(*step.ranks, strict=True):
            costs = [row_cost(lengths[row]) if row else 0.0 for row in rows]
            busy += sum(costs)
            spent += len(costs) * max(costs)
    return busy / spent


def _speed(recipe: Recipe) -> tuple[float, str]:
    """FLOP/s of one rank, and the sentence that says where it comes from."""
    if recipe.train.dtype == "fp32":
        return ASSUMED_CPU_FLOPS, f"CPU ranks at {ASSUMED_CPU_FLOPS / 1e9:.0f} GFLOP/s each"
    peak = PEAK_FLOPS[ASSUMED_GPU]
    return ASSUMED_MFU * peak, (
        f"{ASSUMED_GPU} or H200 at {ASSUMED_MFU:.0%} of {peak / 1e12:.0f} TFLOP/s (dense bf16)"
    )


def _free_disk_gib(folder: Path) -> float:
    existing = next(parent for parent in (folder, *folder.absolute().parents) if parent.exists())
    return shutil.disk_usage(existing).free / GIB


def _warnings(plan: TrainingPlan, recipe: Recipe) -> Iterator[str]:
    if plan.assumed:
        yield (
            f"no data is built: {plan.num_samples} samples (data.expected_num_samples) with a mean"
            f" of {recipe.data.expected_mean_tokens} tokens (data.expected_mean_tokens) are assumed"
        )
    if plan.batch_unit == "samples" and plan.samples_in_last_step != min(
        plan.global_batch_size, plan.num_samples
    ):
        yield (
            f"the last step of an epoch has {plan.samples_in_last_step} samples instead of"
            f" {plan.global_batch_size}: nothing is dropped"
        )
    empty = plan.empty_rows_per_epoch / (plan.rows_per_epoch + plan.empty_rows_per_epoch)
    if empty > 0.05 or plan.balance < 0.9:
        yield (
            f"{plan.num_processes} ranks wait for each other {1 - plan.balance:.0%} of the time"
            f" ({empty:.0%} of the rows are empty): take a larger train.global_batch_size or fewer"
            " ranks"
        )
    if recipe.train.dtype == "bf16":
        for item in plan.fits:
            if item.num_gpus == plan.num_processes and not item.fits:
                yield f"does not fit {item.num_gpus} GPUs of {item.gpu_gb} GB: {item.advice}"
    if plan.free_disk_gib < plan.disk_gib:
        yield (
            f"the run needs {plan.disk_gib:.0f} GiB of disk, {plan.free_disk_gib:.0f} are free:"
            " free space or lower train.keep_last"
        )


def show(plan: TrainingPlan) -> str:
    """The plan as a page for people."""
    memory = plan.memory_gib_per_gpu
    parts = ", ".join(
        f"{name} {getattr(memory, name):.1f}"
        for name in ("weights", "gradients", "optimizer", "gathered", "activations", "logits")
    )
    share = "" if plan.supervised_share is None else f", {plan.supervised_share:.1%} supervised"
    lines = [
        ("samples", f"{plan.num_samples:,}" + (" (assumed)" if plan.assumed else "")),
        (
            "steps",
            f"{plan.steps_per_epoch} an epoch, {plan.total_steps} in all"
            f" ({plan.epochs} epochs, {plan.global_batch_size:,} {plan.batch_unit} a step)",
        ),
        (
            "tokens",
            f"{plan.tokens_per_epoch:,} an epoch, {plan.total_tokens:,} in all{share};"
            f" a sample has {plan.mean_sample_tokens:,.0f} on average,"
            f" {plan.max_sample_tokens:,} at most",
        ),
        (
            "rows",
            f"{plan.rows_per_epoch:,} an epoch of up to {plan.max_row_tokens:,} tokens, filled to"
            f" {plan.fill:.1%}; {plan.micro_steps_per_epoch} micro-steps on {plan.num_processes}"
            f" ranks, busy {plan.balance:.1%} of the time",
        ),
        ("model", f"{plan.num_parameters / 1e9:.3f} B parameters"),
        (
            "work",
            f"{plan.flops_per_token / 1e9:.3g} GFLOP a token ({plan.flops_convention})",
        ),
        (
            "time",
            f"{_duration(plan.seconds)}, {plan.tokens_per_s_per_gpu:,.0f} tokens/s a rank, with"
            f" {plan.speed_assumption}",
        ),
        ("memory", f"{memory.total:.1f} GiB a rank: {parts}, reserve {memory.reserve:.1f}"),
        (
            "disk",
            f"{plan.checkpoint_gib:.1f} GiB a checkpoint, {plan.disk_gib:.1f} GiB a run,"
            f" {plan.free_disk_gib:.0f} GiB free",
        ),
    ]
    if memory.host:
        lines.append(("host memory", f"{memory.host:.1f} GiB a rank"))
    text = [f"{name:12} {value}" for name, value in lines]
    text += ["", "GPUs   size    needs      "]
    for item in plan.fits:
        verdict = "fits" if item.fits else f"does not fit: {item.advice}"
        text.append(f"{item.num_gpus:4}   {item.gpu_gb:3} GB  {item.total_gib:6.1f} GiB  {verdict}")
    text += ["", *(f"warning: {warning}" for warning in plan.warnings)] if plan.warnings else []
    return "\n".join(line.rstrip() for line in text)


def _duration(seconds: float) -> str:
    if seconds < 120:
        return f"{seconds:.0f} s"
    return f"{seconds / 60:.0f} min" if seconds < 7200 else f"{seconds / 3600:.1f} h"
