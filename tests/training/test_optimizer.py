"""The optimizers, against torch's own AdamW."""

import pytest
import torch

from toolgenesis_sft.config import Train
from toolgenesis_sft.errors import UserError
from toolgenesis_sft.training import optimizer as module
from toolgenesis_sft.training.optimizer import AdamWBf16, make_optimizer

SETTINGS = {"lr": 0.01, "betas": (0.9, 0.95), "eps": 1e-8, "weight_decay": 0.1}


def trained(optimizer_class: type, num_steps: int, **settings: object) -> torch.Tensor:
    torch.manual_seed(0)
    weight = torch.nn.Parameter(torch.randn(1000))
    target = torch.randn(1000)
    optimizer = optimizer_class([weight], **{**SETTINGS, **settings})
    for _ in range(num_steps):
        optimizer.zero_grad()
        (weight - target).square().sum().backward()
        optimizer.step()
    return weight.detach()


def test_bf16_states_follow_adamw_within_their_precision() -> None:
    torch.testing.assert_close(trained(AdamWBf16, 1), trained(torch.optim.AdamW, 1))
    many = trained(AdamWBf16, 60) - trained(torch.optim.AdamW, 60)
    assert many.abs().max() < 0.02  # 60 steps of 0.01 move a weight by up to 0.6


def test_states_are_bf16_and_chunks_change_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    whole = trained(AdamWBf16, 5)
    monkeypatch.setattr(module, "CHUNK_ELEMENTS", 64)
    assert torch.equal(trained(AdamWBf16, 5), whole)
    weight = torch.nn.Parameter(torch.randn(8))
    weight.grad = torch.ones(8)
    optimizer = AdamWBf16([weight], **SETTINGS)
    optimizer.step()
    assert optimizer.state[weight]["exp_avg"].dtype == torch.bfloat16
    assert optimizer.state[weight]["exp_avg_sq"].dtype == torch.bfloat16


@pytest.mark.parametrize(
    ("settings", "field"),
    [
        ({"optimizer": "adamw_8bit"}, r"train\.optimizer = adamw_8bit: needs a GPU"),
        ({"optimizer": "adamw_bf16", "betas": (0.9, 0.999)}, r"train\.betas"),
        ({"optimizer": "adamw_bf16", "offload_optimizer": True}, r"train\.offload_optimizer"),
    ],
)
def test_what_cannot_run_here_is_refused(settings: dict[str, object], field: str) -> None:
    with pytest.raises(UserError, match=field):
        make_optimizer(torch.nn.Linear(2, 2), Train.model_validate(settings), "cpu")
