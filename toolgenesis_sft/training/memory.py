"""How much device memory and disk a run takes, by part, from sizes alone."""

from __future__ import annotations

from typing import Any

from toolgenesis_sft.config import Train
from toolgenesis_sft.records import Record
from toolgenesis_sft.training.shape import ModelShape

GIB = 2**30
# Usable memory of the GPUs that the plan speaks about, by the size they are sold with (GB).
GPU_GIB = {80: 79.6, 141: 139.8}
RESERVE_GIB = 4.0  # CUDA context, NCCL and ZeRO buffers
LOGIT_BYTES = 10  # of a token and vocabulary row: bf16 logit, its fp32 copy, an fp32 gradient
USABLE_SHARE = 0.95  # what an allocator's fragments leave of a GPU
MOMENT_BYTES = {"adamw": 8, "adamw_bf16": 4, "adamw_8bit": 2}


class Memory(Record):
    """GiB on one GPU at the peak of a step, by part; `host` is host memory for that GPU."""

    weights: float
    gradients: float
    optimizer: float
    gathered: float
    activations: float
    logits: float
    reserve: float
    total: float
    host: float


class Fit(Record):
    """Whether a run fits a number of GPUs of one size, and what to set where it does not."""

    num_gpus: int
    gpu_gb: int
    total_gib: float
    fits: bool
    advice: str = ""


def memory_per_gpu(shape: ModelShape, train: Train, num_gpus: int) -> Memory:
    """ZeRO-3 shares weights, gradients and optimizer states evenly over the GPUs.

    State, in bytes a parameter: weight and gradient 2 each in bf16 (4 each in fp32), fp32 master
    copy 4, Adam moments 8 (4 in bf16, 2 in 8 bits). Gathered: two decoder layers and the head as
    whole weights. Activations, in elements a layer and token: 4 of the MLP's width and 6 of the
    model's without recomputation (5.3 MB a token for Qwen3-8B in bf16), 1 of the model's with
    `full`, one layer whole besides; `selective` recomputes every second layer. In the host's
    memory: offloaded states, and the copy of a checkpoint that is written in the background.
    """
    width = 2 if train.dtype == "bf16" else 4
    shared = shape.num_parameters / num_gpus
    states = (4 + MOMENT_BYTES[train.optimizer]) * shared
    gathered = 0.0
    if num_gpus > 1:
        gathered = width * (2 * shape.layer_parameters + shape.embedding_parameters)
    kept_whole = {"none": 1.0, "selective": 0.5, "full": 0.0}[train.activation_checkpointing]
    layer = 4 * shape.intermediate_size + 6 * shape.hidden_size
    layers = shape.num_hidden_layers * (
        kept_whole * layer + (1 - kept_whole) * shape.hidden_size
    ) + (0 if kept_whole == 1 else layer)
    logit_tokens = min(train.loss_chunk_tokens or train.max_row_tokens, train.max_row_tokens)
    parts = {
        "weights": width * shared,
        "gradients": width * shared,
        "optimizer": 0.0 if train.offload_optimizer else states,
        "gathered": gathered,
        "activations": width * layers * train.max_row_tokens,
        "logits": float(LOGIT_BYTES * shape.vocab_size * logit_tokens),
        "reserve": RESERVE_GIB * GIB if train.dtype == "bf16" else 0.0,
    }
    copied = checkpoint_gib(shape, train) / num_gpus if train.async_save else 0.0
    return Memory(
        **{name: round(value / GIB, 2) for name, value in parts.items()},
        total=round(sum(parts.values()) / GIB, 2),
        host=round(copied + (states / GIB if train.offload_optimizer else 0.0), 2),
    )


def fit(shape: ModelShape, train: Train, num_gpus: int, gpu_gb: int) -> Fit:
    """Whether it fits; else the mildest change of the recipe that makes it fit."""

    def total(settings: Train) -> float:
        return memory_per_gpu(shape, settings, num_gpus).total

    limit = USABLE_SHARE * GPU_GIB[gpu_gb]
    if total(train) <= limit:
        return Fit(num_gpus=num_gpus, gpu_gb=gpu_gb, total_gib=total(train), fits=True)
    changed: dict[str, Any] = {}
    advice = "take more GPUs or a lower train.max_row_tokens"
    for field, value in (
        ("loss_chunk_tokens", train.loss_chunk_tokens or 1024),
        ("activation_checkpointing", "full"),
        ("optimizer", "adamw_8bit"),
        ("offload_optimizer", True),
    ):
        if getattr(train, field) == value:
            continue
        changed[field] = value
        if total(train.model_copy(update=changed)) <= limit:
            needed = {**changed}
            for name in changed:  # a milder change may have become needless
                fewer = {key: value for key, value in needed.items() if key != name}
                if total(train.model_copy(update=fewer)) <= limit:
                    needed = fewer
            settings = " ".join(f"train.{key}={_yaml(value)}" for key, value in needed.items())
            advice = f"set {settings}"
            break
    return Fit(num_gpus=num_gpus, gpu_gb=gpu_gb, total_gib=total(train), fits=False, advice=advice)


def checkpoint_gib(shape: ModelShape, train: Train) -> float:
    """One checkpoint: weights, fp32 master copy and moments (14 bytes a parameter at most)."""
    width = 2 if train.dtype == "bf16" else 4
    return (width + 4 + MOMENT_BYTES[train.optimizer]) * shape.num_parameters / GIB


def run_gib(shape: ModelShape, train: Train) -> float:
    """A whole run: the newest checkpoints, the best one, one being written, and the export."""
    export = (2 if train.dtype == "bf16" else 4) * shape.num_parameters / GIB
    return (train.keep_last + 2) * checkpoint_gib(shape, train) + export


def _yaml(value: object) -> str:
    return str(value).lower() if isinstance(value, bool) else str(value)
