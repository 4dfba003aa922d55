"""Our trainer beside TRL's SFTTrainer: same model, data, order and steps, DeepSpeed ZeRO-3.

    python benchmarks/train_vs_trl.py                             2 CPU ranks, sequence 256
    python benchmarks/train_vs_trl.py --length 64 --accumulation 1
    python benchmarks/train_vs_trl.py --packing                   each packs its own way
    python benchmarks/train_vs_trl.py --ranks 1 --dtype bf16      one GPU where there is one

Both run `--rounds` times, by turns, so that a busy machine is busy for both. The figure is the
median step of all rounds, the first two steps of each left out. Unpacked, every step holds the
same samples, and the largest difference of the two losses shows that both did the same work.
"""

from __future__ import annotations

import argparse
import dataclasses
import os
import statistics
import sys
import tempfile
from importlib.metadata import version
from pathlib import Path
from typing import Any

from one_training import Setting, launch, write_model

WARM_UP_STEPS = 2
VOCABULARY = 2048


def main() -> int:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    parser.add_argument("--length", type=int, default=256, help="tokens of the longest sample")
    parser.add_argument("--accumulation", type=int, default=2, help="samples a rank and step")
    parser.add_argument("--ranks", type=int, default=2)
    parser.add_argument("--steps", type=int, default=12)
    parser.add_argument("--rounds", type=int, default=2)
    parser.add_argument("--hidden", type=int, default=256)
    parser.add_argument("--layers", type=int, default=4)
    parser.add_argument("--dtype", choices=["fp32", "bf16"], default="fp32")
    parser.add_argument("--chunk", type=int, default=0, help="train.loss_chunk_tokens of ours")
    parser.add_argument("--packing", action="store_true", help="samples of unequal lengths, packed")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="train-vs-trl-") as name:
        return compare(options, Path(name))


def compare(options: argparse.Namespace, folder: Path) -> int:
    import transformers

    shape = transformers.Qwen3Config(
        vocab_size=VOCABULARY,
        hidden_size=options.hidden,
        num_hidden_layers=options.layers,
        num_attention_heads=4,
        num_key_value_heads=2,
        head_dim=64,
        intermediate_size=3 * options.hidden,
        tie_word_embeddings=False,
    )
    # Packed, a step is one full row a rank; unpacked, a row a sample.
    setting = Setting(
        side="ours",
        model=str(write_model(shape, folder / "base_model", "cpu", options.dtype)),
        vocabulary=VOCABULARY,
        num_steps=options.steps,
        samples_per_step=options.ranks * options.accumulation,
        shortest=options.length // 4 if options.packing else options.length,
        longest=options.length,
        row_tokens=options.length * (options.accumulation if options.packing else 1),
        packing=options.packing,
        dtype=options.dtype,
        ranks=options.ranks,
        train={"loss_chunk_tokens": options.chunk},
    )
    found: dict[str, list[dict[str, Any]]] = {"ours": [], "trl": []}
    for number in range(options.rounds):
        for side, rounds in found.items():
            answer = launch(
                dataclasses.replace(setting, side=side), folder / f"{side}_{number}.json"
            )
            if "fault" in answer:
                print(f"{side} did not finish: {answer['fault']}", file=sys.stderr)
                return 1
            rounds.append(answer)
    report(options, found)
    return 0


def report(options: argparse.Namespace, found: dict[str, list[dict[str, Any]]]) -> None:
    packages = ("torch", "deepspeed", "accelerate", "transformers", "trl")
    print(", ".join(f"{name} {version(name)}" for name in packages))
    print(f"{vars(options)}; load average {os.getloadavg()[0]:.1f} on {os.cpu_count()} cores")
    print("| trainer | median step (s) | fastest step (s) | tokens/s | steps |")
    print("|---|---|---|---|---|")
    medians, fastest = {}, {}
    for side, rounds in found.items():
        seconds = [one for each in rounds for one in each["seconds"][WARM_UP_STEPS:]]
        tokens = sum(sum(each["tokens"][WARM_UP_STEPS:]) for each in rounds)
        medians[side] = statistics.median(seconds)
        fastest[side] = min(seconds)
        row = f"{medians[side]:.3f} | {fastest[side]:.3f} | {tokens / sum(seconds):.0f}"
        print(f"| {side} | {row} | {len(seconds)} |")
    for what, figures in (("median", medians), ("fastest", fastest)):
        print(f"ours / trl: {figures['ours'] / figures['trl']:.2f} ({what} step)")
    if not options.packing:
        pairs = zip(found["ours"][0]["loss"], found["trl"][0]["loss"], strict=True)
        print(f"largest difference of a step's loss: {max(abs(a - b) for a, b in pairs):.1e}")


if __name__ == "__main__":
    sys.exit(main())
