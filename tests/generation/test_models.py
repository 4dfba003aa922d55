"""The models that are asked: what a checkpoint must be, and how it is known again."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest

from tests.generation.conftest import cache_as
from tests.generation.scripted_server import ScriptedServer, reply
from toolgenesis_sft.config import Generate
from toolgenesis_sft.errors import UserError
from toolgenesis_sft.generation.models import (
    check_model_folder,
    endpoint_model_name,
    folder_digest,
    hub_folder,
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


def test_a_hub_model_is_taken_from_the_cache_without_a_network(
    tiny_model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path / "hub"))
    snapshot = cache_as(tiny_model, "tiny-org/tiny-model", tmp_path)
    assert hub_folder("generate.model", "tiny-org/tiny-model") == snapshot
    check_model_folder("generate.model", snapshot, marked=False)


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
