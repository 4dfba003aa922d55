"""The backends for packed rows. The GPU's kernels are held to their declarations here; that they
compute the same is in e2e/test_training_gpu.py."""

import inspect
from typing import Any

import pytest
import torch
from torch.nn import functional as F
from torch.nn.attention import varlen as torch_varlen
from transformers.modeling_flash_attention_utils import _flash_attention_forward

from toolgenesis_sft.training.attention import block_sdpa, varlen

LENGTHS = (5, 1, 9)
BOUNDARIES = torch.tensor([0, 5, 6, 15], dtype=torch.int32)
SCALE = 0.3


def packed_row(num_heads: int = 4, num_kv_heads: int = 2) -> list[torch.Tensor]:
    """query, key, value, each [1, heads, tokens, 8]."""
    generator = torch.Generator().manual_seed(0)
    heads = (num_heads, num_kv_heads, num_kv_heads)
    return [torch.randn(1, count, sum(LENGTHS), 8, generator=generator) for count in heads]


def under_a_block_diagonal_mask(parts: list[torch.Tensor]) -> torch.Tensor:
    sample = torch.repeat_interleave(torch.arange(len(LENGTHS)), torch.tensor(LENGTHS))
    mask = (sample[:, None] == sample[None]).tril()
    out = F.scaled_dot_product_attention(*parts, attn_mask=mask, scale=SCALE, enable_gqa=True)
    return out.transpose(1, 2)


def test_blocks_one_by_one_equal_a_block_diagonal_mask() -> None:
    parts = packed_row()
    out, _ = block_sdpa(None, *parts, None, cu_seq_lens_q=BOUNDARIES, scaling=SCALE)
    torch.testing.assert_close(out, under_a_block_diagonal_mask(parts))


def test_torchs_varlen_kernel_is_called_as_it_is_declared(monkeypatch: pytest.MonkeyPatch) -> None:
    declared = inspect.signature(torch_varlen.varlen_attn)

    def kernel(*given: Any, **options: Any) -> torch.Tensor:
        """What the declaration says of these arguments, on a CPU."""
        asked = declared.bind(*given, **options).arguments
        assert asked["window_size"] == (-1, 0), "no look-ahead: causal"
        assert torch.equal(asked["cu_seq_q"], asked["cu_seq_k"])
        assert asked["max_q"] == asked["max_k"] == max(LENGTHS)
        assert asked["enable_gqa"] == (asked["query"].shape[1] != asked["key"].shape[1])
        assert asked["scale"] == SCALE
        parts = [asked[name].transpose(0, 1)[None] for name in ("query", "key", "value")]
        assert [part.shape[2] for part in parts] == [sum(LENGTHS)] * 3
        return under_a_block_diagonal_mask(parts)[0]

    monkeypatch.setattr(torch_varlen, "varlen_attn", kernel)
    for num_kv_heads in (2, 4):
        parts = packed_row(num_kv_heads=num_kv_heads)
        out, _ = varlen(
            None, *parts, None, cu_seq_lens_q=BOUNDARIES, max_length_q=max(LENGTHS), scaling=SCALE
        )
        torch.testing.assert_close(out, under_a_block_diagonal_mask(parts))


def test_transformers_flash_attention_still_takes_boundaries() -> None:
    names = set(inspect.signature(_flash_attention_forward).parameters)
    assert {"cu_seq_lens_q", "cu_seq_lens_k", "max_length_q", "max_length_k"} <= names
