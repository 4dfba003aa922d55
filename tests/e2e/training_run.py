"""Start, watch and compare real trainings of the tiny run folder."""

from __future__ import annotations

import json
import subprocess
import sys
import time
from pathlib import Path

import torch
from safetensors.torch import load_file

from tests.training.tiny import ENVIRONMENT
from toolgenesis_sft.runs import RunFolder

NUM_STEPS = 10
VARYING = ("seconds", "data_wait_s", "tokens_per_s", "memory_gib", "mfu")
Tiny = tuple[Path, RunFolder]


def command(tiny: Tiny, verb: str, *overrides: str) -> list[str]:
    recipe, run = tiny
    cli = [sys.executable, "-m", "toolgenesis_sft.cli", verb]
    return [*cli, str(recipe), *overrides, "--run", str(run.root)]


def call(tiny: Tiny, verb: str, *overrides: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        command(tiny, verb, *overrides),
        cwd=tiny[0].parent,
        env=ENVIRONMENT,
        capture_output=True,
        text=True,
        timeout=280,
        check=False,
    )


def metrics(run: RunFolder) -> list[dict[str, object]]:
    """The lines of metrics.jsonl without what a clock or an allocator decides."""
    lines = [json.loads(line) for line in run.metrics.read_text().splitlines()]
    return [{key: line[key] for key in line if key not in VARYING} for line in lines]


def losses(run: RunFolder) -> list[float]:
    return [float(str(line["loss"])) for line in metrics(run)]


def weights(run: RunFolder) -> dict[str, torch.Tensor]:
    tensors: dict[str, torch.Tensor] = load_file(run.export / "model.safetensors")
    return tensors


def trained_and_exported(tiny: Tiny, *overrides: str) -> Tiny:
    for verb in ("train", "export"):
        done = call(tiny, verb, *overrides)
        assert done.returncode == 0, done.stderr + logs(tiny[1])
    return tiny


def logs(run: RunFolder) -> str:
    return "\n".join(path.read_text()[-3000:] for path in sorted(run.root.glob("logs/*/*")))


def start(tiny: Tiny, *overrides: str) -> subprocess.Popen[bytes]:
    return subprocess.Popen(
        command(tiny, "train", *overrides), env=ENVIRONMENT, stderr=subprocess.PIPE
    )


def wait_for_steps(run: RunFolder, num_steps: int, process: subprocess.Popen[bytes]) -> None:
    while not run.metrics.exists() or run.metrics.read_bytes().count(b"\n") < num_steps:
        assert process.poll() is None, logs(run)
        time.sleep(0.02)


def ranks_of(run: RunFolder) -> list[int]:
    """Process ids of everything that still works on this run."""
    found = []
    for folder in Path("/proc").iterdir():
        if folder.name.isdigit():
            try:
                arguments = (folder / "cmdline").read_bytes()
            except OSError:
                continue
            if b"toolgenesis_sft.training" in arguments and str(run.root).encode() in arguments:
                found.append(int(folder.name))
    return found


def wait_until_gone(run: RunFolder) -> None:
    deadline = time.monotonic() + 60
    while ranks_of(run):
        assert time.monotonic() < deadline, f"still there: {ranks_of(run)}"
        time.sleep(0.1)


def assert_same_run(run: RunFolder, expected: RunFolder) -> None:
    assert metrics(run) == metrics(expected)
    ours, theirs = weights(run), weights(expected)
    assert ours.keys() == theirs.keys()
    assert all(torch.equal(ours[name], theirs[name]) for name in ours)
