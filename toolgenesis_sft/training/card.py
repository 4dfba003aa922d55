"""The exported model's card: what it was trained on, how its loss fell, and how it scores.

`export` writes it before there are scores, `report` again when there are. No torch here.
"""

from __future__ import annotations

from collections.abc import Iterator

from pydantic import ValidationError

from toolgenesis_sft.config import Recipe
from toolgenesis_sft.records import (
    BEFORE,
    FIGURES,
    TRAINED,
    FigureName,
    FigureSummary,
    Record,
    RunReport,
)
from toolgenesis_sft.runs import (
    COMPLETE,
    RunFolder,
    model_digest,
    read_json,
    read_records,
    write_text,
)
from toolgenesis_sft.training.metrics import PUBLISHED_LOSS, StepMetrics

CARD_FILE = "README.md"

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
{scores}
## Provenance

| what | value |
|---|---|
{provenance}
"""
SCORES = """
## Scores

On {benchmark} (SHA-256 {digest}), profile `{profile}`. What a model fails or never reaches counts
as 0. Intervals and causes are in the run's report.html.

{rows}
"""
HEADS: dict[FigureName, str] = {
    "compliance": "L1 compliance",
    "launch": "L1 launch",
    "schema_f1": "L2 schema F1",
    "ut_soft": "L2 UT soft",
    "ut_hard": "L2 UT hard",
    "capability_boundary": "L3 boundary",
    "task_utility": "L4 tasks",
}
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


class ExportMarker(Record):
    """What the export's COMPLETE says. `files` maps each file but the card to its SHA-256."""

    step: int
    dtype: str
    files: dict[str, str]


def read_marker(run: RunFolder) -> ExportMarker | None:
    """None where there is no whole export of ours."""
    path = run.export / COMPLETE
    try:
        return ExportMarker.from_line(path.read_bytes()) if path.exists() else None
    except ValidationError:
        return None


def write_card(recipe: Recipe, run: RunFolder) -> None:
    """Write the card of a whole export again, with what the run has by now."""
    marker = read_marker(run)
    if marker is not None:
        write_text(run.export / CARD_FILE, model_card(recipe, run, marker))


def model_card(recipe: Recipe, run: RunFolder, marker: ExportMarker) -> str:
    """README.md of the export that this marker is of, from the run's own files."""
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
        step=marker.step,
        origin=f"It starts from {base}." if base else "It starts from random weights.",
        data=", ".join(f"`{source}`" for source in recipe.data.sources),
        settings=table({name: getattr(recipe.train, name) for name in RECIPE_FIELDS}),
        loss=loss_table(read_records(run.metrics, StepMetrics), published=base is not None),
        scores=scores_of(run, marker),
        provenance=table({name: value for name, value in facts.items() if value is not None}),
    )


def scores_of(run: RunFolder, marker: ExportMarker) -> str:
    """The card's section on scores; empty unless report.json is about these very weights."""
    if not run.report_json.exists():
        return ""
    report = RunReport.model_validate(read_json(run.report_json))
    asked = report.provenance.get("generate", {}).get("models", {}).get(TRAINED, {})
    if asked.get("digest") != model_digest(marker.files):
        return ""
    return SCORES.format(
        benchmark=report.benchmark,
        digest=report.benchmark_digest[:12],
        profile=report.profile,
        rows="\n".join(score_rows(report)),
    )


def score_rows(report: RunReport) -> Iterator[str]:
    """A table of the four layers: this model and, where it was asked, the one before training."""
    figures = [one for one in FIGURES if any(one in group.figures for group in report.groups)]
    heads = ["model", "asked", "scenarios", "servers", *(HEADS[figure] for figure in figures)]
    yield "| " + " | ".join(heads) + " |"
    yield "|---" * len(heads) + "|"
    for group in report.groups:
        if group.model in (TRAINED, BEFORE):
            cells = [
                group.model.replace("_", " "),
                group.strategy.replace("_", " "),
                group.scenarios.replace("_", " ") + (" (memorised)" if group.memorisation else ""),
                str(group.num_servers),
                *(mean_text(group.figures.get(figure)) for figure in figures),
            ]
            yield "| " + " | ".join(cells) + " |"


def mean_text(summary: FigureSummary | None) -> str:
    if summary is None:
        return ""
    return "harness fault" if summary.mean_all is None else f"{summary.mean_all:.3f}"


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
