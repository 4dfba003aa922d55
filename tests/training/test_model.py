"""The model before training, and its packed forward pass."""

import dataclasses
import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
import transformers
from safetensors.torch import load_file, save_file
from torch._dynamo.utils import counters

from toolgenesis_sft.config import Train, load_recipe
from toolgenesis_sft.errors import HarnessFault, UserError
from toolgenesis_sft.runs import RunFolder, sha256_file
from toolgenesis_sft.training.attention import BLOCK_SDPA, choose_attention
from toolgenesis_sft.training.loss import UNSUPERVISED
from toolgenesis_sft.training.model import (
    PackedCausalLM,
    check_first_loss,
    compile_layers,
    load_model,
    write_base_model,
)
from toolgenesis_sft.training.rows import Row, make_row
from toolgenesis_sft.training.tokens import load_tokens

CPU = torch.device("cpu")
Tiny = tuple[Path, RunFolder]


def base_model(tiny: Tiny, *overrides: str) -> PackedCausalLM:
    recipe = load_recipe(tiny[0], overrides)
    write_base_model(recipe, tiny[1], tiny[1].data / "tokenizer")
    return load_model(recipe, tiny[1], "cpu")


def test_packed_losses_equal_those_of_each_sample_alone(tiny: Tiny) -> None:
    model = base_model(tiny)
    tokens = load_tokens(load_recipe(tiny[0]), tiny[1])
    packed = model(**make_row(tokens, [4, 1, 6]).inputs(CPU))
    alone = torch.cat([model(**make_row(tokens, [one]).inputs(CPU)) for one in (4, 1, 6)])
    torch.testing.assert_close(packed, alone, rtol=0, atol=1e-5)


def test_packed_logits_equal_those_of_each_sample_alone(tiny: Tiny) -> None:
    model = base_model(tiny)
    tokens = load_tokens(load_recipe(tiny[0]), tiny[1])
    packed = logits(model, make_row(tokens, [4, 1, 6]))
    alone = torch.cat([logits(model, make_row(tokens, [one])) for one in (4, 1, 6)])
    torch.testing.assert_close(packed, alone, rtol=0, atol=1e-5)
    joined = make_row(tokens, [4, 1, 6])
    ends = torch.tensor([0, joined.num_tokens], dtype=torch.int32)
    leaking = dataclasses.replace(joined, boundaries=ends, longest=joined.num_tokens)
    assert (logits(model, leaking) - alone).abs().max() > 1e-3, "the boundaries are what isolates"


def logits(model: PackedCausalLM, row: Row) -> torch.Tensor:
    """[tokens, vocabulary], of every token of a row."""
    head, hidden = model.model.get_output_embeddings(), []
    handle = head.register_forward_pre_hook(lambda _, inputs: hidden.append(inputs[0]))
    with torch.no_grad():
        model(**row.inputs(CPU))
        handle.remove()
        every: torch.Tensor = head(hidden[0])
    return every


def test_losses_equal_those_of_transformers_own_attention_and_head(tiny: Tiny) -> None:
    model = base_model(tiny)
    tokens = load_tokens(load_recipe(tiny[0]), tiny[1])
    row = make_row(tokens, [4])
    plain = transformers.AutoModelForCausalLM.from_pretrained(
        tiny[1].base_model, attn_implementation="eager"
    )
    logits = plain(input_ids=row.input_ids).logits[0]
    supervised = row.labels[0] != UNSUPERVISED
    expected = torch.nn.functional.cross_entropy(
        logits[supervised], row.labels[0][supervised], reduction="none"
    )
    torch.testing.assert_close(model(**row.inputs(CPU)), expected, rtol=0, atol=1e-5)


@pytest.mark.parametrize("recomputation", ["selective", "full"])
def test_recomputed_activations_change_no_gradient(tiny: Tiny, recomputation: str) -> None:
    row = make_row(load_tokens(load_recipe(tiny[0]), tiny[1]), [0, 1])
    gradients = []
    for setting in ("none", recomputation):
        model = base_model(tiny, f"train.activation_checkpointing={setting}").train()
        model(**row.inputs(CPU)).sum().backward()
        gradients.append([parameter.grad for parameter in model.parameters()])
    for one, other in zip(*gradients, strict=True):
        torch.testing.assert_close(one, other)


def test_selective_recomputes_every_second_layer(tiny: Tiny) -> None:
    layers = base_model(tiny, "train.activation_checkpointing=selective").model.model.layers
    assert [layer.gradient_checkpointing for layer in layers] == [True, False]


@pytest.mark.slow
def test_compiled_layers_yield_the_same_losses(tiny: Tiny) -> None:
    row = make_row(load_tokens(load_recipe(tiny[0]), tiny[1]), [0, 1])
    plain = base_model(tiny)(**row.inputs(CPU))
    compiled = base_model(tiny, "train.compile=true")(**row.inputs(CPU))
    torch.testing.assert_close(plain, compiled, rtol=0, atol=1e-5)


@pytest.mark.slow
def test_all_layers_share_their_graphs_even_where_attention_reads_a_layers_number() -> None:
    def numbered(module: torch.nn.Module, *parts: torch.Tensor, **_: object) -> tuple[Any, None]:
        out = torch.nn.functional.scaled_dot_product_attention(*parts[:3], is_causal=True)
        return out.transpose(1, 2) + 0 * module.layer_idx, None

    transformers.AttentionInterface.register("numbered", numbered)
    num_graphs = {}
    for num_layers in (4, 10):  # 10 is more than torch compiles by default
        torch._dynamo.reset()
        counters["stats"].clear()
        config = transformers.Qwen3Config(
            vocab_size=300,
            hidden_size=32,
            num_hidden_layers=num_layers,
            num_attention_heads=2,
            num_key_value_heads=2,
            head_dim=16,
            intermediate_size=64,
        )
        model = transformers.AutoModelForCausalLM.from_config(
            config, attn_implementation="numbered"
        )
        compile_layers(model)
        model.get_decoder()(input_ids=torch.zeros((1, 5), dtype=torch.int64), use_cache=False)
        num_graphs[num_layers] = counters["stats"]["unique_graphs"]
    assert 0 < num_graphs[4] == num_graphs[10]


def test_the_random_model_is_a_function_of_the_seed(
    make_tiny: Callable[[str], Tiny],
) -> None:
    digests = []
    for name, seed in (("a", 0), ("b", 0), ("c", 1)):
        tiny = make_tiny(name)
        base_model(tiny, f"seed={seed}")
        digests.append(sha256_file(tiny[1].base_model / "model.safetensors"))
    assert digests[0] == digests[1] != digests[2]


def test_the_random_model_is_written_once(tiny: Tiny) -> None:
    base_model(tiny)
    weights = tiny[1].base_model / "model.safetensors"
    before = weights.stat().st_mtime_ns
    base_model(tiny)
    assert weights.stat().st_mtime_ns == before


def test_the_base_model_folder_serves_as_it_is(tiny: Tiny) -> None:
    base_model(tiny)
    folder = tiny[1].base_model
    tokenizer = transformers.AutoTokenizer.from_pretrained(folder)
    settings = transformers.GenerationConfig.from_pretrained(folder)
    end = tokenizer.convert_tokens_to_ids("<|im_end|>")
    assert settings.eos_token_id[0] == end
    assert tokenizer.chat_template


@pytest.mark.parametrize("fault", ["missing", "in excess"])
def test_a_tensor_missing_or_in_excess_is_refused(tiny: Tiny, fault: str) -> None:
    base_model(tiny)
    weights = tiny[1].base_model / "model.safetensors"
    tensors = load_file(weights)
    if fault == "missing":
        del tensors["model.layers.1.mlp.up_proj.weight"]
    else:
        tensors["model.layers.1.mlp.extra.weight"] = torch.zeros(2, 2)
    save_file(tensors, weights, {"format": "pt"})
    with pytest.raises(HarnessFault, match=f"tensors {fault}: 1 in .*, such as model.layers.1.mlp"):
        base_model(tiny)


@pytest.mark.parametrize("loss", [3.0, 13.0, -1.0, math.nan])
def test_a_random_models_first_loss_is_that_of_guessing(loss: float) -> None:
    check_first_loss(math.log(2000) + 0.2, 2000, pretrained=False)
    with pytest.raises(HarnessFault, match="first_loss"):
        check_first_loss(loss, 2000, pretrained=False)


def test_a_pretrained_model_that_guesses_has_lost_its_weights() -> None:
    check_first_loss(0.763, 151_936, pretrained=True)
    with pytest.raises(HarnessFault, match="not those of a trained model"):
        check_first_loss(11.9, 151_936, pretrained=True)


def test_liger_is_refused_on_a_cpu(tiny: Tiny) -> None:
    with pytest.raises(UserError, match=r"train\.liger"):
        base_model(tiny, "train.liger=true")


@pytest.mark.parametrize(
    ("device", "settings"),
    [
        ("cpu", {"attention": "flash_attention_2"}),
        ("cpu", {"attention": "varlen"}),
        ("cuda", {"attention": "sdpa", "packing": True}),
        ("cuda", {"attention": "varlen", "dtype": "fp32"}),
    ],
)
def test_a_backend_that_cannot_isolate_samples_here_is_refused(
    device: str, settings: dict[str, object]
) -> None:
    with pytest.raises(UserError, match=r"train\.attention"):
        choose_attention(Train.model_validate(settings), device)


def test_auto_takes_a_backend_that_runs_here() -> None:
    assert choose_attention(Train(), "cpu") == BLOCK_SDPA
