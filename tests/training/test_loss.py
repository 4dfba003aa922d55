"""The chunked loss is the plain one."""

import pytest
import torch
from torch import nn
from torch.nn import functional as F

from toolgenesis_sft.training.loss import UNSUPERVISED, SupervisedHead, make_supervised

NUM_TOKENS, WIDTH, VOCABULARY = 37, 16, 53


class Model(nn.Module):
    def __init__(self, tied: bool) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.embedding = nn.Embedding(VOCABULARY, WIDTH)
        self.body = nn.Linear(WIDTH, WIDTH)
        self.head = nn.Linear(WIDTH, VOCABULARY, bias=False)
        if tied:
            self.head.weight = self.embedding.weight

    def hidden(self, tokens: torch.Tensor) -> torch.Tensor:
        return self.body(self.embedding(tokens)).tanh()


def batch() -> tuple[torch.Tensor, torch.Tensor]:
    generator = torch.Generator().manual_seed(1)
    tokens = torch.randint(VOCABULARY, (NUM_TOKENS,), generator=generator)
    labels = torch.randint(VOCABULARY, (NUM_TOKENS,), generator=generator)
    labels[::3] = UNSUPERVISED
    return tokens, labels


@pytest.mark.parametrize("chunk_tokens", [0, 1, 5, 1000])
@pytest.mark.parametrize("tied", [False, True])
def test_chunked_loss_and_gradients_equal_the_plain_ones(chunk_tokens: int, tied: bool) -> None:
    tokens, labels = batch()
    plain, chunked = Model(tied), Model(tied)
    expected = F.cross_entropy(plain.head(plain.hidden(tokens)), labels, ignore_index=UNSUPERVISED)
    expected.backward()
    make_supervised(chunked.head, chunk_tokens)
    losses = chunked.head(chunked.hidden(tokens), labels)
    losses.mean().backward()
    assert losses.shape == ((labels != UNSUPERVISED).sum(),)
    torch.testing.assert_close(losses.mean(), expected, rtol=0, atol=1e-6)
    for one, other in zip(plain.parameters(), chunked.parameters(), strict=True):
        torch.testing.assert_close(other.grad, one.grad, rtol=0, atol=1e-6)


@pytest.mark.parametrize("chunk_tokens", [0, 4])
def test_a_row_without_labels_costs_nothing_and_still_reaches_the_weight(chunk_tokens: int) -> None:
    model = Model(tied=False)
    make_supervised(model.head, chunk_tokens)
    labels = torch.full((3,), UNSUPERVISED)
    loss = model.head(model.hidden(torch.tensor([1, 2, 3])), labels).sum()
    loss.backward()
    assert loss.item() == 0
    assert model.head.weight.grad is not None
    assert not model.head.weight.grad.any()


def test_losses_are_fp32_and_at_most_a_chunk_of_logits_exists(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    sizes = []
    inner = SupervisedHead._losses

    def spy(self: SupervisedHead, hidden: torch.Tensor, labels: torch.Tensor) -> torch.Tensor:
        sizes.append(len(hidden))
        return inner(self, hidden, labels)

    monkeypatch.setattr(SupervisedHead, "_losses", spy)
    tokens, labels = batch()
    model = Model(tied=False).bfloat16()
    make_supervised(model.head, 8)
    losses = model.head(model.hidden(tokens), labels)
    assert losses.dtype == torch.float32
    assert max(sizes) == 8
    assert sum(sizes) == (labels != UNSUPERVISED).sum()


def test_without_labels_the_head_yields_logits() -> None:
    model = Model(tied=False)
    hidden = model.hidden(torch.tensor([1, 2]))
    expected = model.head(hidden)
    make_supervised(model.head, 8)
    torch.testing.assert_close(model.head(hidden), expected)
