"""The real vLLM engine against a small Qwen3 (`make test-vllm`).

TOOLGENESIS_VLLM_PYTHON names the interpreter of vLLM's own environment; launch/setup_vllm.sh makes
one for a machine without a GPU.
"""

from __future__ import annotations

import asyncio
import os
from collections import Counter
from dataclasses import replace
from pathlib import Path

import pytest
import torch
import transformers

from toolgenesis_sft.config import Generate
from toolgenesis_sft.errors import ModelFault
from toolgenesis_sft.generation.engine import open_engines
from toolgenesis_sft.generation.generate import generate
from toolgenesis_sft.generation.models import AskedModel
from toolgenesis_sft.predictions import read_predictions
from toolgenesis_sft.records import Message, ToolSchema
from toolgenesis_sft.runs import COMPLETE, RunFolder
from toolgenesis_sft.training.tokenizer import train_tokenizer

pytestmark = [pytest.mark.vllm, pytest.mark.timeout(900)]
ROOT = Path(__file__).resolve().parents[2]


@pytest.fixture(scope="module")
def vllm_python() -> str:
    return os.environ.get("TOOLGENESIS_VLLM_PYTHON", str(ROOT / ".venv-vllm" / "bin" / "python"))


@pytest.fixture(scope="module")
def model_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Heads of 128, as vLLM's attention kernels want them."""
    folder = tmp_path_factory.mktemp("models") / "qwen3"
    train_tokenizer(["import asyncio\n"], 400, folder, thinking=False, max_length=2048)
    tokenizer = transformers.AutoTokenizer.from_pretrained(folder)
    torch.manual_seed(3)
    transformers.Qwen3ForCausalLM(
        transformers.Qwen3Config(
            vocab_size=len(tokenizer),
            hidden_size=256,
            num_hidden_layers=2,
            num_attention_heads=2,
            num_key_value_heads=1,
            head_dim=128,
            intermediate_size=256,
            max_position_embeddings=2048,
            tie_word_embeddings=False,
            eos_token_id=tokenizer.eos_token_id,
            pad_token_id=tokenizer.pad_token_id,
        )
    ).save_pretrained(folder)
    (folder / COMPLETE).touch()
    return folder


def test_the_stage_runs_on_vllm_with_log_probabilities(
    make_recipe, run: RunFolder, model_folder: Path, vllm_python: str
) -> None:
    run.root.mkdir(parents=True)
    run.export.symlink_to(model_folder)
    recipe = make_recipe(
        "generate.engine=vllm",
        f"generate.engine_python={vllm_python}",
        "generate.compare_before_training=false",
        "generate.max_model_len=1024",
        "generate.memory_share=0.2",
        "generate.temperature=0.7",
        "generate.num_samples=2",
    )
    generate(recipe, run)
    predictions = list(read_predictions(run.predictions))
    assert Counter(prediction.slug for prediction in predictions) == {
        "adder": 2,
        "clock": 2,
        "greeter": 2,
    }
    for prediction in predictions:
        assert prediction.mean_logprob is not None
        assert prediction.mean_logprob < 0
        assert 0 < prediction.num_completion_tokens <= 24


def test_tool_calls_log_probabilities_and_a_full_context_come_back_as_they_are(
    model_folder: Path, vllm_python: str, tmp_path: Path
) -> None:
    settings = Generate(
        engine_python=vllm_python, max_model_len=1024, concurrency=4, memory_share=0.2
    )
    model = AskedModel("trained", str(model_folder), model_folder, "digest")
    one = {"type": "integer"}
    tool = ToolSchema(
        name="add",
        description="Add.",
        input_schema={"type": "object", "properties": {"a": one}, "required": ["a"]},
    )

    async def go(client) -> None:
        async with client:
            question = [Message(role="user", content="Add 1 and 2.")]
            options = {"max_tokens": 200, "temperature": 0.0, "seed": 1}
            first = await client.complete(question, tools=(tool,), logprobs=True, **options)
            again = await client.complete(question, tools=(tool,), logprobs=True, **options)
            assert first.num_completion_tokens > 0
            assert (first.text, first.mean_logprob) == (again.text, again.mean_logprob)
            cut = await client.complete(question, max_tokens=4096, temperature=0.0, seed=1)
            assert cut.num_prompt_tokens + cut.num_completion_tokens <= 1024
            # A random model calls no tool by itself; a grammar makes it write one as Qwen would.
            said = '<tool_call>\n{"name": "add", "arguments": {"a": 1}}\n</tool_call>'
            held = {**client.extra_body, "structured_outputs": {"choice": [said]}}
            async with replace(client, extra_body=held) as forced:
                call = await forced.complete(question, tools=(tool,), **options)
                assert [(c.name, c.arguments) for c in call.tool_calls] == [("add", {"a": 1})]
                result = Message(role="tool", content="1", tool_call_id=call.tool_calls[0].id)
                talk = [*question, call.as_message(), result]
            assert (await client.complete(talk, tools=(tool,), **options)).num_completion_tokens
            long = [Message(role="user", content="word " * 600)]
            with pytest.raises(ModelFault, match="context_exhausted"):
                await client.complete(long, **options)

    with open_engines(settings, model, False, tmp_path, num_requests=4) as [engine]:
        asyncio.run(go(engine.client()))
