"""What can go wrong with a real training, and what it then does. Minutes: `make test-slow`."""

from __future__ import annotations

import os
import random
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

from tests.e2e.training_run import (
    NUM_STEPS,
    Tiny,
    assert_same_run,
    call,
    command,
    logs,
    losses,
    metrics,
    ranks_of,
    start,
    trained_and_exported,
    wait_for_steps,
    wait_until_gone,
)
from tests.training.tiny import ENVIRONMENT, ROOT, build_tiny
from toolgenesis_sft.config import load_recipe
from toolgenesis_sft.runs import COMPLETE, read_json
from toolgenesis_sft.training.card import read_marker
from toolgenesis_sft.training.checkpoint import complete_checkpoints, step_folder
from toolgenesis_sft.training.model import write_base_model
from toolgenesis_sft.training.tokens import load_tokens

pytestmark = [pytest.mark.slow, pytest.mark.timeout(900)]


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Tiny:
    return trained_and_exported(build_tiny(tmp_path_factory.mktemp("whole")))


@pytest.fixture(scope="module")
def stopped(tmp_path_factory: pytest.TempPathFactory) -> Tiny:
    """Trained to its checkpoint of step 4 and killed."""
    tiny = build_tiny(tmp_path_factory.mktemp("stopped"))
    process = start(tiny)
    wait_for_steps(tiny[1], 5, process)
    process.kill()
    process.wait()
    wait_until_gone(tiny[1])
    for folder in tiny[1].checkpoints.glob("step_*"):
        if folder != step_folder(tiny[1], 4):
            shutil.rmtree(folder)
    return tiny


def copy_of(tiny: Tiny, folder: Path) -> Tiny:
    shutil.copytree(tiny[0].parent, folder)
    return folder / tiny[0].name, type(tiny[1])(folder / tiny[1].root.relative_to(tiny[0].parent))


@pytest.mark.parametrize("in_background", ["false", "true"])
def test_killed_at_five_random_steps_it_ends_with_the_same_bits(
    whole: Tiny, tmp_path: Path, in_background: str
) -> None:
    tiny = build_tiny(tmp_path)
    # Every 3 steps: in the middle of an epoch of 2 steps, and at its edge.
    often = ("train.checkpoint_every_steps=3", f"train.async_save={in_background}")
    moments = random.Random(7)
    for step in sorted(moments.sample(range(1, NUM_STEPS), 5)):
        process = start(tiny, *often)
        wait_for_steps(tiny[1], step, process)
        time.sleep(moments.uniform(0, 0.5))
        process.kill()
        process.wait()
        wait_until_gone(tiny[1])
    trained_and_exported(tiny, *often)
    assert_same_run(tiny[1], whole[1])


def test_killed_at_any_moment_of_its_start_it_starts_again(tmp_path: Path) -> None:
    tiny = build_tiny(tmp_path)
    for wait_s in (0.3, 1, 2, 3, 4, 5, 6, 8):
        process = start(tiny)
        time.sleep(wait_s)
        process.kill()
        process.wait()
        wait_until_gone(tiny[1])
    trained_and_exported(tiny)


@pytest.mark.parametrize("number", [signal.SIGUSR1, signal.SIGTERM, signal.SIGINT])
def test_stopped_by_a_signal_it_continues_to_the_same_bits(
    whole: Tiny, tmp_path: Path, number: signal.Signals
) -> None:
    tiny = build_tiny(tmp_path)
    # As in a terminal: a shell's background has Ctrl-C ignored, and children inherit that.
    signal.signal(signal.SIGINT, signal.default_int_handler)
    process = start(tiny)
    wait_for_steps(tiny[1], 1, process)
    process.send_signal(number)
    assert process.wait(timeout=120) == 85
    stopped_at = complete_checkpoints(tiny[1])[0].step
    trained_and_exported(tiny)
    assert read_json(tiny[1].provenance)["train"]["resumed_from_step"] == stopped_at
    assert_same_run(tiny[1], whole[1])


@pytest.mark.parametrize("num_processes", [1, 3])
def test_another_number_of_ranks_continues_with_the_same_loss(
    whole: Tiny, stopped: Tiny, tmp_path: Path, num_processes: int
) -> None:
    tiny = copy_of(stopped, tmp_path / "copy")
    trained_and_exported(tiny, f"train.num_processes={num_processes}")
    provenance = read_json(tiny[1].provenance)["train"]
    assert provenance["world_size"] == num_processes
    assert provenance["resumed_from_step"] == 4
    assert losses(tiny[1])[:4] == losses(whole[1])[:4]
    assert losses(tiny[1]) == pytest.approx(losses(whole[1]), abs=1e-5)


def test_a_corrupt_newest_checkpoint_is_passed_by(whole: Tiny, tmp_path: Path) -> None:
    tiny = copy_of(whole, tmp_path / "copy")
    newest = step_folder(tiny[1], NUM_STEPS)
    marker = (newest / COMPLETE).read_text().replace(f'"num_steps":{NUM_STEPS}', '"num_steps":99')
    (newest / COMPLETE).write_text(marker)  # else the training is finished, and nothing is read
    file = next(newest.glob("*optim_states.pt"))
    content = bytearray(file.read_bytes())
    content[len(content) // 2] ^= 1
    file.write_bytes(content)
    shutil.rmtree(tiny[1].export)
    trained_and_exported(tiny)
    assert "step_000010 is corrupt" in logs(tiny[1])
    assert read_json(tiny[1].provenance)["train"]["resumed_from_step"] == 8
    assert_same_run(tiny[1], whole[1])


def test_a_checkpoint_of_other_data_is_refused(whole: Tiny, tmp_path: Path) -> None:
    tiny = copy_of(whole, tmp_path / "copy")
    lines = (tiny[1].data / "train.jsonl").read_text().splitlines(keepends=True)
    (tiny[1].data / "train.jsonl").write_text("".join(lines[1:]))
    done = call(tiny, "train")
    assert done.returncode == 2
    assert "another model, recipe or data set" in done.stderr


def test_not_a_number_stops_the_training_and_names_the_sample(tmp_path: Path) -> None:
    tiny = build_tiny(tmp_path)
    recipe = load_recipe(tiny[0])
    write_base_model(recipe, tiny[1], tiny[1].data / "tokenizer")
    tokens = load_tokens(recipe, tiny[1])
    others = {int(token) for sample in range(7) for token in tokens[sample].ids}
    own = next(int(token) for token in tokens[7].ids[:-1] if int(token) not in others)
    file = tiny[1].base_model / "model.safetensors"
    tensors = load_file(file)
    tensors["model.embed_tokens.weight"][own] = torch.nan
    save_file(tensors, file, {"format": "pt"})
    done = call(tiny, "train")
    assert done.returncode == 1
    assert "loss is not finite: at step" in done.stderr
    assert "samples sample-7;" in done.stderr
    assert not complete_checkpoints(tiny[1])


@pytest.mark.parametrize("fault", ["missing", "in excess", "mis-shaped"])
def test_a_base_model_with_a_wrong_tensor_is_not_trained(tmp_path: Path, fault: str) -> None:
    tiny = build_tiny(tmp_path)
    write_base_model(load_recipe(tiny[0]), tiny[1], tiny[1].data / "tokenizer")
    file = tiny[1].base_model / "model.safetensors"
    tensors = load_file(file)
    name = "model.layers.1.mlp.up_proj.weight"
    if fault == "missing":
        del tensors[name]
    elif fault == "in excess":
        name = "model.layers.2.mlp.up_proj.weight"
        tensors[name] = torch.zeros(2, 2)
    else:
        tensors[name] = tensors[name][:-1].clone()
    save_file(tensors, file, {"format": "pt"})
    done = call(tiny, "train")
    assert done.returncode == 1
    assert name in done.stderr + logs(tiny[1])
    assert not tiny[1].metrics.exists()


def test_a_killed_rank_ends_all_and_is_named(tmp_path: Path) -> None:
    tiny = build_tiny(tmp_path)
    process = start(tiny, "train.epochs=500")
    wait_for_steps(tiny[1], 1, process)
    ranks = [pid for pid in ranks_of(tiny[1]) if rank_of(pid) == "1"]
    os.kill(ranks[0], signal.SIGKILL)
    _, stderr = process.communicate(timeout=60)
    assert process.returncode == 1
    assert b"rank 1 was ended by SIGKILL" in stderr
    wait_until_gone(tiny[1])


def test_a_rank_that_hangs_ends_all_after_the_recipes_timeout(tmp_path: Path) -> None:
    tiny = build_tiny(tmp_path)
    process = start(tiny, "train.epochs=500", "train.timeout_s=10")
    wait_for_steps(tiny[1], 1, process)
    [rank] = [pid for pid in ranks_of(tiny[1]) if rank_of(pid) == "1"]
    os.kill(rank, signal.SIGSTOP)
    _, stderr = process.communicate(timeout=120)
    assert process.returncode == 1
    assert b"rank 0 " in stderr
    wait_until_gone(tiny[1])


def rank_of(pid: int) -> str | None:
    variables = Path(f"/proc/{pid}/environ").read_bytes().split(b"\0")
    return next((one[5:].decode() for one in variables if one.startswith(b"RANK=")), None)


def test_no_rank_outlives_its_launcher(tmp_path: Path) -> None:
    tiny = build_tiny(tmp_path)
    process = start(tiny, "train.epochs=500")
    wait_for_steps(tiny[1], 1, process)
    launcher = next(
        pid
        for pid in ranks_of(tiny[1])
        if b"toolgenesis_sft.training.launch" in Path(f"/proc/{pid}/cmdline").read_bytes()
    )
    os.kill(launcher, signal.SIGKILL)
    assert process.wait(timeout=60) == 1
    wait_until_gone(tiny[1])


@pytest.mark.parametrize("way", ["configured launcher", "bare launcher", "module"])
def test_all_ways_start_the_same_training(whole: Tiny, tmp_path: Path, way: str) -> None:
    tiny = build_tiny(tmp_path)
    tiny[0].write_text(
        "#!/usr/bin/env -S python -m toolgenesis_sft.training\n" + tiny[0].read_text()
    )
    tiny[0].chmod(0o755)
    accelerate = [sys.executable, "-m", "accelerate.commands.launch"]
    configuration = str(ROOT / "launch" / "accelerate_cpu.yaml")
    program = {
        "configured launcher": [*accelerate, "--config_file", configuration],
        "bare launcher": [*accelerate, "-m", "toolgenesis_sft.training"],
        "module": [sys.executable, "-m", "toolgenesis_sft.training"],
    }[way]
    done = subprocess.run(
        [*program, str(tiny[0]), "--run", "tiny-test"],
        cwd=tmp_path,
        env=ENVIRONMENT,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr[-3000:]
    trained_and_exported(tiny)
    assert_same_run(tiny[1], whole[1])


def test_an_export_killed_anywhere_is_whole_or_absent_and_ends_with_the_same_bytes(
    whole: Tiny, tmp_path: Path
) -> None:
    tiny = copy_of(whole, tmp_path / "copy")
    marker = tiny[1].export / COMPLETE
    marker.write_text(marker.read_text().replace(f'"step":{NUM_STEPS}', '"step":8'))
    done = subprocess.run(
        [sys.executable, "-m", "tests.e2e.killed_export", str(tiny[0]), str(tiny[1].root)],
        cwd=ROOT,
        env=ENVIRONMENT,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr[-2000:]
    places = dict(line.split() for line in done.stdout.splitlines() if line.count(" ") == 1)
    functions = {place.partition(":")[0] for place in places}
    assert {"write_export", "read_weights", "write_model", "compare"} <= functions
    assert set(places.values()) == {"whole", "absent"}, places
    for file in whole[1].export.iterdir():
        assert (tiny[1].export / file.name).read_bytes() == file.read_bytes(), file.name
    assert not list(tiny[1].root.glob(".export.*[!k]")), "no leftovers"


def test_an_export_to_a_full_disk_is_one_line_and_leaves_the_former_one(
    whole: Tiny, tmp_path: Path
) -> None:
    tiny = copy_of(whole, tmp_path / "copy")
    marker = tiny[1].export / COMPLETE
    marker.write_text(marker.read_text().replace(f'"step":{NUM_STEPS}', '"step":8'))
    limited = ["bash", "-c", 'ulimit -f 100; exec "$@"', "bash", *command(tiny, "export")]
    done = subprocess.run(limited, env=ENVIRONMENT, capture_output=True, text=True, check=False)
    assert done.returncode == 2, done.stderr
    assert "cannot be written (File too large)" in done.stderr.splitlines()[-1]
    assert read_marker(tiny[1]) is not None
    assert not (tiny[1].root / ".export.partial").exists()


@pytest.mark.parametrize("in_background", ["false", "true"])
def test_a_disk_that_fills_during_a_save_is_one_line_and_no_checkpoint(
    tmp_path: Path, in_background: str
) -> None:
    tiny = build_tiny(tmp_path)
    train = command(tiny, "train", f"train.async_save={in_background}")
    limit = 200_000  # bytes of one file: less than a rank's states, more than all else
    done = subprocess.run(
        ["bash", "-c", f'ulimit -f {limit // 1024}; exec "$@"', "bash", *train],
        env=ENVIRONMENT,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 2, done.stderr
    assert len(done.stderr.strip().splitlines()[-1]) < 400
    assert not complete_checkpoints(tiny[1])


@pytest.mark.parametrize(
    ("override", "tolerance"),
    [
        ("train.activation_checkpointing=full", 1e-4),
        ("train.compile=true", 1e-3),
        ("train.offload_optimizer=true", 1e-3),
        ("train.packing=false", 1e-3),
        ("train.async_save=true", 0),
        ("train.optimizer=adamw_bf16", 0.3),
        ("train.dtype=bf16", 0.3),
    ],
)
def test_each_option_trains_alike_under_zero_3(
    whole: Tiny, tmp_path: Path, override: str, tolerance: float
) -> None:
    tiny = trained_and_exported(build_tiny(tmp_path), override)
    assert losses(tiny[1]) == pytest.approx(losses(whole[1]), rel=0, abs=tolerance)
    assert losses(tiny[1])[0] == pytest.approx(losses(whole[1])[0], abs=0.02)
    assert len(metrics(tiny[1])) == NUM_STEPS


def test_every_steps_loss_is_that_of_trls_trainer() -> None:
    done = subprocess.run(
        [sys.executable, "benchmarks/train_vs_trl.py", "--rounds", "1", "--steps", "5"],
        cwd=ROOT,
        env=ENVIRONMENT,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr[-2000:]
    [last] = [line for line in done.stdout.splitlines() if line.startswith("largest difference")]
    assert float(last.rpartition(":")[2]) < 1e-5
