"""Trainings of the tiny model on one GPU: what a CPU cannot run (`make test-gpu`)."""

from __future__ import annotations

import signal
from pathlib import Path

import pytest

from tests.e2e.training_run import (
    NUM_STEPS,
    Tiny,
    logs,
    losses,
    metrics,
    start,
    trained_and_exported,
    wait_for_steps,
)
from tests.training.tiny import build_tiny
from toolgenesis_sft.runs import read_json

pytestmark = [pytest.mark.gpu, pytest.mark.timeout(900)]

ONE_GPU = ("train.num_processes=1", "train.dtype=bf16")


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Tiny:
    return trained_and_exported(build_tiny(tmp_path_factory.mktemp("whole")), *ONE_GPU)


def test_it_trains_on_the_gpu(whole: Tiny) -> None:
    facts = read_json(whole[1].provenance)["train"]
    assert facts["device"] != "CPU"
    assert facts["zero_stage"] == 3
    assert losses(whole[1])[-1] < losses(whole[1])[0] - 1


@pytest.mark.parametrize(
    "override",
    [
        "train.attention=varlen",
        "train.attention=flash_attention_2",
        "train.packing=false",
        "train.activation_checkpointing=full",
        "train.activation_checkpointing=selective",
        "train.liger=true",
        "train.compile=true",
        "train.loss_chunk_tokens=7",
        "train.optimizer=adamw_bf16",
        "train.optimizer=adamw_8bit",
        "train.offload_optimizer=true",
        "train.async_save=true",
    ],
)
def test_each_option_trains_alike(whole: Tiny, tmp_path: Path, override: str) -> None:
    tiny = trained_and_exported(build_tiny(tmp_path), *ONE_GPU, override)
    assert len(metrics(tiny[1])) == NUM_STEPS
    assert losses(tiny[1])[0] == pytest.approx(losses(whole[1])[0], abs=0.02)
    assert losses(tiny[1])[-1] == pytest.approx(losses(whole[1])[-1], abs=0.3)


@pytest.mark.parametrize("override", ["train.optimizer=adamw", "train.optimizer=adamw_8bit"])
def test_stopped_by_usr1_it_continues(whole: Tiny, tmp_path: Path, override: str) -> None:
    tiny = build_tiny(tmp_path)
    process = start(tiny, *ONE_GPU, override)
    wait_for_steps(tiny[1], 1, process)
    process.send_signal(signal.SIGUSR1)
    assert process.wait(timeout=300) == 85, logs(tiny[1])
    trained_and_exported(tiny, *ONE_GPU, override)
    assert read_json(tiny[1].provenance)["train"]["resumed_from_step"] > 0
    assert losses(tiny[1])[-1] == pytest.approx(losses(whole[1])[-1], abs=0.3)
