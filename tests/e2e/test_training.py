"""Real training: accelerate, DeepSpeed ZeRO-3, two ranks on this machine's CPU.

What runs in the fast set shares one uninterrupted run of ten steps. Metrics and weights are
compared bit by bit: nothing here is random but when the run is killed.
"""

from __future__ import annotations

import signal
from pathlib import Path

import pytest
import torch
import transformers
from safetensors.torch import load_file

from tests.e2e.training_run import (
    NUM_STEPS,
    Tiny,
    assert_same_run,
    call,
    logs,
    losses,
    metrics,
    ranks_of,
    start,
    trained_and_exported,
    wait_for_steps,
    wait_until_gone,
    weights,
)
from tests.training.tiny import build_tiny
from toolgenesis_sft.runs import read_json, sha256_file
from toolgenesis_sft.training.checkpoint import complete_checkpoints


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Tiny:
    """An uninterrupted run, in a folder whose name has a space."""
    return trained_and_exported(build_tiny(tmp_path_factory.mktemp("whole run")))


def test_two_ranks_train_with_zero_3(whole: Tiny) -> None:
    provenance = read_json(whole[1].provenance)["train"]
    assert provenance["zero_stage"] == 3
    assert provenance["world_size"] == 2
    assert provenance["data_manifest"] == sha256_file(whole[1].data / "manifest.json")


def test_every_step_has_a_line_and_the_loss_falls(whole: Tiny) -> None:
    lines = metrics(whole[1])
    assert [line["step"] for line in lines] == list(range(1, NUM_STEPS + 1))
    assert [line["step"] for line in lines if "val_loss" in line] == [5, 10]
    assert losses(whole[1])[-1] < losses(whole[1])[0] - 1
    assert whole[1].loss_svg.exists()


def test_checkpoints_are_kept_by_age_and_by_validation_loss(whole: Tiny) -> None:
    assert [one.step for one in complete_checkpoints(whole[1])] == [10, 8]


def test_a_finished_training_returns_at_once(whole: Tiny) -> None:
    before = whole[1].metrics.stat().st_mtime_ns
    done = call(whole, "train")
    assert done.returncode == 0
    assert "trained already" in done.stderr
    assert whole[1].metrics.stat().st_mtime_ns == before


def test_the_export_loads_and_stops_at_the_end_of_a_turn(whole: Tiny) -> None:
    folder = whole[1].export
    model, report = transformers.AutoModelForCausalLM.from_pretrained(
        folder, output_loading_info=True
    )
    assert not report["missing_keys"]
    assert not report["unexpected_keys"]
    tokenizer = transformers.AutoTokenizer.from_pretrained(folder)
    assert model.generation_config.eos_token_id[0] == tokenizer.convert_tokens_to_ids("<|im_end|>")
    for name in ("tokenizer.json", "tokenizer_config.json", "chat_template.jinja"):
        assert (folder / name).read_bytes() == (whole[1].data / "tokenizer" / name).read_bytes()
    card = (folder / "README.md").read_text()
    assert "step 10" in card


def test_the_trained_weights_are_not_the_base_models(whole: Tiny) -> None:
    base = load_file(whole[1].base_model / "model.safetensors")
    trained = weights(whole[1])
    assert base.keys() == trained.keys()
    assert all(not torch.equal(base[name], trained[name]) for name in base)


def test_killed_with_minus_9_and_started_again_it_ends_with_the_same_bits(
    whole: Tiny, tmp_path: Path
) -> None:
    tiny = build_tiny(tmp_path)
    process = start(tiny)
    wait_for_steps(tiny[1], 6, process)
    process.kill()
    process.wait()
    wait_until_gone(tiny[1])
    trained_and_exported(tiny)
    assert read_json(tiny[1].provenance)["train"]["resumed_from_step"] >= 4
    assert_same_run(tiny[1], whole[1])


def test_usr1_saves_and_exits_85(tmp_path: Path) -> None:
    tiny = build_tiny(tmp_path)
    process = start(tiny)
    wait_for_steps(tiny[1], 1, process)
    process.send_signal(signal.SIGUSR1)
    assert process.wait(timeout=120) == 85, logs(tiny[1])
    assert complete_checkpoints(tiny[1])[0].step == len(metrics(tiny[1])) < NUM_STEPS
    assert not ranks_of(tiny[1])
