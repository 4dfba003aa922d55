"""Newest complete checkpoint -> a Hugging Face folder that has been opened again and compared.

    export/  model-*.safetensors  config.json  generation_config.json  tokenizer files  README.md
             COMPLETE (written last: step, dtype, a digest of every file)
"""

from __future__ import annotations

import json
import shutil
import sys
from pathlib import Path
from typing import Any

import torch
import transformers
from safetensors import safe_open
from torch import Tensor

from toolgenesis_sft.config import Recipe
from toolgenesis_sft.errors import HarnessFault, UserError
from toolgenesis_sft.runs import (
    COMPLETE,
    RunFolder,
    add_provenance,
    disk_error,
    read_json,
    write_json,
    write_text,
)
from toolgenesis_sft.training.checkpoint import (
    Checkpoint,
    complete_checkpoints,
    digests,
    files_in,
    newest_whole,
)
from toolgenesis_sft.training.card import model_card
from toolgenesis_sft.training.model import DTYPES, generation_config, model_source
from toolgenesis_sft.training.tokenizer import resolve_tokenizer

SHARD_SIZE = "4GB"
WRAPPER = "model."  # PackedCausalLM holds the causal language model under this name


def export(recipe: Recipe, run: RunFolder) -> Path:
    """Write run.export; yields it. Does nothing where it holds the newest checkpoint already.

    Raises UserError where there is no checkpoint, HarnessFault where what was written is not
    what the checkpoint holds.
    """
    checkpoint = newest_whole(complete_checkpoints(run))
    if checkpoint is None:
        raise UserError(
            "checkpoint", str(run.checkpoints), "holds no complete checkpoint", "train first"
        )
    if exported_step(run) == checkpoint.step:
        print(f"export: {run.export} holds step {checkpoint.step} already", file=sys.stderr)
        return run.export
    with run.locked("export"):
        partial = run.root / ".export.partial"
        shutil.rmtree(partial, ignore_errors=True)
        try:
            tensors = read_weights(checkpoint, recipe)
            write_model(tensors, recipe, run, partial)
            copy_tokenizer(resolve_tokenizer(recipe, run), partial)
            write_text(partial / "README.md", model_card(recipe, run, checkpoint))
        except OSError as error:
            shutil.rmtree(partial, ignore_errors=True)
            raise disk_error(error, run.export) from error
        compare(partial, tensors)
        shutil.rmtree(run.export, ignore_errors=True)
        partial.rename(run.export)
        files = digests(run.export, files_in(run.export))
        facts = {"step": checkpoint.step, "dtype": recipe.train.dtype, "files": files}
        write_json(run.export / COMPLETE, facts)
        add_provenance(run, "export", facts)
    print(f"export: {run.export}, step {checkpoint.step}, {len(tensors)} tensors", file=sys.stderr)
    return run.export


def exported_step(run: RunFolder) -> int | None:
    """The step that run.export holds; None where it is not complete."""
    marker = run.export / COMPLETE
    return int(read_json(marker)["step"]) if marker.exists() else None


def read_weights(checkpoint: Checkpoint, recipe: Recipe) -> dict[str, Tensor]:
    """All weights of a checkpoint under their Hugging Face names, in the recipe's precision.

    DeepSpeed keeps fp32 masters; casting one to bf16 is how the trained bf16 weight was made.
    """
    from deepspeed.utils.zero_to_fp32 import get_fp32_state_dict_from_zero_checkpoint

    masters: dict[str, Any] = get_fp32_state_dict_from_zero_checkpoint(
        str(checkpoint.folder.parent), tag=checkpoint.folder.name, lazy_mode=True
    )
    dtype = DTYPES[recipe.train.dtype]
    return {
        name.removeprefix(WRAPPER): master.contiguous().to(dtype)
        for name, master in masters.items()
    }


def write_model(
    tensors: dict[str, Tensor], recipe: Recipe, run: RunFolder, folder: Path
) -> None:
    """config.json, generation_config.json and sharded safetensors."""
    config = transformers.AutoConfig.from_pretrained(model_source(recipe, run))
    config.dtype = DTYPES[recipe.train.dtype]
    with torch.device("meta"):
        model = transformers.AutoModelForCausalLM.from_config(config)
    model.generation_config = export_generation_config(recipe, run)
    model.save_pretrained(folder, state_dict=tensors, max_shard_size=SHARD_SIZE)
