"""`transformers serve`: what it is shown of a model folder, and how often it is started."""

from __future__ import annotations

import json
import os
import shutil
from dataclasses import replace
from pathlib import Path

import pytest

from toolgenesis_sft.config import Generate
from toolgenesis_sft.errors import HarnessFault
from toolgenesis_sft.generation.models import AskedModel
from toolgenesis_sft.generation.server import choose_port
from toolgenesis_sft.generation.transformers_serve import (
    MAX_SERVERS,
    Room,
    longest_talk_tokens,
    stop_tokens,
    transformers_engines,
    write_served_folder,
)
from toolgenesis_sft.records import Message


@pytest.fixture
def folder(tiny_model: Path, tmp_path: Path) -> Path:
    """A copy of the tiny model, to be spoiled."""
    return Path(shutil.copytree(tiny_model, tmp_path / "copy"))


@pytest.mark.parametrize("greedy", [True, False])
def test_the_served_folder_samples_as_the_recipe_says(
    folder: Path, tmp_path: Path, greedy: bool
) -> None:
    brought = {"eos_token_id": [2, 0], "top_k": 20, "top_p": 0.95, "do_sample": True}
    (folder / "generation_config.json").write_text(json.dumps(brought))
    write_served_folder(folder, tmp_path / "served", greedy)
    written = json.loads((tmp_path / "served" / "generation_config.json").read_text())
    assert written["eos_token_id"] == [2, 0]
    assert written["do_sample"] is not greedy
    assert (written.get("top_k", 0), written.get("top_p", 1.0)) == (0, 1.0)
    assert json.loads((folder / "generation_config.json").read_text()) == brought
    assert (tmp_path / "served" / "model.safetensors").is_symlink()


def test_stop_tokens_are_those_of_the_tokenizer(tiny_model: Path) -> None:
    assert stop_tokens(tiny_model) == ("<|im_end|>", "<|endoftext|>")


def test_the_cache_has_room_for_the_longest_talk_of_the_recipe(
    tiny_model: Path, tmp_path: Path
) -> None:
    assert longest_talk_tokens(Generate(max_tokens=4096), tiny_model) == 2048  # the model's own
    assert longest_talk_tokens(Generate(max_tokens=10, max_model_len=256), tiny_model) == 256
    (tmp_path / "config.json").write_text("{}")
    agent = Generate(
        strategies=("direct", "coder_agent"), max_turns=6, max_tokens=100, stated_confidence=True
    )
    assert longest_talk_tokens(agent, tmp_path) == 4096 + (2 + 6 + 1) * 100
    settings = Generate(engine="transformers", temperature=0, concurrency=1, max_tokens=100)
    model = AskedModel("trained", "export", tiny_model, "digest")
    [engine] = transformers_engines(settings, model, False, tmp_path / "a", num_requests=1)
    pages = int(engine.command[engine.command.index("--cb-num-blocks") + 1])
    assert pages * 64 >= 2048


def test_a_talk_beyond_the_context_is_the_model_s_and_beyond_the_server_s_cache_is_ours(
    tiny_model: Path,
) -> None:
    short, long = Message(role="user", content="a"), Message(role="user", content="x y " * 2048)
    room = Room.of(Generate(max_tokens=100), tiny_model)
    assert room is not None
    assert 2000 < room([short]) < 2048
    assert room([long]) < 1
    beyond = replace(room, context=10**6)
    assert 2000 < beyond([short]) < 2048
    with pytest.raises(HarnessFault, match=r"prompt_too_long: .*generate\.max_model_len"):
        beyond([long])


def test_a_small_model_on_a_cpu_is_served_by_one_thread_a_processor(
    tiny_model: Path, tmp_path: Path
) -> None:
    model = AskedModel("trained", "export", tiny_model, "digest")
    settings = Generate(engine="transformers", temperature=0, concurrency=6)
    engines = transformers_engines(settings, model, False, tmp_path / "a", num_requests=100)
    num_processors = min(len(os.sched_getaffinity(0)), MAX_SERVERS)
    assert len({engine.base_url for engine in engines}) == len(engines) == num_processors
    assert len({engine.log for engine in engines}) == num_processors
    assert all(engine.environment["OMP_NUM_THREADS"] == "1" for engine in engines)
    assert sum(engine.concurrency for engine in engines) >= 6
    [engine] = transformers_engines(settings, model, False, tmp_path / "b", num_requests=1)
    assert engine.concurrency == 6
    sampled = settings.model_copy(update={"temperature": 0.5, "port": choose_port(None)})
    [engine] = transformers_engines(sampled, model, False, tmp_path / "c", num_requests=9)
    assert engine.concurrency == 1
    assert "--continuous-batching" not in engine.command
