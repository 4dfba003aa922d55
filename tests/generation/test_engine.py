"""Engines: what a checkpoint must be, what a started server is told, and that it really ends."""

from __future__ import annotations

import json
import os
import shutil
import socket
import sys
from pathlib import Path

import pytest

from toolgenesis_sft.config import Generate
from toolgenesis_sft.errors import UserError
from toolgenesis_sft.generation.engine import (
    MAX_SERVERS,
    choose_port,
    last_words,
    open_engines,
    server_environment,
    stop_tokens,
    transformers_engines,
    vllm_engine,
    write_served_folder,
)
from toolgenesis_sft.generation.models import (
    AskedModel,
)


@pytest.fixture
def folder(tiny_model: Path, tmp_path: Path) -> Path:
    """A copy of the tiny model, to be spoiled."""
    return Path(shutil.copytree(tiny_model, tmp_path / "copy"))


def test_a_port_in_use_is_refused_by_number() -> None:
    with socket.socket() as other:
        other.bind(("127.0.0.1", 0))
        other.listen()
        port = other.getsockname()[1]
        with pytest.raises(UserError, match=f"generate.port = {port}: cannot be used"):
            choose_port(port)
    assert choose_port(None) > 0


def test_a_started_server_gets_our_defaults_no_secret_and_no_network(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("OPENAI_API_KEY", "sk-secret")
    monkeypatch.setenv("HF_TOKEN", "hf-secret")
    monkeypatch.setenv("OMP_NUM_THREADS", "3")
    environment = server_environment({"OMP_NUM_THREADS": "1", "OMP_WAIT_POLICY": "PASSIVE"})
    assert (environment["OMP_NUM_THREADS"], environment["OMP_WAIT_POLICY"]) == ("3", "PASSIVE")
    assert not {"OPENAI_API_KEY", "HF_TOKEN"} & set(environment)
    assert environment["HF_HUB_OFFLINE"] == "1"
    assert environment["PATH"] == os.environ["PATH"]


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


def test_vllm_is_told_the_recipe_s_settings(tiny_model: Path, tmp_path: Path) -> None:
    settings = Generate(
        engine_python=sys.executable,
        tensor_parallel=4,
        max_model_len=2048,
        concurrency=32,
        seed=3,
        memory_share=0.5,
    )
    model = AskedModel("trained", "export", tiny_model, "digest")
    command = " ".join(vllm_engine(settings, model, True, tmp_path, 1234).command)
    for words in (
        f"--model {tiny_model}",
        "--port 1234",
        "--tensor-parallel-size 4",
        "--max-model-len 2048",
        "--max-num-seqs 32",
        "--enable-prefix-caching",
        "--seed 3",
        "--gpu-memory-utilization 0.5",
        '"top_k": 0',
    ):
        assert words in command


def test_vllm_that_is_not_installed_is_an_error_for_the_user(
    tiny_model: Path, tmp_path: Path
) -> None:
    model = AskedModel("trained", "export", tiny_model, "digest")
    with pytest.raises(UserError, match=r"generate\.engine_python"):
        vllm_engine(Generate(), model, False, tmp_path, 1234)
    with pytest.raises(UserError, match="is no interpreter"):
        vllm_engine(Generate(engine_python="/no/python"), model, False, tmp_path, 1234)


def test_a_server_that_ends_while_starting_is_told_by_its_last_words(
    tiny_model: Path, tmp_path: Path
) -> None:
    broken = tmp_path / "python"
    broken.write_text("#!/bin/sh\necho out of memory, says the GPU >&2\nexit 3\n")
    broken.chmod(0o755)
    settings = Generate(engine_python=str(broken))
    model = AskedModel("trained", "export", tiny_model, "digest")
    with (
        pytest.raises(UserError, match=r"ended while starting .out of memory, says the GPU"),
        open_engines(settings, model, False, tmp_path, num_requests=3),
    ):
        pass


def test_a_log_s_first_error_is_shown_or_its_last_line(tmp_path: Path) -> None:
    log = tmp_path / "log"
    assert last_words(log) == "no log"
    log.write_text("first\nlast\n\n")
    assert last_words(log) == "last"
    log.write_text("WARNING OSError: maybe\nE  ValueError: the cause\nRuntimeError: failed\nbye\n")
    assert last_words(log) == "ValueError: the cause"
