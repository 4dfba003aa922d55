"""Sizes of models that are not loaded."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from toolgenesis_sft.config import Model, RandomModel, Recipe
from toolgenesis_sft.errors import UserError
from toolgenesis_sft.training.metrics import ModelFlops
from toolgenesis_sft.training.shape import QWEN3_SHAPES, model_shape


@pytest.mark.parametrize(
    ("name", "parameters"),
    [  # the parameter counts of the published weights
        ("Qwen3-0.6B", 596_049_920),
        ("Qwen3-1.7B", 1_720_574_976),
        ("Qwen3-4B", 4_022_468_096),
        ("Qwen3-8B", 8_190_735_360),
        ("Qwen3-14B", 14_768_307_200),
        ("Qwen3-32B", 32_762_123_264),
    ],
)
def test_the_familys_parameter_counts_are_the_published_ones(name: str, parameters: int) -> None:
    assert QWEN3_SHAPES[name].num_parameters == parameters


def test_7_568_billion_parameters_of_qwen3_8b_take_part_in_matrix_products() -> None:
    flops = ModelFlops.of(QWEN3_SHAPES["Qwen3-8B"])
    assert flops.body_parameters + flops.head_parameters == pytest.approx(7.568e9, rel=1e-4)


def test_a_hub_name_is_found_in_the_table() -> None:
    recipe = Recipe(name="r", model=Model(name_or_path="Qwen/Qwen3-8B"))
    assert model_shape(recipe) == QWEN3_SHAPES["Qwen3-8B"]


def test_a_folders_config_goes_before_the_table(tmp_path: Path) -> None:
    config = {
        "vocab_size": 10,
        "hidden_size": 32,
        "num_hidden_layers": 2,
        "num_attention_heads": 4,
        "num_key_value_heads": 2,
        "head_dim": 8,
        "intermediate_size": 64,
        "model_type": "qwen3",
    }
    folder = tmp_path / "Qwen3-8B"
    folder.mkdir()
    (folder / "config.json").write_text(json.dumps(config))
    recipe = Recipe(name="r", model=Model(name_or_path=str(folder)))
    assert model_shape(recipe).num_hidden_layers == 2
    del config["head_dim"]
    (folder / "config.json").write_text(json.dumps(config))
    with pytest.raises(UserError, match="has no head_dim"):
        model_shape(recipe)


def test_a_random_models_size_is_in_the_recipe() -> None:
    recipe = Recipe(name="r", model=Model(random=RandomModel(num_layers=3)))
    assert model_shape(recipe).num_hidden_layers == 3


def test_a_model_of_unknown_size_is_refused_with_the_next_step() -> None:
    recipe = Recipe(name="r", model=Model(name_or_path="nobody/no-such-model"))
    with pytest.raises(UserError, match="hf download nobody/no-such-model"):
        model_shape(recipe)
