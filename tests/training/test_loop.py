"""What a step computes does not depend on how it is cut into micro-batches and ranks."""

import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch

from tests.training.tiny import ENVIRONMENT, ROOT, build_tiny
from toolgenesis_sft.config import load_recipe
from toolgenesis_sft.training.attention import BLOCK_SDPA
from toolgenesis_sft.training.loop import not_finite
from toolgenesis_sft.training.model import PackedCausalLM, write_base_model
from toolgenesis_sft.training.rows import make_row
from toolgenesis_sft.training.tokens import load_tokens

LAYOUTS = {
    # name: (ranks, rows of one rank, overrides)
    "1 rank x 8 rows": (1, 8, ("train.packing=false",)),
    "2 ranks x 4 rows": (2, 4, ("train.packing=false",)),
    "1 rank x 1 packed row": (1, 1, ("train.max_row_tokens=1024",)),
    "2 ranks x 1 packed row": (2, 1, ("train.max_row_tokens=1024",)),
    "1 rank x 4 rows": (1, 4, ("train.max_row_tokens=160", "data.max_tokens=160")),
    "2 ranks x 2 rows": (2, 2, ("train.max_row_tokens=160", "data.max_tokens=160")),
    "2 ranks, logits in chunks": (2, 1, ("train.max_row_tokens=1024", "train.loss_chunk_tokens=7")),
    "3 ranks, one with an empty row": (3, 3, ("train.packing=false",)),
}


def gradients(tmp_path: Path, num_processes: int, overrides: tuple[str, ...]) -> dict[str, Any]:
    recipe, run = build_tiny(tmp_path)
    write_base_model(load_recipe(recipe), run, run.data / "tokenizer")
    out = tmp_path / "gradients.pt"
    launcher = [sys.executable, "-m", "accelerate.commands.launch", "--no_python"]
    launcher += ["--config_file", str(ROOT / "launch" / "accelerate_cpu.yaml")]
    launcher += ["--num_processes", str(num_processes)]
    program = [sys.executable, "-m", "tests.training.gradients", str(recipe), str(run.root)]
    command = [*launcher, *program, str(out), "train.global_batch_size=8", *overrides]
    done = subprocess.run(
        command, cwd=ROOT, env=ENVIRONMENT, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr[-3000:]
    saved: dict[str, Any] = torch.load(out)
    return saved


@pytest.fixture(scope="module")
def plain(tmp_path_factory: pytest.TempPathFactory) -> tuple[float, dict[str, torch.Tensor]]:
    """Loss and gradients of all eight samples by plain autograd, without DeepSpeed."""
    import transformers

    recipe_path, run = build_tiny(tmp_path_factory.mktemp("plain"))
    recipe = load_recipe(recipe_path)
    write_base_model(recipe, run, run.data / "tokenizer")
    tokens = load_tokens(recipe, run)
    causal = transformers.AutoModelForCausalLM.from_pretrained(
        run.base_model, dtype=torch.float32, attn_implementation=BLOCK_SDPA
    )
    model = PackedCausalLM(causal, loss_chunk_tokens=0)
    rows = [make_row(tokens, [sample]) for sample in range(len(tokens))]
    total = torch.cat([model(**row.inputs(torch.device("cpu"))) for row in rows]).mean()
    total.backward()
    return total.item(), {name: one.grad for name, one in model.named_parameters()}


@pytest.mark.parametrize(
    "layout",
    [
        name if name.startswith("2 ranks x 4") else pytest.param(name, marks=pytest.mark.slow)
        for name in LAYOUTS
    ],
)
def test_gradients_do_not_depend_on_accumulation_packing_or_ranks(
    layout: str, plain: tuple[float, dict[str, torch.Tensor]], tmp_path: Path
) -> None:
    num_processes, num_rows, overrides = LAYOUTS[layout]
    found = gradients(tmp_path, num_processes, overrides)
    assert (found["world_size"], found["num_rows"]) == (num_processes, num_rows)
    loss, expected = plain
    assert found["loss"] == pytest.approx(loss, abs=1e-6)
    assert found["gradients"].keys() == expected.keys()
    for name, gradient in expected.items():
        torch.testing.assert_close(found["gradients"][name], gradient, rtol=0, atol=1e-6)
    # Each rank holds a share of the weights, padded to whole elements.
    total = sum(gradient.numel() for gradient in expected.values())
    assert found["num_held"] == pytest.approx(total / num_processes, abs=len(expected))
    # A gradient that is not finite stops the step before it touches a weight.
    assert found["fault"].startswith("gradient norm is not finite: at step 1, samples sample-0,")
    assert found["weights_unchanged"]


def test_what_is_not_finite_is_named_once_and_counted() -> None:
    fault = not_finite("loss", 4, ["a", "a", *map(str, range(20)), "a"])
    assert "loss is not finite: at step 5, samples a, 0, 1" in str(fault)
    assert "and 13 more" in str(fault)
