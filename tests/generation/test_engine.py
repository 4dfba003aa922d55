"""Engines: what a checkpoint must be, what a started server is told, and that it really ends."""

from __future__ import annotations

import json
import os
import shutil
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path

import pytest

from tests.generation.scripted_server import ScriptedServer, reply
from toolgenesis_sft.config import Generate
from toolgenesis_sft.errors import UserError
from toolgenesis_sft.generation import keeper
from toolgenesis_sft.generation.engine import (
    AskedModel,
    check_model_folder,
    choose_port,
    endpoint_model_name,
    folder_digest,
    hub_folder,
    last_words,
    open_engine,
    server_environment,
    stop_tokens,
    vllm_engine,
    write_served_folder,
)
from toolgenesis_sft.runs import COMPLETE


@pytest.fixture
def folder(tiny_model: Path, tmp_path: Path) -> Path:
    """A copy of the tiny model, to be spoiled."""
    return Path(shutil.copytree(tiny_model, tmp_path / "copy"))


def refused(folder: Path, marked: bool = False) -> str:
    with pytest.raises(UserError) as raised:
        check_model_folder("generate.model", folder, marked)
    return str(raised.value)


def test_a_whole_model_folder_is_taken(folder: Path) -> None:
    check_model_folder("export", folder, marked=True)


def test_a_folder_that_is_not_there_is_refused(tmp_path: Path) -> None:
    assert "is not there; run `toolgenesis-sft export`" in refused(tmp_path / "none")


def test_an_unfinished_export_is_refused(folder: Path) -> None:
    (folder / COMPLETE).unlink()
    assert "is not finished" in refused(folder, marked=True)
    check_model_folder("generate.model", folder, marked=False)


def test_a_folder_without_a_tokenizer_is_refused(folder: Path) -> None:
    (folder / "tokenizer.json").unlink()
    assert "holds no tokenizer" in refused(folder)


def test_a_folder_of_another_architecture_is_refused(folder: Path) -> None:
    config = json.loads((folder / "config.json").read_text())
    config["architectures"] = ["BertModel"]
    (folder / "config.json").write_text(json.dumps(config))
    assert "has the architecture ['BertModel']" in refused(folder)


def test_a_folder_without_weights_is_refused(folder: Path) -> None:
    (folder / "model.safetensors").unlink()
    assert "holds no weights" in refused(folder)


def test_a_missing_shard_is_named(folder: Path) -> None:
    index = {"weight_map": {"a": "model-00001.safetensors", "b": "model.safetensors"}}
    (folder / "model.safetensors.index.json").write_text(json.dumps(index))
    assert "lacks model-00001.safetensors" in refused(folder)


def test_a_training_checkpoint_is_told_to_be_exported(tmp_path: Path) -> None:
    (tmp_path / "zero").mkdir()
    (tmp_path / "zero" / "rank_0_model_states.pt").touch()
    assert "run `toolgenesis-sft export`" in refused(tmp_path)


def test_the_digest_follows_weights_and_names(tiny_model: Path, folder: Path) -> None:
    assert folder_digest(folder) == folder_digest(tiny_model)
    with (folder / "model.safetensors").open("ab") as weights:
        weights.write(b"x")
    assert folder_digest(folder) != folder_digest(tiny_model)


def test_a_name_that_is_neither_folder_nor_hub_model_is_one_line(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    for name in ("nobody/has-this-model", "three/part/name"):
        with pytest.raises(UserError, match="is no folder, and no hub model"):
            hub_folder("generate.model", name)


def test_a_port_in_use_is_refused_by_number() -> None:
    with socket.socket() as other:
        other.bind(("127.0.0.1", 0))
        other.listen()
        port = other.getsockname()[1]
        with pytest.raises(UserError, match=f"generate.port = {port}: cannot be used"):
            choose_port(port)
    assert choose_port(None) > 0


def test_a_started_server_gets_no_secret_and_no_network(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OPENAI_API_KEY", "sk-secret")
    monkeypatch.setenv("HF_TOKEN", "hf-secret")
    environment = server_environment()
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


def test_vllm_is_told_the_recipe_s_settings(tiny_model: Path, tmp_path: Path) -> None:
    settings = Generate(
        engine_python=sys.executable, tensor_parallel=4, max_model_len=2048, concurrency=32, seed=3
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
        open_engine(settings, model, False, tmp_path),
    ):
        pass


def test_the_only_model_of_an_endpoint_is_taken_and_several_are_listed() -> None:
    with ScriptedServer(lambda body: reply(""), models=("a-model",)) as server:
        settings = Generate(engine="endpoint", endpoint_url=server.url)
        assert endpoint_model_name(settings) == "a-model"
    with ScriptedServer(lambda body: reply(""), models=("a", "b")) as server:
        settings = Generate(engine="endpoint", endpoint_url=server.url)
        with pytest.raises(UserError, match=r"offers 2 models: a, b; set generate\.endpoint_model"):
            endpoint_model_name(settings)
    with pytest.raises(UserError, match="does not list its models"):
        endpoint_model_name(settings)


def test_the_last_line_of_a_log_that_says_something_is_shown(tmp_path: Path) -> None:
    log = tmp_path / "log"
    assert last_words(log) == "no log"
    log.write_text("first\nlast\n\n")
    assert last_words(log) == "last"


FAMILY = """
import os, subprocess, sys, time
child = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(600)"])
open(sys.argv[1], "w").write(f"{os.getpid()} {child.pid}")
time.sleep(600)
"""


def start_kept_family(pids: Path) -> tuple[subprocess.Popen[bytes], list[int]]:
    kept = subprocess.Popen(
        [sys.executable, keeper.__file__, sys.executable, "-c", FAMILY, str(pids)],
        stdin=subprocess.PIPE,
    )
    wait_until(lambda: pids.exists() and len(pids.read_text().split()) == 2)
    return kept, [int(number) for number in pids.read_text().split()]


def wait_until(condition) -> None:
    deadline = time.monotonic() + 20
    while not condition():
        assert time.monotonic() < deadline, "waited in vain"
        time.sleep(0.02)


def alive(pid: int) -> bool:
    """Running, and no zombie that nobody has collected yet."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()[0] != "Z"
    except (FileNotFoundError, ProcessLookupError):
        return False


def test_a_server_ends_with_its_whole_group_when_its_owner_closes_the_pipe(tmp_path: Path) -> None:
    kept, family = start_kept_family(tmp_path / "pids")
    assert all(alive(pid) for pid in family)
    kept.stdin.close()
    assert kept.wait(20) == 128 + signal.SIGTERM
    wait_until(lambda: not any(alive(pid) for pid in family))


def test_a_killed_keeper_takes_the_server_with_it(tmp_path: Path) -> None:
    kept, family = start_kept_family(tmp_path / "pids")
    kept.kill()
    kept.wait(20)
    wait_until(lambda: not alive(family[0]))
    os.kill(family[1], signal.SIGKILL)  # what a dead server leaves is not the keeper's to find


def test_a_server_that_ends_by_itself_passes_its_exit_code_on(tmp_path: Path) -> None:
    command = [sys.executable, keeper.__file__, sys.executable, "-c", "raise SystemExit(7)"]
    with subprocess.Popen(command, stdin=subprocess.PIPE) as kept:
        assert kept.wait(20) == 7
