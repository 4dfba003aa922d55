"""What is exported is opened again and compared; the whole path runs in e2e/test_training.py."""

from pathlib import Path
from typing import Any

import pytest
import torch
import transformers
from safetensors.torch import load_file, save_file

from toolgenesis_sft.config import load_recipe
from toolgenesis_sft.errors import HarnessFault, UserError
from toolgenesis_sft.runs import RunFolder
from toolgenesis_sft.training import export as module
from toolgenesis_sft.training.export import (
    compare,
    copy_tokenizer,
    expected_tensors,
    export,
    write_model,
)

Tiny = tuple[Path, RunFolder]


def model(tied: bool = False) -> tuple[dict[str, torch.Tensor], Any]:
    config = transformers.Qwen3Config(
        vocab_size=300,
        hidden_size=32,
        num_hidden_layers=2,
        num_attention_heads=2,
        num_key_value_heads=1,
        head_dim=16,
        intermediate_size=64,
        tie_word_embeddings=tied,
        dtype=torch.float32,
    )
    tensors = {
        name: tensor.detach().clone()
        for name, tensor in transformers.Qwen3ForCausalLM(config).state_dict().items()
        if not (tied and name == "lm_head.weight")
    }
    return tensors, config


@pytest.mark.parametrize("tied", [False, True])
@pytest.mark.parametrize("shard_size", ["4GB", "50KB"])
def test_written_weights_are_the_given_ones(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, tied: bool, shard_size: str
) -> None:
    monkeypatch.setattr(module, "SHARD_SIZE", shard_size)
    tensors, config = model(tied)
    write_model(tensors, config, tmp_path)
    compare(tmp_path, tensors, config)
    shards = list(tmp_path.glob("*.safetensors"))
    assert (len(shards) > 1) == (shard_size == "50KB")
    assert (tmp_path / "model.safetensors.index.json").exists() == (len(shards) > 1)


@pytest.mark.parametrize("damage", ["value", "dtype", "missing"])
def test_a_difference_is_found_and_named(tmp_path: Path, damage: str) -> None:
    tensors, config = model()
    write_model(tensors, config, tmp_path)
    name = "model.layers.1.mlp.up_proj.weight"
    stored = load_file(tmp_path / "model.safetensors")
    if damage == "value":
        stored[name][3, 3] += 1e-6
    elif damage == "dtype":
        stored[name] = stored[name].bfloat16()
    else:
        del stored[name]
    save_file(stored, tmp_path / "model.safetensors", {"format": "pt"})
    with pytest.raises(HarnessFault, match="1 tensors were not" if damage == "missing" else name):
        compare(tmp_path, tensors, config)


def test_a_tensor_that_the_model_does_not_have_is_refused(tmp_path: Path) -> None:
    tensors, config = model()
    tensors["model.extra.weight"] = torch.zeros(1)
    write_model(tensors, config, tmp_path)
    with pytest.raises(HarnessFault, match=r"model\.extra\.weight"):
        compare(tmp_path, tensors, config)


def test_a_tied_head_is_not_stored() -> None:
    assert "lm_head.weight" in expected_tensors(model(tied=False)[1])
    assert "lm_head.weight" not in expected_tensors(model(tied=True)[1])


def test_tokenizer_files_are_copied_byte_for_byte_and_nothing_else(
    tiny: Tiny, tmp_path: Path
) -> None:
    source, target = tiny[1].data / "tokenizer", tmp_path / "target"
    (source / "notes.txt").write_text("not the tokenizer's")
    target.mkdir()
    copy_tokenizer(source, target)
    names = {path.name for path in target.iterdir()}
    assert names == {"tokenizer.json", "tokenizer_config.json", "chat_template.jinja"}
    assert all((source / name).read_bytes() == (target / name).read_bytes() for name in names)


def test_without_a_checkpoint_export_says_what_to_run(tiny: Tiny) -> None:
    with pytest.raises(UserError, match="toolgenesis-sft train"):
        export(load_recipe(tiny[0]), tiny[1])
