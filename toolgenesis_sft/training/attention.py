"""Attention that keeps the samples of a packed row apart, and the refusal of any that does not."""

from __future__ import annotations

import importlib.util
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from transformers import AttentionInterface

from toolgenesis_sft.config import Train
from toolgenesis_sft.errors import UserError

BLOCK_SDPA = "toolgenesis_block_sdpa"
VARLEN = "toolgenesis_varlen"


def choose_attention(train: Train, device: str) -> str:
    """transformers' name of the backend for `train.attention` on this device (cpu, cuda).

    Raises UserError for a backend that cannot run here, or that would let packed samples see
    each other.
    """
    has_flash = importlib.util.find_spec("flash_attn") is not None
    wanted = train.attention
    if wanted == "auto":
        wanted = "sdpa" if device == "cpu" else "flash_attention_2" if has_flash else "varlen"
    if device == "cpu":
        if wanted != "sdpa":
            raise _refused(wanted, "needs a GPU", "take train.attention=sdpa")
        return BLOCK_SDPA
    if wanted == "sdpa":
        if train.packing:
            raise _refused(
                wanted,
                "isolates packed samples on a CPU only; on a GPU it would run one kernel a sample",
                "take train.attention=varlen or flash_attention_2",
            )
        return BLOCK_SDPA
    if train.dtype != "bf16":
        raise _refused(wanted, "runs in bf16 only", "take train.dtype=bf16")
    if wanted == "flash_attention_2" and not has_flash:
        raise _refused(wanted, "flash-attn is not installed", "take train.attention=varlen")
    return wanted if wanted == "flash_attention_2" else VARLEN


def block_sdpa(
    module: nn.Module,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    attention_mask: Tensor | None,
    *,
    cu_seq_lens_q: Tensor,
    scaling: float | None = None,
    **_: Any,
) -> tuple[Tensor, None]:
    """Causal attention within each sample, one block of the block diagonal after the other.

    query [1, heads, tokens, head_dim]; key and value may have fewer heads. Yields
    [1, tokens, heads, head_dim]. The blocks between two samples are never computed.
    """
    assert attention_mask is None, "rows are isolated by their boundaries"
    sizes = cu_seq_lens_q.diff().tolist()
    grouped = query.shape[1] != key.shape[1]
    parts = (part.split(sizes, dim=2) for part in (query, key, value))
    blocks = [
        F.scaled_dot_product_attention(q, k, v, is_causal=True, scale=scaling, enable_gqa=grouped)
        for q, k, v in zip(*parts, strict=True)
    ]
    return torch.cat(blocks, dim=2).transpose(1, 2), None


def varlen(
    module: nn.Module,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    attention_mask: Tensor | None,
    *,
    cu_seq_lens_q: Tensor,
    max_length_q: int,
    scaling: float | None = None,
    **_: Any,
) -> tuple[Tensor, None]:
    """The same by torch's own FlashAttention kernel for ragged batches (CUDA, bf16)."""
    from torch.nn.attention.varlen import varlen_attn

    assert attention_mask is None, "rows are isolated by their boundaries"
    out = varlen_attn(
        *(part[0].transpose(0, 1) for part in (query, key, value)),
        cu_seq_lens_q,
        cu_seq_lens_q,
        max_length_q,
        max_length_q,
        scale=scaling,
        window_size=(-1, 0),
        enable_gqa=query.shape[1] != key.shape[1],
    )
    return out[None], None


def _refused(wanted: str, rule: str, next_step: str) -> UserError:
    return UserError("train.attention", wanted, rule, next_step)


AttentionInterface.register(BLOCK_SDPA, block_sdpa)
AttentionInterface.register(VARLEN, varlen)
