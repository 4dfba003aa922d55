"""Cross-entropy on the supervised tokens, a chunk of logits at a time."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.utils.checkpoint import checkpoint

UNSUPERVISED = -100  # the label of a token that carries no loss


class SupervisedHead(nn.Linear):
    """An output head that yields losses instead of logits.

    It is a layer, not a function beside the model, because ZeRO-3 gathers a weight only while the
    layer that owns it runs, forward and backward.
    """

    chunk_tokens: int = 0

    def forward(self, hidden: Tensor, labels: Tensor | None = None) -> Tensor:
        """hidden [tokens, width], labels [tokens] -> losses [num_supervised], fp32.

        Without labels: logits, as any head. Prompt tokens never meet the head. At most
        `chunk_tokens` rows of logits exist at once (0: all); each chunk is computed again in the
        backward pass.
        """
        if labels is None:
            return super().forward(hidden)
        supervised = labels != UNSUPERVISED
        hidden, labels = hidden[supervised], labels[supervised]
        if not self.chunk_tokens:
            return self._losses(hidden, labels)
        # split() of no tokens is one empty chunk: a row without labels still reaches the weight,
        # so that every rank runs the same collectives in the backward pass.
        chunks = zip(hidden.split(self.chunk_tokens), labels.split(self.chunk_tokens), strict=True)
        return torch.cat(
            [checkpoint(self._losses, *chunk, use_reentrant=False) for chunk in chunks]
        )

    def _losses(self, hidden: Tensor, labels: Tensor) -> Tensor:
        logits = F.linear(hidden, self.weight, self.bias)
        return F.cross_entropy(logits.float(), labels, reduction="none")


def make_supervised(head: nn.Linear, chunk_tokens: int) -> None:
    """Turn a model's own head into a SupervisedHead; its weight, tied or not, stays as it is."""
    assert type(head) is nn.Linear, type(head)
    head.__class__ = SupervisedHead
    head.chunk_tokens = chunk_tokens
