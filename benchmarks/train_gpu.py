"""Qwen3-8B's real shape on GPUs, random weights: tokens/s, causal MFU and peak memory.

    python benchmarks/train_gpu.py                    one GPU: every setting, TRL beside them
    python benchmarks/train_gpu.py --ranks 8          eight GPUs, fp32 AdamW states in shares
    python benchmarks/train_gpu.py --only compile     settings whose name holds this

Packed rows of 4k and 16k tokens, bf16. One GPU of 141 GB holds the whole model only with lean
optimizer states; where a setting does not fit, its line says so. MFU counts attention within each
sample (causal) and the head for supervised tokens; recomputation is not counted.
"""

from __future__ import annotations

import argparse
import dataclasses
import datetime
import importlib.util
import statistics
import sys
import tempfile
from importlib.metadata import version
from pathlib import Path
from typing import Any

from one_training import Setting, launch, write_model

WARM_UP_STEPS = 3
NUM_STEPS = 9
ROWS_PER_RANK = 2
# Lengths of samples in a row: a third of the shorter row at most, so that packing has work to do.
SHORTEST, LONGEST = 400, 4096
LEAN = {"optimizer": "adamw_bf16"}
FULL = {"activation_checkpointing": "full"}
SELECTIVE = {"activation_checkpointing": "selective"}
OURS: dict[str, dict[str, Any]] = {
    "full recomputation": FULL,
    "full recomputation, compile": FULL | {"compile": True},
    "selective recomputation": SELECTIVE,
    "selective, compile": SELECTIVE | {"compile": True},
    "selective, liger": SELECTIVE | {"liger": True},
    "no recomputation, compile": {"compile": True},
    "full recomputation, 8-bit states": FULL | {"optimizer": "adamw_8bit"},
    "full recomputation, states on the host": FULL
    | {"optimizer": "adamw", "offload_optimizer": True},
}
TRL = {
    "TRL, full recomputation": {"gradient_checkpointing": True, "optim": "adamw_bnb_8bit"},
    "TRL, full recomputation, liger": {
        "gradient_checkpointing": True,
        "optim": "adamw_bnb_8bit",
        "use_liger_kernel": True,
    },
}


def main() -> int:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    parser.add_argument("--ranks", type=int, default=1)
    parser.add_argument("--layers", type=int, default=36, help="36 is the whole model")
    parser.add_argument("--row-tokens", default="4096,16384")
    parser.add_argument("--only", default="", help="settings whose name holds this text")
    options = parser.parse_args()
    if importlib.util.find_spec("torch") is None:
        print("train_gpu: torch is not installed; pip install -e '.[train,gpu,dev]'")
        return 2
    import torch

    if torch.cuda.device_count() < options.ranks:
        found = torch.cuda.device_count()
        print(f"train_gpu: --ranks {options.ranks} needs as many GPUs, found {found}")
        return 2
    with tempfile.TemporaryDirectory(prefix="train-gpu-") as name:
        measure(options, Path(name))
    return 0


def measure(options: argparse.Namespace, folder: Path) -> None:
    shape = qwen3_8b(options.layers)
    model = write_model(shape, folder / "base_model", "cuda", "bf16")
    packages = ("torch", "deepspeed", "accelerate", "transformers", "trl")
    print(f"{datetime.date.today()}, {options.layers} of 36 layers, {options.ranks} ranks")
    print(", ".join(f"{package} {version(package)}" for package in packages))
    print(
        "| setting | row | tokens/s a GPU | causal MFU | peak memory (GiB) |\n|---|---|---|---|---|"
    )
    for row_tokens in map(int, options.row_tokens.split(",")):
        mean_length = (SHORTEST + LONGEST) // 2
        setting = Setting(
            side="ours",
            model=str(model),
            vocabulary=shape.vocab_size,
            num_steps=NUM_STEPS,
            samples_per_step=max(
                options.ranks, ROWS_PER_RANK * options.ranks * row_tokens // mean_length
            ),
            shortest=SHORTEST,
            longest=LONGEST,
            row_tokens=row_tokens,
            packing=True,
            dtype="bf16",
            ranks=options.ranks,
        )
        lean = LEAN if options.ranks < 8 else {}
        todo = [(name, {"train": lean | train}) for name, train in OURS.items()]
        todo += [(name, {"side": "trl", "trl": given}) for name, given in TRL.items()]
        for number, (name, changes) in enumerate(todo):
            if options.only in name:
                out = folder / f"{row_tokens}_{number}.json"
                answer = launch(dataclasses.replace(setting, **changes), out)
                print(line(name, row_tokens, options.ranks, answer), flush=True)


def qwen3_8b(num_layers: int) -> Any:
    """config.json of Qwen/Qwen3-8B."""
    import transformers

    return transformers.Qwen3Config(
        vocab_size=151_936,
        hidden_size=4096,
        num_hidden_layers=num_layers,
        num_attention_heads=32,
        num_key_value_heads=8,
        head_dim=128,
        intermediate_size=12_288,
        max_position_embeddings=40_960,
        tie_word_embeddings=False,
    )


def line(name: str, row_tokens: int, ranks: int, answer: dict[str, Any]) -> str:
    if "fault" in answer:
        return f"| {name} | {row_tokens} | did not run: {answer['fault']} | | |"
    seconds = answer["seconds"][WARM_UP_STEPS:]
    speed = sum(answer["tokens"][WARM_UP_STEPS:]) / sum(seconds) / ranks
    mfu = ""
    if answer.get("peak_flops"):
        flops = statistics.fmean(answer["flops"][WARM_UP_STEPS:]) / statistics.fmean(seconds)
        mfu = f"{flops / answer['peak_flops'] / ranks:.1%}"
    return f"| {name} | {row_tokens} | {speed:,.0f} | {mfu} | {answer['memory_gib']:.1f} |"


if __name__ == "__main__":
    sys.exit(main())
