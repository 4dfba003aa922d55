"""The model that is trained: random weights written once, loading, and the packed forward pass."""

from __future__ import annotations

import contextlib
import math
import shutil
from pathlib import Path
from typing import Any

import torch
import transformers
from deepspeed.utils import set_z3_leaf_modules
from safetensors import safe_open
from tokenizers import Tokenizer
from torch import Tensor, nn
from transformers.utils import cached_file

from toolgenesis_sft.config import Recipe
from toolgenesis_sft.errors import HarnessFault, UserError
from toolgenesis_sft.runs import COMPLETE, RunFolder, write_text
from toolgenesis_sft.training.attention import choose_attention
from toolgenesis_sft.training.loss import make_supervised
from toolgenesis_sft.training.tokenizer import load_tokenizer, special_ids

RECOMPILE_LIMIT = 64
DTYPES = {"bf16": torch.bfloat16, "fp32": torch.float32}


class PackedCausalLM(nn.Module):
    """A causal language model whose forward pass takes a packed row and yields its losses."""

    def __init__(self, model: nn.Module, loss_chunk_tokens: int) -> None:
        super().__init__()
        self.model = model
        make_supervised(model.get_output_embeddings(), loss_chunk_tokens)

    def forward(
        self,
        input_ids: Tensor,
        position_ids: Tensor,
        labels: Tensor,
        boundaries: Tensor,
        longest: int,
    ) -> Tensor:
        """A Row's tensors -> the cross-entropy of each supervised token [num_supervised], fp32."""
        hidden = self.model.get_decoder()(
            input_ids=input_ids,
            position_ids=position_ids,
            use_cache=False,
            cu_seq_lens_q=boundaries,
            cu_seq_lens_k=boundaries,
            max_length_q=longest,
            max_length_k=longest,
        ).last_hidden_state
        losses: Tensor = self.model.get_output_embeddings()(hidden[0], labels[0])
        return losses


def load_model(recipe: Recipe, run: RunFolder, device: str) -> PackedCausalLM:
    """The model before training, with the recipe's attention, recomputation and kernels.

    Under ZeRO-3's configuration each rank holds its share only, from the first tensor on. Raises
    HarnessFault where a tensor is missing from the files or in excess.
    """
    source = model_source(recipe, run)
    model, report = transformers.AutoModelForCausalLM.from_pretrained(
        source,
        dtype=DTYPES[recipe.train.dtype],
        attn_implementation=choose_attention(recipe.train, device),
        output_loading_info=True,
        use_safetensors=True,
    )
    # Under ZeRO-3 transformers reports what is missing, and never what is in excess.
    excess = stored_names(source) - set(model.state_dict())
    faults = {"missing": report["missing_keys"], "in excess": excess | report["unexpected_keys"]}
    for fault, names in faults.items():
        if names:
            shown = ", ".join(sorted(str(name) for name in names)[:3])
            raise HarnessFault(f"tensors {fault}", f"{len(names)} in {source}, such as {shown}")
    set_recomputation(model, recipe.train.activation_checkpointing)
    if recipe.train.liger:
        use_liger(model, device)
    if recipe.train.compile:
        compile_layers(model)
    return PackedCausalLM(model, recipe.train.loss_chunk_tokens)


def stored_names(source: str) -> set[str]:
    """The names of all tensors in a model's safetensors files: a folder, or a hub name in cache."""
    names: set[str] = set()
    for file in Path(cached_file(source, "config.json")).parent.glob("*.safetensors"):
        with safe_open(file, "pt") as shard:
            names.update(shard.keys())
    return names


def model_source(recipe: Recipe, run: RunFolder) -> str:
    """Where the weights before training are: the run's own random model, a folder, a hub name."""
    return recipe.model.name_or_path or str(run.base_model)


def write_base_model(recipe: Recipe, run: RunFolder, tokenizer_folder: Path) -> None:
    """Write the random model of `model.random` as a Hugging Face folder, once.

    A pure function of the seed, the sizes and the tokenizer.
    """
    if recipe.model.random is None or (run.base_model / COMPLETE).exists():
        return
    partial = run.root / ".base_model.partial"
    shutil.rmtree(partial, ignore_errors=True)
    shutil.copytree(tokenizer_folder, partial)
    config = random_config(recipe, load_tokenizer(tokenizer_folder))
    with seeded(recipe.seed):
        model = transformers.Qwen3ForCausalLM(config)
    model.generation_config = generation_config(partial, tokenizer_folder)
    model.save_pretrained(partial)
    shutil.rmtree(run.base_model, ignore_errors=True)
    partial.rename(run.base_model)
    write_text(run.base_model / COMPLETE, "")


def random_config(recipe: Recipe, tokenizer: Tokenizer) -> transformers.Qwen3Config:
    sizes = recipe.model.random
    assert sizes is not None
    ends = special_ids(tokenizer)
    return transformers.Qwen3Config(
        vocab_size=tokenizer.get_vocab_size(),
        hidden_size=sizes.hidden_size,
        num_hidden_layers=sizes.num_layers,
        num_attention_heads=sizes.num_heads,
        num_key_value_heads=sizes.num_kv_heads,
        head_dim=sizes.head_dim,
        intermediate_size=sizes.intermediate_size,
        max_position_embeddings=recipe.model.max_position_embeddings,
        tie_word_embeddings=False,
        bos_token_id=None,
        eos_token_id=ends.turn_end,
        pad_token_id=ends.pad,
    )


def generation_config(source: str | Path, tokenizer_folder: Path) -> transformers.GenerationConfig:
    """The source model's generation settings, with ends that stop: the turn's, then the text's."""
    ends = special_ids(load_tokenizer(tokenizer_folder))
    try:
        settings = transformers.GenerationConfig.from_pretrained(source)
    except OSError:  # a folder without generation_config.json
        settings = transformers.GenerationConfig()
    settings.eos_token_id = list(ends.stop)
    settings.pad_token_id = ends.pad
    return settings


def set_recomputation(model: Any, which: str) -> None:
    """`full` recomputes every decoder layer in the backward pass, `selective` every second one."""
    if which == "none":
        return
    model.gradient_checkpointing_enable(gradient_checkpointing_kwargs={"use_reentrant": False})
    if which == "selective":
        for layer in model.get_decoder().layers[1::2]:
            layer.gradient_checkpointing = False


def compile_layers(model: Any) -> None:
    """torch.compile each decoder layer, in graphs that all layers share.

    ZeRO-3 gathers a compiled layer's weights as a whole: its hooks on the parts inside would
    break the graph at each of them. Layers differ in their number, which FlashAttention reads, and
    in recomputation, rows in their length: more kinds than torch's limit would run uncompiled in
    silence, so the number is an input of the graph, and the limit is high and an error.
    """
    dynamo = torch._dynamo.config
    dynamo.allow_unspec_int_on_nn_module = True
    dynamo.recompile_limit = RECOMPILE_LIMIT
    dynamo.fail_on_recompile_limit_hit = True
    layers = model.get_decoder().layers
    set_z3_leaf_modules(model, [type(layers[0])])
    for layer in layers:
        layer.forward = torch.compile(layer.forward)


def use_liger(model: Any, device: str) -> None:
    """Liger's RMSNorm, RoPE and SwiGLU in place of the model's own; the loss stays ours."""
    if device == "cpu":
        raise UserError(
            "train.liger", True, "Liger's kernels need a GPU", "set train.liger=false on a CPU"
        )
    try:
        from liger_kernel.transformers.monkey_patch import (
            MODEL_TYPE_TO_APPLY_LIGER_FN,
            _apply_liger_kernel_to_instance,
        )
    except ImportError as error:
        raise UserError(
            "train.liger", True, "liger-kernel is not installed", "install the `gpu` extra"
        ) from error
    kind = model.config.model_type
    if kind not in MODEL_TYPE_TO_APPLY_LIGER_FN:  # Liger itself would pass it by in silence
        raise UserError(
            "train.liger", True, f"Liger has no kernels for `{kind}`", "set train.liger=false"
        )
    _apply_liger_kernel_to_instance(
        model=model, fused_linear_cross_entropy=False, cross_entropy=False
    )


def check_first_loss(loss: float, vocab_size: int, pretrained: bool) -> None:
    """The first loss tells lost weights from loaded ones: random ones guess, at ln(vocabulary).

    Raises HarnessFault outside of the band: pretrained below ln(V) - 1, random within 1 of ln(V).
    """
    guess = math.log(vocab_size)
    sane = 0 <= loss < guess - 1 if pretrained else abs(loss - guess) < 1
    if not sane:
        raise HarnessFault(
            "first_loss",
            f"{loss:.3f}, where guessing yields {guess:.3f}: the weights are not those of "
            + ("a trained model" if pretrained else "a fresh random model"),
        )


@contextlib.contextmanager
def seeded(seed: int) -> Any:
    """torch's CPU generator at this seed for a block; as it was before, afterwards."""
    before = torch.get_rng_state()
    torch.manual_seed(seed)
    try:
        yield
    finally:
        torch.set_rng_state(before)
