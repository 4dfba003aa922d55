"""AdamW with fp32, bf16 or 8-bit states."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn

from toolgenesis_sft.config import Train
from toolgenesis_sft.errors import UserError

CHUNK_ELEMENTS = 2**24  # of a flat ZeRO partition that AdamWBf16 works on at once, in fp32


def make_optimizer(model: nn.Module, train: Train, device: str) -> torch.optim.Optimizer:
    """The recipe's optimizer over all parameters. Raises UserError for one that cannot run here."""
    settings: dict[str, Any] = {
        "lr": train.learning_rate,
        "betas": train.betas,
        "eps": train.eps,
        "weight_decay": train.weight_decay,
    }
    if train.offload_optimizer:
        if train.optimizer != "adamw":
            raise UserError(
                "train.offload_optimizer",
                True,
                "keeps fp32 states in host memory, which train.optimizer=adamw has",
                "choose one of the two",
            )
        return torch.optim.AdamW(model.parameters(), **settings)
    match train.optimizer:
        case "adamw":
            return torch.optim.AdamW(model.parameters(), fused=device == "cuda", **settings)
        case "adamw_bf16":
            return AdamWBf16(model.parameters(), **settings)
        case "adamw_8bit":
            return adamw_8bit(model, device, settings)


def adamw_8bit(model: nn.Module, device: str, settings: dict[str, Any]) -> torch.optim.Optimizer:
    if device != "cuda":
        raise UserError(
            "train.optimizer", "adamw_8bit", "needs a GPU", "take adamw or adamw_bf16 on a CPU"
        )
    try:
        from bitsandbytes.optim import AdamW8bit
    except ImportError as error:
        raise UserError(
            "train.optimizer",
            "adamw_8bit",
            "bitsandbytes is not installed",
            "install the `gpu` extra, or take adamw_bf16",
        ) from error
    optimizer: torch.optim.Optimizer = AdamW8bit(model.parameters(), **settings)
    return optimizer


class AdamWBf16(torch.optim.Optimizer):
    """AdamW (Loshchilov and Hutter, 2019) whose two moments are kept in bf16.

    The arithmetic is fp32. 4 bytes a parameter instead of 8; the moments' relative error is that
    of bf16, 2^-9, so beta2 must not exceed 0.99: a smaller update of the second moment would be
    rounded away.
    """

    def __init__(self, params: Any, **defaults: Any) -> None:
        if defaults["betas"][1] > 0.99:
            raise UserError(
                "train.betas",
                list(defaults["betas"]),
                "bf16 moments lose the updates of a beta2 above 0.99",
                "lower it, or take train.optimizer=adamw",
            )
        super().__init__(params, defaults)

    @torch.no_grad()
    def step(self, closure: Callable[[], float] | None = None) -> None:
        for group in self.param_groups:
            for param in group["params"]:
                if param.grad is None:
                    continue
                state = self.state[param]
                if not state:
                    state["step"] = torch.tensor(0.0)
                    state["exp_avg"] = torch.zeros_like(param, dtype=torch.bfloat16)
                    state["exp_avg_sq"] = torch.zeros_like(param, dtype=torch.bfloat16)
                state["step"] += 1
                whole = (param, param.grad, state["exp_avg"], state["exp_avg_sq"])
                pieces = (tensor.view(-1).split(CHUNK_ELEMENTS) for tensor in whole)
                for weight, grad, mean, square in zip(*pieces, strict=True):
                    update(weight, grad, mean, square, float(state["step"]), group)


def update(
    weight: Tensor, grad: Tensor, mean: Tensor, square: Tensor, step: float, group: dict[str, Any]
) -> None:
    """One AdamW update in place, in fp32 whatever the precision of the moments."""
    beta1, beta2 = group["betas"]
    fresh_mean = mean.float().lerp_(grad.float(), 1 - beta1)
    fresh_square = square.float().lerp_(grad.float().square(), 1 - beta2)
    mean.copy_(fresh_mean)
    square.copy_(fresh_square)
    scale = (fresh_square / (1 - beta2**step)).sqrt_().add_(group["eps"])
    weight.mul_(1 - group["lr"] * group["weight_decay"])
    weight.addcdiv_(fresh_mean, scale, value=-group["lr"] / (1 - beta1**step))
