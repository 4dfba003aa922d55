"""A run folder with a few short samples and a model of 100,000 weights: seconds, not minutes."""

from __future__ import annotations

import os
import sys
from pathlib import Path

import yaml

from toolgenesis_sft.records import ChatSample, Message
from toolgenesis_sft.runs import RunFolder, write_json, write_text
from toolgenesis_sft.training.tokenizer import train_tokenizer

ROOT = Path(__file__).resolve().parents[2]
# One thread a rank: sums must not depend on how many cores happen to be free.
ENVIRONMENT = {
    **os.environ,
    "PATH": f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}",
    "OMP_NUM_THREADS": "1",
    "PYTHONWARNINGS": "ignore",
}
NUM_SAMPLES = 8
CODE = '''from mcp.server.fastmcp import FastMCP

mcp = FastMCP("{name}")


@mcp.tool()
def {name}(x: int) -> int:
    """Answer {name}."""
    return x {sign} {number}
'''
RECIPE = {
    "name": "tiny-test",
    "model": {
        "random": {
            "hidden_size": 32,
            "num_layers": 2,
            "num_heads": 2,
            "num_kv_heads": 1,
            "head_dim": 16,
            "intermediate_size": 64,
            "vocab_size": 400,
        },
        "max_position_embeddings": 1024,
    },
    "data": {"max_tokens": 512},
    "train": {
        "epochs": 5,
        "global_batch_size": 4,
        "max_row_tokens": 512,
        "learning_rate": 0.01,
        "dtype": "fp32",
        "checkpoint_every_steps": 4,
        "validate_every_steps": 5,
        "num_processes": 2,
        "accelerate_config": "launch/accelerate_cpu.yaml",
    },
}


def sample(number: int) -> ChatSample:
    name = f"tool_{number}" + "_long" * (number % 3)
    code = CODE.format(name=name, sign="+-*"[number % 3], number=number)
    return ChatSample(
        id=f"sample-{number}",
        messages=(
            Message(role="user", content=f"Build {name}."),
            Message(role="assistant", content=code),
        ),
        source="test",
        licence="Apache-2.0",
    )


def build_tiny(folder: Path) -> tuple[Path, RunFolder]:
    """A recipe file and a run folder with its data, as `build` leaves them."""
    recipe, run = folder / "tiny.yaml", RunFolder(folder / "runs" / "tiny-test")
    write_text(recipe, yaml.safe_dump(RECIPE))
    samples = [sample(number) for number in range(NUM_SAMPLES)]
    write_text(run.data / "train.jsonl", "".join(one.to_line() for one in samples))
    write_text(run.data / "val.jsonl", "".join(one.to_line() for one in samples[:3]))
    texts = [message.content for one in samples for message in one.messages]
    train_tokenizer(texts, 400, run.data / "tokenizer", thinking=False, max_length=1024)
    write_json(run.data / "manifest.json", {"num_samples": NUM_SAMPLES})
    return recipe, run
