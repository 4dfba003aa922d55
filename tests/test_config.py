from __future__ import annotations

from pathlib import Path

import pytest

from toolgenesis_sft.config import Recipe, load_recipe
from toolgenesis_sft.errors import UserError
from toolgenesis_sft.sections import Section

GOOD = "name: x\nmodel:\n  random: {}\n"


def load(tmp_path: Path, text: str, *overrides: str) -> Recipe:
    path = tmp_path / "recipe.yaml"
    path.write_text(text, encoding="utf-8")
    return load_recipe(path, overrides)


def test_a_sparse_recipe_takes_the_defaults(tmp_path: Path) -> None:
    recipe = load(tmp_path, GOOD)
    assert (recipe.train.epochs, recipe.train.global_batch_size) == (3, 64)


def test_an_override_has_the_last_word(tmp_path: Path) -> None:
    recipe = load(tmp_path, GOOD, "train.epochs=5", "generate.strategies=[direct, coder_agent]")
    assert recipe.train.epochs == 5
    assert recipe.generate.strategies == ("direct", "coder_agent")


@pytest.mark.parametrize(
    ("text", "says"),
    [
        (GOOD + "trian: {}\n", "trian.*not a known key.*did you mean train"),
        (GOOD + "train:\n  epoch: 3\n", "train.epoch.*did you mean train.epochs"),
        (GOOD + "train:\n  epochs: three\n", "train.epochs = three"),
        (GOOD + "train:\n  epochs: 1\n  epochs: 2\n", "line 6.*epochs.*given twice"),
        (GOOD + "name: y\n", "given twice"),
        ("model:\n  random: {}\n", "^name = nothing: is required"),
        (GOOD + "benchmark: 3\n", "^benchmark = 3: must be text; put it in quotes"),
        (GOOD + "data:\n  sources: a\n", "^data.sources = a: must be a list"),
        (GOOD + "train: 3\n", "^train = 3: must be a section"),
        ("name: ../x\nmodel:\n  random: {}\n", "name = ../x"),
        ("- a list\n", "must be a YAML mapping"),
        ("name: [\n", "is not YAML"),
    ],
)
def test_a_broken_recipe_is_one_clear_line(tmp_path: Path, text: str, says: str) -> None:
    with pytest.raises(UserError, match=says):
        load(tmp_path, text)


@pytest.mark.parametrize(
    ("override", "fields", "values"),
    [
        ("model.name_or_path=x", "model.name_or_path, model.random", "x, a section"),
        ("data.max_tokens=99999", "data.max_tokens, train.max_row_tokens", "99999, 16384"),
        (
            "train.max_row_tokens=50000",
            "train.max_row_tokens, model.max_position_embeddings",
            "50000, 40960",
        ),
        (
            "train.batch_unit=tokens",
            "train.global_batch_size, train.max_row_tokens",
            "64, 16384",
        ),
        ("data.kinds={server: 0.4}", "data.kinds", "{'server': 0.4}"),
        ("data.weights={a: 1}", "data.weights, data.sources", "{'a': 1.0}, ('benchmark',)"),
        (
            "data.scenarios=teacher",
            "data.teacher, data.sources, data.scenarios",
            "nothing, ('benchmark',), teacher",
        ),
        ("generate.engine=endpoint", "generate.endpoint_url", "nothing"),
        ("score.shard=3/2", "score.shard", "3/2"),
        ("score.judge_url=u", "score.judge_url, score.judge_model", "u, nothing"),
        ("score.utility=agent", "score.judge_url, score.oracle", "nothing, nothing"),
    ],
)
def test_a_rule_over_several_fields_names_each_of_them_and_what_it_has(
    tmp_path: Path, override: str, fields: str, values: str
) -> None:
    with pytest.raises(UserError) as caught:
        load(tmp_path, GOOD, override)
    assert str(caught.value).startswith(f"{fields} = {values}: ")


@pytest.mark.parametrize("override", ["train.epochs", "name.deep=1", "train.epochs=[", "train.x=1"])
def test_a_broken_override_is_refused(tmp_path: Path, override: str) -> None:
    with pytest.raises(UserError):
        load(tmp_path, GOOD, override)


def test_a_missing_recipe_says_where_recipes_lie(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="recipes/"):
        load_recipe(tmp_path / "no.yaml")


def test_a_recipe_with_a_base_states_only_what_differs(tmp_path: Path) -> None:
    (tmp_path / "base.yaml").write_text(GOOD + "train: {epochs: 5, packing: false}\n")
    recipe = load(tmp_path, "base: base.yaml\nname: y\ntrain: {epochs: 7}\n", "seed=3")
    assert (recipe.name, recipe.train.epochs, recipe.train.packing, recipe.seed) == (
        "y",
        7,
        False,
        3,
    )


@pytest.mark.parametrize("base", ["missing.yaml", "recipe.yaml"])
def test_a_base_that_is_no_whole_recipe_is_refused(tmp_path: Path, base: str) -> None:
    with pytest.raises(UserError):
        load(tmp_path, f"base: {base}\nname: y\n")


def sections(section: type[Section]) -> list[type[Section]]:
    inner = [
        candidate
        for info in section.model_fields.values()
        for candidate in (info.annotation,)
        if isinstance(candidate, type) and issubclass(candidate, Section)
    ]
    return [section, *(deep for child in inner for deep in sections(child))]


def test_every_field_has_its_sentence() -> None:
    for section in sections(Recipe):
        for name, info in section.model_fields.items():
            is_section = isinstance(info.annotation, type) and issubclass(info.annotation, Section)
            described = info.description or is_section or name in ("model", "random")
            assert described, f"{section.__name__}.{name}"
