"""Packed rows: several samples side by side, isolated by position ids and boundaries."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import accumulate

import numpy as np
import torch
from torch import Tensor

from toolgenesis_sft.training.loss import UNSUPERVISED
from toolgenesis_sft.training.tokens import TokenSet


@dataclass(frozen=True)
class Row:
    """One micro-batch of one rank.

    input_ids, position_ids, labels: [1, tokens]; labels hold the next token where it is
    supervised. boundaries: [num_samples + 1], int32, where each sample starts and the last ends.
    """

    sample_ids: tuple[str, ...]
    input_ids: Tensor
    position_ids: Tensor
    labels: Tensor
    boundaries: Tensor
    longest: int

    @property
    def num_tokens(self) -> int:
        return int(self.input_ids.shape[1])

    def inputs(self, device: torch.device) -> dict[str, Tensor | int]:
        """The keyword arguments of PackedCausalLM's forward, on a device."""
        return {
            "input_ids": self.input_ids.to(device, non_blocking=True),
            "position_ids": self.position_ids.to(device, non_blocking=True),
            "labels": self.labels.to(device, non_blocking=True),
            "boundaries": self.boundaries.to(device, non_blocking=True),
            "longest": self.longest,
        }

    def sample_of_losses(self) -> list[str]:
        """The sample id of each of the row's losses, in the order the head yields them."""
        supervised = self.labels[0] != UNSUPERVISED
        ends = self.boundaries.tolist()
        return [
            name
            for name, start, end in zip(self.sample_ids, ends, ends[1:], strict=False)
            for _ in range(int(supervised[start:end].sum()))
        ]


def make_row(tokens: TokenSet, samples: Sequence[int]) -> Row:
    """Lay samples (indices into the token set) side by side.

    A row without samples is one token without a label: ranks with less to do run it, because
    ZeRO-3 needs every rank in every forward and backward pass.
    """
    if not samples:
        nothing = torch.zeros((1, 1), dtype=torch.int64)
        return Row((), nothing, nothing, nothing + UNSUPERVISED, torch.tensor([0, 1]).int(), 1)
    parts = [tokens[sample] for sample in samples]
    lengths = [len(part.ids) for part in parts]
    targets = [np.where(part.mask, part.ids, UNSUPERVISED) for part in parts]
    # The label of a token is its successor in the same sample; the last one has none.
    labels = np.concatenate([np.append(target[1:], UNSUPERVISED) for target in targets])
    input_ids = np.concatenate([part.ids for part in parts])
    return Row(
        sample_ids=tuple(part.id for part in parts),
        input_ids=torch.from_numpy(input_ids.astype(np.int64))[None],
        position_ids=torch.cat([torch.arange(length) for length in lengths])[None],
        labels=torch.from_numpy(labels.astype(np.int64))[None],
        boundaries=torch.tensor([0, *accumulate(lengths)], dtype=torch.int32),
        longest=max(lengths),
    )
