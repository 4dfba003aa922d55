"""metrics.jsonl, the loss curve and the utilisation figure."""

from pathlib import Path
from xml.etree import ElementTree

import pytest

from toolgenesis_sft.config import Model, RandomModel, Recipe
from toolgenesis_sft.runs import RunFolder, read_records
from toolgenesis_sft.training.metrics import (
    MetricsLog,
    ModelFlops,
    StepMetrics,
    draw_loss,
    peak_flops,
)

RECIPE = Recipe(name="r", model=Model(random=RandomModel()))


def line(step: int, loss: float = 1.0) -> StepMetrics:
    return StepMetrics(
        step=step,
        epoch=1,
        loss=loss,
        grad_norm=1.0,
        lr=1e-3,
        num_tokens=100,
        num_supervised_tokens=50,
        seconds=0.5,
        data_wait_s=0.0,
        tokens_per_s=200.0,
        memory_gib=1.0,
    )


def test_resuming_cuts_the_steps_that_are_done_again(tmp_path: Path) -> None:
    run = RunFolder(tmp_path)
    log = MetricsLog(RECIPE, run, first_step=0)
    for step in (1, 2, 3, 4):
        log.append(line(step))
    with run.metrics.open("a") as file:
        file.write('{"step": 5, "los')
    resumed = MetricsLog(RECIPE, run, first_step=2)
    resumed.append(line(3, loss=0.5))
    assert [(one.step, one.loss) for one in read_records(run.metrics, StepMetrics)] == [
        (1, 1.0),
        (2, 1.0),
        (3, 0.5),
    ]


def test_a_fresh_start_begins_with_an_empty_file(tmp_path: Path) -> None:
    run = RunFolder(tmp_path)
    MetricsLog(RECIPE, run, first_step=0).append(line(1))
    MetricsLog(RECIPE, run, first_step=0)
    assert run.metrics.read_text() == ""


def test_the_loss_curve_is_an_svg_with_the_published_curve_behind(tmp_path: Path) -> None:
    path = tmp_path / "loss.svg"
    lines = [line(step, loss=2 / step) for step in range(1, 6)]
    lines[-1] = lines[-1].model_copy(update={"val_loss": 0.7})
    draw_loss(lines, {1: 0.763, 5: 0.6}, path)
    text = path.read_text()
    ElementTree.fromstring(text)
    for label in ("published run", "training", "validation"):
        assert label in text


class Qwen3_8B:
    hidden_size = 4096
    num_hidden_layers = 36
    num_attention_heads = 32
    num_key_value_heads = 8
    head_dim = 128
    intermediate_size = 12_288
    vocab_size = 151_936


def test_flops_of_qwen3_8b_are_the_published_arithmetic() -> None:
    """7.568e9 parameters in matmuls; 989 TFLOP/s allow 20,170 tokens/s at 4k, 16,510 at 16k."""
    flops = ModelFlops.of(Qwen3_8B)
    assert flops.body_parameters + flops.head_parameters == pytest.approx(7.568e9, rel=1e-3)
    for length, tokens_per_s in ((4096, 20_170), (16_384, 16_510)):
        per_token = flops.of_samples([length], num_supervised=length) / length
        assert 989e12 / per_token == pytest.approx(tokens_per_s, rel=1e-3)


def test_packed_samples_do_not_attend_to_each_other() -> None:
    flops = ModelFlops.of(Qwen3_8B)
    assert flops.of_samples([100, 300], 0) == flops.of_samples([100], 0) + flops.of_samples(
        [300], 0
    )


@pytest.mark.parametrize(
    ("name", "peak"),
    [
        ("NVIDIA H100 80GB HBM3", 989e12),
        ("NVIDIA H100 PCIe", 756e12),
        ("NVIDIA H200", 989e12),
        ("NVIDIA GH200 480GB", 989e12),
        ("NVIDIA A100-SXM4-80GB", 312e12),
        ("CPU", None),
    ],
)
def test_the_peak_is_known_or_none(name: str, peak: float | None) -> None:
    assert peak_flops(name) == peak
