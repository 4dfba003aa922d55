"""A real Qwen3, small and random, with a tokenizer of ours: what the engines are tried with."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest
import torch
import transformers

from toolgenesis_sft.config import Recipe, load_recipe
from toolgenesis_sft.runs import COMPLETE, RunFolder
from toolgenesis_sft.training.tokenizer import train_tokenizer

PROMPTS = {
    "adder": "Add and subtract integers for a cash desk.",
    "clock": "Convert times between zones for a call centre.",
    "greeter": "Greet people by name in three languages.",
}


def write_tiny_model(folder: Path, seed: int) -> Path:
    texts = [f"from mcp.server.fastmcp import FastMCP\n# {prompt}\n" for prompt in PROMPTS.values()]
    train_tokenizer(texts, 400, folder, thinking=False, max_length=2048)
    tokenizer = transformers.AutoTokenizer.from_pretrained(folder)
    torch.manual_seed(seed)
    model = transformers.Qwen3ForCausalLM(
        transformers.Qwen3Config(
            vocab_size=len(tokenizer),
            hidden_size=64,
            num_hidden_layers=2,
            num_attention_heads=2,
            num_key_value_heads=1,
            head_dim=32,
            intermediate_size=128,
            max_position_embeddings=2048,
            tie_word_embeddings=False,
            eos_token_id=tokenizer.eos_token_id,
            pad_token_id=tokenizer.pad_token_id,
        )
    )
    model.save_pretrained(folder)
    (folder / COMPLETE).touch()
    return folder


def cache_as(model: Path, name: str, hf_home: Path) -> Path:
    """Lay a model out as the hub's client caches a download. Returns the snapshot's folder."""
    cached = hf_home / "hub" / f"models--{name.replace('/', '--')}"
    commit = "0123456789abcdef0123456789abcdef01234567"
    (cached / "refs").mkdir(parents=True)
    (cached / "refs" / "main").write_text(commit)
    snapshot: Path = shutil.copytree(model, cached / "snapshots" / commit)
    (snapshot / COMPLETE).unlink()
    return snapshot


@pytest.fixture(scope="session")
def tiny_model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    # A path that a naive server takes for a revision, with a space in it.
    return write_tiny_model(tmp_path_factory.mktemp("models") / "tiny @main", seed=1)


@pytest.fixture(scope="session")
def other_model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_tiny_model(tmp_path_factory.mktemp("models") / "other", seed=2)


@pytest.fixture
def benchmark(tmp_path: Path) -> Path:
    """Three scenarios, `adder` for training; every word that must not reach a prompt is CANARY."""
    items = [
        {
            "server_slug": slug,
            "agent_input_prompt": prompt,
            "tool_definitions": [
                {
                    "name": f"{slug}_CANARY_tool",
                    "description": "CANARY description",
                    "input_schema": {"type": "object", "properties": {"CANARY_argument": {}}},
                }
            ],
            "unit_test": {
                f"{slug}_CANARY_tool": [
                    {
                        "function_name": f"{slug}_CANARY_tool",
                        "arguments": {"CANARY_argument": "CANARY value"},
                        "function_output_content": "CANARY answer",
                    }
                ]
            },
            "task_example": ["CANARY task"],
        }
        for slug, prompt in PROMPTS.items()
    ]
    path = tmp_path / "benchmark.json"
    path.write_text(json.dumps(items))
    splits = {"train": ["adder"], "held_out": ["clock", "greeter"]}
    path.with_name("splits.json").write_text(json.dumps(splits))
    return path


@pytest.fixture
def run(tmp_path: Path) -> RunFolder:
    return RunFolder(tmp_path / "runs" / "try out")


@pytest.fixture
def make_recipe(benchmark: Path, tmp_path: Path):
    """make_recipe("generate.max_tokens=20", ...) -> Recipe on the small benchmark."""

    def make(*overrides: str) -> Recipe:
        path = tmp_path / "recipe.yaml"
        path.write_text(
            f"name: small\nbenchmark: {json.dumps(str(benchmark))}\nmodel: {{random: {{}}}}\n"
            "generate: {engine: transformers, temperature: 0, max_tokens: 24, concurrency: 4}\n"
        )
        return load_recipe(path, overrides)

    return make
