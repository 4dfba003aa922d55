"""Newest complete checkpoint -> a Hugging Face folder that has been opened again and compared.

export/  model-*.safetensors  config.json  generation_config.json  tokenizer files
         README.md (the card)  COMPLETE (step, dtype, a digest of every file but the card)

It is made beside its final name and moved there whole, so it is complete or not there at all.
"""

from __future__ import annotations

import contextlib
import os
import re
import shutil
import sys
from pathlib import Path
from typing import Any

import torch
import transformers
from huggingface_hub import split_torch_state_dict_into_shards
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor

from toolgenesis_sft.config import Recipe
from toolgenesis_sft.errors import HarnessFault, UserError
from toolgenesis_sft.runs import (
    COMPLETE,
    RunFolder,
    add_provenance,
    disk_error,
    write_json,
    write_text,
)
from toolgenesis_sft.training.card import CARD_FILE, ExportMarker, model_card, read_marker
from toolgenesis_sft.training.checkpoint import (
    Checkpoint,
    complete_checkpoints,
    digests,
    files_in,
    newest_whole,
    require_checkpoint,
)
from toolgenesis_sft.training.model import DTYPES, generation_config, model_source
from toolgenesis_sft.training.tokenizer import TOKENIZER_FILES, resolve_tokenizer

SHARD_SIZE = "4GB"
WRAPPER = "model."  # PackedCausalLM holds the causal language model under this name


def export(recipe: Recipe, run: RunFolder) -> Path:
    """Write run.export; yields it. Does nothing where it holds the newest checkpoint already.

    Raises UserError where there is no checkpoint, HarnessFault where what was written is not
    what the checkpoint holds.
    """
    with run.locked("export"):
        require_checkpoint(run)
        candidates = complete_checkpoints(run)
        marker = read_marker(run)
        if marker is not None and [marker.step] == [one.step for one in candidates[:1]]:
            print(f"export: {run.export} holds step {marker.step} already", file=sys.stderr)
            return run.export
        checkpoint = newest_whole(candidates)
        if checkpoint is None:
            raise UserError(
                "checkpoint",
                str(run.checkpoints),
                "holds no checkpoint that is as it was written",
                "run `toolgenesis-sft train` again",
            )
        write_export(recipe, run, checkpoint)
    return run.export


def write_export(recipe: Recipe, run: RunFolder, checkpoint: Checkpoint) -> None:
    dtype = DTYPES[recipe.train.dtype]
    source = model_source(recipe, run)
    tokenizer_folder = resolve_tokenizer(recipe, run)
    config = transformers.AutoConfig.from_pretrained(source)
    config.dtype = dtype
    tensors = read_weights(checkpoint, dtype)
    if config.tie_word_embeddings:
        del tensors["lm_head.weight"]
    partial, former = run.root / ".export.partial", run.root / ".export.former"
    for leftover in (partial, former):
        shutil.rmtree(leftover, ignore_errors=True)
    try:
        partial.mkdir()
        write_model(tensors, config, partial)
        copy_tokenizer(tokenizer_folder, partial)
        generation_config(source, tokenizer_folder).save_pretrained(partial)
    except OSError as error:
        shutil.rmtree(partial, ignore_errors=True)
        raise disk_error(error, run.export) from error
    compare(partial, tensors, config)
    files = digests(partial, files_in(partial))
    marker = ExportMarker(step=checkpoint.step, dtype=recipe.train.dtype, files=files)
    write_text(partial / CARD_FILE, model_card(recipe, run, marker))
    write_text(partial / COMPLETE, marker.to_line())
    add_provenance(run, "export", marker.model_dump())
    if run.export.exists():
        run.export.rename(former)
    partial.rename(run.export)
    shutil.rmtree(former, ignore_errors=True)
    print(f"export: {run.export}, step {checkpoint.step}, {len(tensors)} tensors", file=sys.stderr)


def read_weights(checkpoint: Checkpoint, dtype: torch.dtype) -> dict[str, Tensor]:
    """All weights of a checkpoint under their Hugging Face names, in this precision.

    DeepSpeed keeps fp32 masters; casting one to bf16 is how the trained bf16 weight was made.
    """
    from deepspeed.utils.zero_to_fp32 import get_fp32_state_dict_from_zero_checkpoint

    with contextlib.redirect_stdout(sys.stderr):
        masters: dict[str, Any] = get_fp32_state_dict_from_zero_checkpoint(
            str(checkpoint.folder.parent), tag=checkpoint.folder.name, lazy_mode=True
        )
    return {
        name.removeprefix(WRAPPER): master.contiguous().to(dtype)
        for name, master in masters.items()
    }


def write_model(tensors: dict[str, Tensor], config: Any, folder: Path) -> None:
    """config.json and safetensors in shards, with an index where there is more than one."""
    config.save_pretrained(folder)
    split = split_torch_state_dict_into_shards(tensors, max_shard_size=SHARD_SIZE)
    for file, names in split.filename_to_tensors.items():
        write_shard({name: tensors[name] for name in names}, folder / file)
        shutil.copymode(folder / "config.json", folder / file)  # safetensors: the owner's alone
    if split.is_sharded:
        index = {"metadata": split.metadata, "weight_map": split.tensor_to_filename}
        write_json(folder / "model.safetensors.index.json", index)


def write_shard(tensors: dict[str, Tensor], path: Path) -> None:
    """save_file; where the disk takes no more it has an error of its own, here it is the usual."""
    try:
        save_file(tensors, path, {"format": "pt"})
    except SafetensorError as error:
        number = re.search(r"os error (\d+)", str(error))
        if number is None:
            raise
        raise OSError(int(number[1]), os.strerror(int(number[1]))) from error


def copy_tokenizer(source: Path, folder: Path) -> None:
    """Every tokenizer file byte for byte, the chat template among them."""
    for path in source.iterdir():
        if path.name in TOKENIZER_FILES or path.name == "chat_template.jinja":
            shutil.copyfile(path, folder / path.name)


def expected_tensors(config: Any) -> dict[str, torch.Size]:
    """Names and shapes of what a folder with this configuration must hold; a tied head is not
    stored."""
    with torch.device("meta"):
        model = transformers.AutoModelForCausalLM.from_config(config)
    shapes = {name: tensor.shape for name, tensor in model.state_dict().items()}
    if config.tie_word_embeddings:
        del shapes["lm_head.weight"]
    return shapes


def compare(folder: Path, tensors: dict[str, Tensor], config: Any) -> None:
    """Open the folder again: every tensor's name, shape, dtype and bits, then the whole model.

    Raises HarnessFault that names the first difference.
    """
    expected = expected_tensors(config)
    if set(tensors) != set(expected):
        names = sorted(set(tensors) ^ set(expected))
        raise HarnessFault("export", f"tensors in excess or missing: {', '.join(names[:3])}")
    found = set()
    for file in sorted(folder.glob("*.safetensors")):
        with safe_open(file, "pt") as shard:
            for name in shard.keys():  # noqa: SIM118 - safe_open is no mapping
                stored = shard.get_tensor(name)
                same = stored.dtype == tensors[name].dtype and torch.equal(stored, tensors[name])
                if stored.shape != expected[name] or not same:
                    raise HarnessFault("export", f"{name} is not what the checkpoint holds")
                found.add(name)
    if found != set(tensors):
        raise HarnessFault("export", f"{len(set(tensors) - found)} tensors were not written")
    _, report = transformers.AutoModelForCausalLM.from_pretrained(folder, output_loading_info=True)
    if report["missing_keys"] or report["unexpected_keys"]:
        raise HarnessFault("export", f"does not load: {report}")
