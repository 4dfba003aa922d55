"""What vLLM is told, and who hears of it where it is not installed (test_vllm.py runs it)."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

from toolgenesis_sft.config import Generate
from toolgenesis_sft.errors import UserError
from toolgenesis_sft.generation.models import AskedModel
from toolgenesis_sft.generation.vllm_serve import vllm_engine


def test_vllm_is_told_the_recipe_s_settings(tiny_model: Path, tmp_path: Path) -> None:
    settings = Generate(
        engine_python=sys.executable,
        tensor_parallel=4,
        max_model_len=2048,
        concurrency=32,
        seed=3,
        memory_share=0.5,
    )
    model = AskedModel("trained", "export", tiny_model, "digest")
    command = " ".join(vllm_engine(settings, model, True, tmp_path, 1234).command)
    for words in (
        f"--model {tiny_model}",
        "--port 1234",
        "--tensor-parallel-size 4",
        "--max-model-len 2048",
        "--max-num-seqs 32",
        "--enable-prefix-caching",
        "--seed 3",
        "--gpu-memory-utilization 0.5",
        '"top_k": 0',
    ):
        assert words in command


def test_vllm_that_is_not_installed_is_an_error_for_the_user(
    tiny_model: Path, tmp_path: Path
) -> None:
    model = AskedModel("trained", "export", tiny_model, "digest")
    with pytest.raises(UserError, match=r"generate\.engine_python"):
        vllm_engine(Generate(), model, False, tmp_path, 1234)
    with pytest.raises(UserError, match="is no interpreter"):
        vllm_engine(Generate(engine_python="/no/python"), model, False, tmp_path, 1234)
