"""Rows hold whole samples with labels that stay inside each."""

from pathlib import Path

import torch

from toolgenesis_sft.config import load_recipe
from toolgenesis_sft.runs import RunFolder
from toolgenesis_sft.training.loss import UNSUPERVISED
from toolgenesis_sft.training.rows import make_row
from toolgenesis_sft.training.tokens import load_tokens


def test_each_supervised_token_is_the_label_of_its_predecessor(
    tiny: tuple[Path, RunFolder],
) -> None:
    tokens = load_tokens(load_recipe(tiny[0]), tiny[1])
    row = make_row(tokens, [3, 0])
    first, second = tokens[3], tokens[0]
    assert row.boundaries.tolist() == [0, len(first.ids), len(first.ids) + len(second.ids)]
    assert row.longest == max(len(first.ids), len(second.ids))
    for part, start in ((first, 0), (second, len(first.ids))):
        labels = row.labels[0, start : start + len(part.ids)]
        assert labels[-1] == UNSUPERVISED, "a sample's last token must not predict the next sample"
        supervised = labels != UNSUPERVISED
        assert supervised[:-1].tolist() == part.mask[1:].tolist()
        assert labels[:-1][supervised[:-1]].tolist() == part.ids[part.mask].tolist()
        positions = row.position_ids[0, start : start + len(part.ids)]
        assert positions.tolist() == list(range(len(part.ids)))


def test_each_loss_knows_its_sample(tiny: tuple[Path, RunFolder]) -> None:
    tokens = load_tokens(load_recipe(tiny[0]), tiny[1])
    names = make_row(tokens, [2, 5]).sample_of_losses()
    assert names == ["sample-2"] * int(tokens.num_supervised[2]) + ["sample-5"] * int(
        tokens.num_supervised[5]
    )


def test_a_row_without_samples_has_no_label(tiny: tuple[Path, RunFolder]) -> None:
    row = make_row(load_tokens(load_recipe(tiny[0]), tiny[1]), [])
    assert row.num_tokens == 1
    assert torch.all(row.labels == UNSUPERVISED)
    assert row.sample_of_losses() == []
