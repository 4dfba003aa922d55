"""Two machines of two ranks each, as the Slurm script describes them, all of them this one."""

from __future__ import annotations

import json
import os
import shutil
import socket
import subprocess
import sys
from pathlib import Path

import pytest

from toolgenesis_sft.runs import RunFolder

pytestmark = [pytest.mark.slow, pytest.mark.timeout(900)]

ROOT = Path(__file__).resolve().parents[2]
COMMAND = (
    *(sys.executable, "-m", "toolgenesis_sft.cli"),
    "VERB",
    str(ROOT / "recipes" / "tiny_cpu.yaml"),
    "data.max_scenarios=4",
    "train.epochs=3",
    "train.global_batch_size=4",
    "train.num_processes=4",
    "model.random={hidden_size: 64, num_layers: 2, intermediate_size: 128}",
)


def command(verb: str, run: RunFolder) -> list[str]:
    return [verb if part == "VERB" else part for part in COMMAND] + ["--run", run.root.name]


def losses_and_norms(run: RunFolder) -> list[tuple[float, float]]:
    steps = [json.loads(line) for line in run.metrics.read_text(encoding="utf-8").splitlines()]
    return [(step["loss"], step["grad_norm"]) for step in steps]


def on_machine(rank: int, port: int, run: RunFolder) -> subprocess.Popen[bytes]:
    attempt = run.root.absolute() / "logs" / "attempt" / f"node_{rank}"
    attempt.mkdir(parents=True)
    env = os.environ | {
        "TOOLGENESIS_NUM_MACHINES": "2",
        "TOOLGENESIS_MACHINE_RANK": str(rank),
        "TOOLGENESIS_MAIN_ADDRESS": "127.0.0.1",
        "TOOLGENESIS_MAIN_PORT": str(port),
        "TOOLGENESIS_ATTEMPT": str(attempt),
    }
    return subprocess.Popen(command("train", run), env=env)


def test_two_machines_with_weights_gathered_inside_each_train_as_one_does(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    one, two = RunFolder(Path("runs/one")), RunFolder(Path("runs/two"))
    subprocess.run(command("build", one), check=True)
    shutil.copytree(one.root, two.root)
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    machines = [on_machine(rank, port, two) for rank in (0, 1)]
    try:
        assert [machine.wait(400) for machine in machines] == [0, 0]
    finally:
        for machine in machines:
            machine.kill()
    subprocess.run(command("train", one), check=True)
    assert len(losses_and_norms(two)) == 3
    assert losses_and_norms(two) == losses_and_norms(one)
