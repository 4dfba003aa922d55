"""The exported model's card, with scores once there are any."""

import json
from pathlib import Path

import pytest

from toolgenesis_sft.config import Recipe, load_recipe
from toolgenesis_sft.records import FIGURES, TRAINED, FigureSummary, GroupSummary, RunReport
from toolgenesis_sft.runs import COMPLETE, RunFolder, model_digest, sha256_file, write_text
from toolgenesis_sft.training.card import (
    CARD_FILE,
    HEADS,
    ExportMarker,
    loss_table,
    read_marker,
    write_card,
)
from toolgenesis_sft.training.metrics import PUBLISHED_LOSS, StepMetrics

Tiny = tuple[Path, RunFolder]
FILES = {"config.json": "c0ffee", "model.safetensors": "beef"}


@pytest.fixture
def recipe(tiny: Tiny) -> Recipe:
    return load_recipe(tiny[0])


@pytest.fixture
def run(tiny: Tiny) -> RunFolder:
    """A run with an export, as far as a card needs one."""
    marker = ExportMarker(step=10, dtype="fp32", files=FILES)
    write_text(tiny[1].export / COMPLETE, marker.to_line())
    return tiny[1]


def summary(mean: float | None) -> FigureSummary:
    return FigureSummary(mean_all=mean, mean_reached=mean, n=9, ci95=None, outcomes={})


def group(model: str, scenarios: str, mean: float | None, **changes: object) -> GroupSummary:
    figures = {figure: summary(mean) for figure in FIGURES if figure != "task_utility"}
    facts = {"strategy": "direct", "memorisation": False, "num_servers": 9, "figures": figures}
    return GroupSummary.model_validate({"model": model, "scenarios": scenarios, **facts, **changes})


def write_report(run: RunFolder, *groups: GroupSummary, digest: str | None = None) -> None:
    asked = {TRAINED: {"digest": digest or model_digest(FILES), "source": "export"}}
    report = RunReport(
        name="r",
        benchmark="benchmark.json",
        benchmark_digest="f" * 64,
        profile="strict",
        provenance={"generate": {"models": asked}},
        groups=groups,
    )
    run.report_json.write_text(report.model_dump_json())


def card(recipe: Recipe, run: RunFolder) -> str:
    write_card(recipe, run)
    return (run.export / CARD_FILE).read_text()


def test_before_a_report_the_card_has_no_scores(recipe: Recipe, run: RunFolder) -> None:
    text = card(recipe, run)
    assert "step 10" in text
    assert "## Scores" not in text
    assert "\n\n\n" not in text


def test_after_a_report_the_card_has_the_figures_of_four_layers(
    recipe: Recipe, run: RunFolder
) -> None:
    write_report(
        run,
        group("before_training", "held_out", 0.0),
        group(TRAINED, "held_out", 0.125),
        group(TRAINED, "train", 1.0, memorisation=True),
        group("other/model", "held_out", 0.9),
    )
    text = card(recipe, run)
    assert "profile `strict`" in text
    assert (
        "| L1 compliance | L1 launch | L2 schema F1 | L2 UT soft | L2 UT hard | L3 boundary |"
        in text
    )
    assert "| trained | direct | held out | 9 | 0.125 |" in text
    assert "| trained | direct | train (memorised) | 9 | 1.000 |" in text
    assert "| before training | direct | held out | 9 | 0.000 |" in text
    assert "L4" not in text, "a figure that nobody scored"
    assert "other/model" not in text, "not this model's card"
    assert text.index("## Loss") < text.index("## Scores") < text.index("## Provenance")


def test_a_figure_that_a_harness_fault_blocks_is_no_number(recipe: Recipe, run: RunFolder) -> None:
    write_report(run, group(TRAINED, "held_out", None))
    assert "| harness fault |" in card(recipe, run)


def test_scores_of_other_weights_stay_out(recipe: Recipe, run: RunFolder) -> None:
    write_report(run, group(TRAINED, "held_out", 0.5), digest="another model's")
    assert "## Scores" not in card(recipe, run)


def test_a_card_never_touches_what_the_marker_vouches_for(recipe: Recipe, run: RunFolder) -> None:
    before = sha256_file(run.export / COMPLETE)
    write_report(run, group(TRAINED, "held_out", 0.5))
    assert card(recipe, run) == card(recipe, run)
    assert sha256_file(run.export / COMPLETE) == before
    assert model_digest({**FILES, CARD_FILE: "1"}) == model_digest(FILES)


@pytest.mark.parametrize("marker", [None, "", '{"step": 1'])
def test_without_a_whole_export_there_is_no_card(tiny: Tiny, marker: str | None) -> None:
    if marker is not None:
        write_text(tiny[1].export / COMPLETE, marker)
    assert read_marker(tiny[1]) is None
    write_card(load_recipe(tiny[0]), tiny[1])
    assert not (tiny[1].export / CARD_FILE).exists()


def test_every_figure_has_its_layer() -> None:
    assert tuple(HEADS) == FIGURES
    assert all(head[:2] in ("L1", "L2", "L3", "L4") for head in HEADS.values())


def test_our_loss_stands_beside_the_published_one_at_its_steps() -> None:
    facts = {"epoch": 1, "grad_norm": 1, "lr": 1, "num_tokens": 1, "num_supervised_tokens": 1}
    facts |= {"seconds": 1, "data_wait_s": 0, "tokens_per_s": 1, "memory_gib": 1}
    lines = [
        StepMetrics.from_line(json.dumps({"step": step, "loss": 1 / step, **facts}))
        for step in range(1, 118)
    ]
    beside = loss_table(lines, published=True).splitlines()
    assert beside[0] == "| step | loss | published |"
    assert [int(row.split("|")[1]) for row in beside[2:]] == sorted(PUBLISHED_LOSS)
    assert beside[2] == "| 1 | 1.000 | 0.763 |"
    assert "published" not in loss_table(lines, published=False)
