"""The exported model's card: what it was trained on, how, and how its loss fell."""

from __future__ import annotations

from toolgenesis_sft.config import Recipe
from toolgenesis_sft.runs import RunFolder, read_json, read_records
from toolgenesis_sft.training.metrics import PUBLISHED_LOSS, StepMetrics

CARD = """\
---
library_name: transformers
pipeline_tag: text-generation
{base}---

# {name}

Full-parameter fine-tuning with DeepSpeed ZeRO-3, step {step}: a model that writes a Python MCP
server for a scenario. {origin}

## Data

{data}

## Recipe

| setting | value |
|---|---|
{settings}

## Loss

{loss}

## Provenance

| what | value |
|---|---|
{provenance}
"""
PACKAGES = ("torch", "transformers", "accelerate", "deepspeed")
RECIPE_FIELDS = (
    "epochs",
    "global_batch_size",
    "batch_unit",
    "max_row_tokens",
    "learning_rate",
    "min_learning_rate_ratio",
    "warmup_ratio",
    "weight_decay",
    "max_grad_norm",
    "optimizer",
    "dtype",
    "loss_on",
    "thinking",
)


def model_card(recipe: Recipe, run: RunFolder, step: int) -> str:
    """README.md of the export, from the run's own files."""
    base = recipe.model.name_or_path
    train = read_json(run.provenance).get("train", {}) if run.provenance.exists() else {}
    facts = {
        "commit": train.get("commit"),
        "ZeRO stage": train.get("zero_stage"),
        "ranks": train.get("world_size"),
        "device": train.get("device"),
        "data manifest (SHA-256)": train.get("data_manifest"),
        **{name: train.get("versions", {}).get(name) for name in PACKAGES},
    }
    return CARD.format(
        name=recipe.name,
        base=f"base_model: {base}\n" if base else "",
        step=step,
        origin=f"It starts from {base}." if base else "It starts from random weights.",
        data=", ".join(f"`{source}`" for source in recipe.data.sources),
        settings=table({name: getattr(recipe.train, name) for name in RECIPE_FIELDS}),
        loss=loss_table(read_records(run.metrics, StepMetrics), published=base is not None),
        provenance=table({name: value for name, value in facts.items() if value is not None}),
    )


def table(rows: dict[str, object]) -> str:
    return "\n".join(f"| {name} | {value} |" for name, value in rows.items())


def loss_table(lines: list[StepMetrics], published: bool) -> str:
    """Training loss at a few steps, beside the published run's where that is comparable."""
    by_step = {line.step: line for line in lines}
    last = max(by_step, default=0)
    wanted = {1, last, *PUBLISHED_LOSS} if published else {1, last, *range(0, last, last // 8 or 1)}
    head = "| step | loss |" + (" published |" if published else "")
    rows = [head, "|---" * (head.count("|") - 1) + "|"]
    for step in sorted(wanted & set(by_step)):
        beside = f" {PUBLISHED_LOSS.get(step, '')} |" if published else ""
        rows.append(f"| {step} | {by_step[step].loss:.3f} |{beside}")
    return "\n".join(rows)
