"""What people watch: metrics.jsonl, loss.svg, wandb, and model FLOPs utilisation."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from toolgenesis_sft.config import Recipe
from toolgenesis_sft.records import Record
from toolgenesis_sft.runs import RunFolder, append_record, mend_torn_line, read_records, write_text
from toolgenesis_sft.tracking import open_wandb

# Dense bf16 peak in FLOP/s, from the vendor's data sheets (without sparsity).
PEAK_FLOPS = {
    "A100": 312e12,
    "H100 PCIe": 756e12,
    "H100": 989e12,
    "H200": 989e12,
    "GH200": 989e12,
    "B200": 2250e12,
}
# Loss by optimizer step of the published run (model card of Tool-Genesis-Qwen3-8B-SFT).
PUBLISHED_LOSS = {
    1: 0.763,
    10: 0.690,
    20: 0.641,
    39: 0.539,
    60: 0.434,
    78: 0.436,
    100: 0.420,
    117: 0.522,
}


class StepMetrics(Record):
    """One line of metrics.jsonl: one optimizer step, all ranks together.

    loss: mean cross-entropy over the step's supervised tokens. grad_norm: before clipping.
    mfu: causal model FLOPs utilisation, attention counted within each sample, the head for
    supervised tokens; None where the device's peak is not known.
    """

    step: int
    epoch: float
    loss: float
    val_loss: float | None = None
    grad_norm: float
    lr: float
    num_tokens: int
    num_supervised_tokens: int
    seconds: float
    data_wait_s: float
    tokens_per_s: float
    mfu: float | None = None
    memory_gib: float


@dataclass(frozen=True)
class ModelFlops:
    """Training FLOPs of a decoder: 6 a matmul parameter and token, 6 x width a layer and pair of
    tokens that attend (12 for full attention, half of it causal), forward and backward."""

    body_parameters: int
    head_parameters: int
    attention_width: int
    num_layers: int

    @classmethod
    def of(cls, config: Any) -> ModelFlops:
        """From a Hugging Face configuration of a Qwen3-like decoder (gated MLP, grouped heads)."""
        width = config.num_attention_heads * config.head_dim
        kv_width = config.num_key_value_heads * config.head_dim
        attention = config.hidden_size * (2 * width + 2 * kv_width)
        mlp = 3 * config.hidden_size * config.intermediate_size
        return cls(
            body_parameters=config.num_hidden_layers * (attention + mlp),
            head_parameters=config.hidden_size * config.vocab_size,
            attention_width=width,
            num_layers=config.num_hidden_layers,
        )

    def of_samples(self, lengths: Sequence[int], num_supervised: int) -> float:
        matmuls = self.body_parameters * sum(lengths) + self.head_parameters * num_supervised
        pairs = sum(length * length for length in lengths)
        return 6.0 * matmuls + 6.0 * self.num_layers * self.attention_width * pairs


def peak_flops(device_name: str) -> float | None:
    """The device's dense bf16 peak; the longest known name that the device's name contains."""
    known = [name for name in PEAK_FLOPS if all(part in device_name for part in name.split())]
    return PEAK_FLOPS[max(known, key=len)] if known else None


class MetricsLog:
    """metrics.jsonl and whoever reads along. Only rank 0 has one."""

    def __init__(self, recipe: Recipe, run: RunFolder, first_step: int) -> None:
        """Cut what is there back to the step that training continues from."""
        self.run, self.recipe = run, recipe
        mend_torn_line(run.metrics)
        kept = [line for line in read_records(run.metrics, StepMetrics) if line.step <= first_step]
        write_text(run.metrics, "".join(line.to_line() for line in kept))
        self.lines = kept
        self.wandb = open_wandb(recipe, run)

    def append(self, line: StepMetrics) -> None:
        append_record(self.run.metrics, line)
        self.lines.append(line)
        if self.wandb is not None:
            self.wandb.log(line.model_dump(exclude_none=True), step=line.step)

    def draw(self) -> None:
        published = PUBLISHED_LOSS if self.recipe.model.random is None else {}
        draw_loss(self.lines, published, self.run.loss_svg)

    def close(self) -> None:
        if self.wandb is not None:
            self.wandb.finish()


def draw_loss(lines: Sequence[StepMetrics], published: dict[int, float], path: Path) -> None:
    """The loss curve as SVG: training, validation and, behind them, the published run."""
    from matplotlib.backends.backend_svg import FigureCanvasSVG
    from matplotlib.figure import Figure

    figure = Figure(figsize=(8, 4.5), layout="constrained")
    axes = figure.add_subplot()
    if published:
        axes.plot(
            list(published), list(published.values()), "o--", color="0.7", label="published run"
        )
    axes.plot([line.step for line in lines], [line.loss for line in lines], label="training")
    measured = [(line.step, line.val_loss) for line in lines if line.val_loss is not None]
    if measured:
        axes.plot(*zip(*measured, strict=True), "s-", label="validation")
    axes.set_xlabel("optimizer step")
    axes.set_ylabel("cross-entropy per supervised token")
    axes.set_ylim(bottom=0)
    axes.grid(alpha=0.3)
    axes.legend()
    partial = path.with_name(f".{path.name}.partial")
    FigureCanvasSVG(figure).print_svg(partial, metadata={"Date": None})
    partial.replace(path)
