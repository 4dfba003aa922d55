"""Memory and disk, by arithmetic that a person can check."""

from __future__ import annotations

import pytest

from toolgenesis_sft.config import Train
from toolgenesis_sft.training.memory import GIB, checkpoint_gib, fit, memory_per_gpu
from toolgenesis_sft.training.shape import QWEN3_SHAPES

QWEN3_8B = QWEN3_SHAPES["Qwen3-8B"]


def test_the_states_of_qwen3_8b_take_16_bytes_a_parameter_shared_by_all_gpus() -> None:
    memory = memory_per_gpu(QWEN3_8B, Train(), num_gpus=8)
    states = memory.weights + memory.gradients + memory.optimizer
    assert states * GIB == pytest.approx(16.4e9, rel=0.01)


@pytest.mark.parametrize(("mode", "megabytes"), [("none", 5.3), ("full", 0.3)])
def test_activations_a_token_are_as_measured_elsewhere(mode: str, megabytes: float) -> None:
    train = Train.model_validate({"activation_checkpointing": mode, "max_row_tokens": 100_000})
    memory = memory_per_gpu(QWEN3_8B, train, num_gpus=8)
    one_layer = 0 if mode == "none" else 5.3 / 36
    found = memory.activations * GIB / 100_000 / 1e6
    assert found - one_layer == pytest.approx(megabytes, rel=0.03)


def test_chunks_bound_the_logits() -> None:
    chunked = memory_per_gpu(QWEN3_8B, Train(loss_chunk_tokens=1024), 8).logits
    whole = memory_per_gpu(QWEN3_8B, Train(loss_chunk_tokens=0), 8).logits
    assert whole == pytest.approx(16 * chunked, rel=0.01)
    assert whole * GIB / 16_384 / 1e6 == pytest.approx(1.5, rel=0.02)  # MB a token


def test_offloaded_states_move_to_the_host() -> None:
    here = memory_per_gpu(QWEN3_8B, Train(), 1)
    there = memory_per_gpu(QWEN3_8B, Train(offload_optimizer=True), 1)
    assert (there.optimizer, there.host) == (0.0, here.optimizer)
    assert there.total == pytest.approx(here.total - here.optimizer, abs=0.02)


def test_a_save_in_the_background_takes_its_copy_from_the_hosts_memory() -> None:
    train = Train(async_save=True)
    memory = memory_per_gpu(QWEN3_8B, train, num_gpus=8)
    assert memory.host == pytest.approx(checkpoint_gib(QWEN3_8B, train) / 8, abs=0.01)
    assert memory.total == memory_per_gpu(QWEN3_8B, Train(), num_gpus=8).total


def test_what_does_not_fit_comes_with_settings_that_do() -> None:
    refused = fit(QWEN3_8B, Train(), num_gpus=1, gpu_gb=141)
    assert not refused.fits
    assert refused.advice == ("set train.activation_checkpointing=full train.optimizer=adamw_8bit")
    advised = Train(activation_checkpointing="full", optimizer="adamw_8bit")
    assert fit(QWEN3_8B, advised, num_gpus=1, gpu_gb=141).fits


def test_the_advice_leaves_out_what_is_not_needed() -> None:
    selective = Train(activation_checkpointing="selective")
    refused = fit(QWEN3_8B, selective, num_gpus=1, gpu_gb=141)
    assert refused.advice == "set train.optimizer=adamw_8bit"


def test_what_no_setting_can_mend_says_so() -> None:
    refused = fit(QWEN3_SHAPES["Qwen3-32B"], Train(), num_gpus=1, gpu_gb=80)
    assert "more GPUs" in refused.advice


def test_a_checkpoint_of_qwen3_8b_is_about_115_gigabytes() -> None:
    assert checkpoint_gib(QWEN3_8B, Train()) * GIB == pytest.approx(115e9, rel=0.01)
