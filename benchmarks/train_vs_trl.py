"""Our trainer beside TRL's SFTTrainer: same model, data, order and steps, DeepSpeed ZeRO-3.

    python benchmarks/train_vs_trl.py                           2 CPU ranks, sequence 256
    python benchmarks/train_vs_trl.py --length 64 --accumulation 1
    python benchmarks/train_vs_trl.py --packing                 each packs its own way
    python benchmarks/train_vs_trl.py --ranks 1 --dtype bf16    one GPU where there is one

Both run `--rounds` times, by turns, in launchers of their own; the figure is the median step of
all rounds, the first two steps of each left out. Unpacked, every step holds the same samples, and
the largest difference of the two losses is printed: it is the check that both did the same work.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np

ROOT = Path(__file__).resolve().parent.parent
WARM_UP_STEPS = 2
VOCABULARY = 2048


def main() -> int:
    options = parse()
    if "RANK" in os.environ:
        side = {"ours": run_ours, "trl": run_trl}[options.side]
        side(options, Path(options.out))
        return 0
    found: dict[str, list[dict[str, Any]]] = {"ours": [], "trl": []}
    with tempfile.TemporaryDirectory(prefix="train-vs-trl-") as folder:
        for number in range(options.rounds):
            for side in found:
                found[side].append(launch(options, side, Path(folder) / f"{side}_{number}.json"))
    report(options, found)
    return 0


def parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--length", type=int, default=256, help="tokens of the longest sample")
    parser.add_argument("--accumulation", type=int, default=2, help="samples a rank and step")
    parser.add_argument("--ranks", type=int, default=2)
    parser.add_argument("--steps", type=int, default=12)
    parser.add_argument("--rounds", type=int, default=2)
    parser.add_argument("--hidden", type=int, default=256)
    parser.add_argument("--layers", type=int, default=4)
    parser.add_argument("--dtype", choices=["fp32", "bf16"], default="fp32")
    parser.add_argument("--packing", action="store_true", help="samples of unequal lengths, packed")
    parser.add_argument("--side", choices=["ours", "trl"], help=argparse.SUPPRESS)
    parser.add_argument("--out", help=argparse.SUPPRESS)
    return parser.parse_args()


def launch(options: argparse.Namespace, side: str, out: Path) -> dict[str, Any]:
    configuration = str(ROOT / "launch" / "accelerate_cpu.yaml")
    command = [sys.executable, "-m", "accelerate.commands.launch", "--config_file", configuration]
    command += ["--num_processes", str(options.ranks), "--no_python", sys.executable, __file__]
    command += [*sys.argv[1:], "--side", side, "--out", str(out)]
    env = {**os.environ, "PYTHONWARNINGS": "ignore", "PYTHONPATH": str(ROOT)}
    done = subprocess.run(
        command, cwd=ROOT, env=env, capture_output=True, text=True, check=False
    )
    if not out.exists():
        sys.exit(f"{side} did not finish:\n{done.stderr[-4000:]}")
    answer: dict[str, Any] = json.loads(out.read_text())
    return answer


def report(options: argparse.Namespace, found: dict[str, list[dict[str, Any]]]) -> None:
    print(f"{options}", file=sys.stderr)
    packages = ("torch", "deepspeed", "accelerate", "transformers", "trl")
    print(", ".join(f"{name} {version(name)}" for name in packages))
    medians = {}
    print("| trainer | median step (s) | tokens/s | steps |\n|---|---|---|---|")
    for side, rounds in found.items():
        seconds = [one for each in rounds for one in each["seconds"][WARM_UP_STEPS:]]
        tokens = sum(sum(each["tokens"][WARM_UP_STEPS:]) for each in rounds)
        medians[side] = statistics.median(seconds)
        row = (side, f"{medians[side]:.3f}", f"{tokens / sum(seconds):.0f}", str(len(seconds)))
        print("| " + " | ".join(row) + " |")
    print(f"ours / trl: {medians['ours'] / medians['trl']:.2f} (median step)")
    if not options.packing:
        pairs = zip(found["ours"][0]["loss"], found["trl"][0]["loss"], strict=True)
        print(f"largest difference of a step's loss: {max(abs(a - b) for a, b in pairs):.1e}")


def samples(options: argparse.Namespace) -> list[tuple[list[int], int]]:
    """(token ids, length of the prompt); random text, the same for both sides."""
    random = np.random.default_rng(0)
    number = options.steps * options.ranks * options.accumulation
    shortest = options.length // 4 if options.packing else options.length
    lengths = random.integers(shortest, options.length + 1, number)
    return [
        (random.integers(3, VOCABULARY, length).tolist(), int(length) // 3) for length in lengths
    ]


def recipe_of(options: argparse.Namespace) -> Any:
    from toolgenesis_sft.config import Recipe

    return Recipe.model_validate(
        {
            "name": "benchmark",
            "model": {
                "random": {
                    "hidden_size": options.hidden,
                    "num_layers": options.layers,
                    "intermediate_size": 3 * options.hidden,
                    "vocab_size": VOCABULARY,
                }
            },
            "data": {"max_tokens": options.length},
            "train": {
                "epochs": 1,
                "global_batch_size": options.ranks * options.accumulation,
                "max_row_tokens": options.length * (4 if options.packing else 1),
                "packing": options.packing,
                "learning_rate": 1e-4,
                "min_learning_rate_ratio": 1.0,
                "warmup_ratio": 0.0,
                "dtype": options.dtype,
                "loss_chunk_tokens": 0,
            },
        }
    )


def base_model(options: argparse.Namespace, folder: Path) -> Path:
    """The same random weights for both sides."""
    import transformers

    from toolgenesis_sft.training.model import seeded

    sizes = recipe_of(options).model.random
    config = transformers.Qwen3Config(
        vocab_size=sizes.vocab_size,
        hidden_size=sizes.hidden_size,
        num_hidden_layers=sizes.num_layers,
        num_attention_heads=sizes.num_heads,
        num_key_value_heads=sizes.num_kv_heads,
        head_dim=sizes.head_dim,
        intermediate_size=sizes.intermediate_size,
        tie_word_embeddings=False,
    )
    with seeded(0):
        transformers.Qwen3ForCausalLM(config).save_pretrained(folder)
    return folder


def token_set(options: argparse.Namespace) -> Any:
    from toolgenesis_sft.training.tokens import TokenSet

    data = samples(options)
    lengths = [len(ids) for ids, _ in data]
    masks = [np.arange(len(ids)) >= prompt for ids, prompt in data]
    return TokenSet(
        ids=np.concatenate([ids for ids, _ in data]).astype(np.int32),
        mask=np.concatenate(masks),
        offsets=np.cumsum([0, *lengths]),
        num_supervised=np.array([mask.sum() for mask in masks]),
        sample_ids=[str(number) for number in range(len(data))],
        fingerprint="",
    )


def run_ours(options: argparse.Namespace, out: Path) -> None:
    from toolgenesis_sft.runs import RunFolder
    from toolgenesis_sft.training.engine import join, leave, make_engine
    from toolgenesis_sft.training.loop import Training, forward_backward, next_batch, update
    from toolgenesis_sft.training.packing import Order, OrderSettings
    from toolgenesis_sft.training.schedule import learning_rate
    from toolgenesis_sft.training.signals import StopRequest

    recipe, run = recipe_of(options), RunFolder(rank_folder(out))
    base_model(options, run.base_model)
    join(recipe.train)
    engine = make_engine(recipe, run, resume=None)
    tokens = token_set(options)
    order = Order(
        tokens.lengths, tokens.num_supervised, OrderSettings.of(recipe), engine.world_size
    )
    training = Training(
        recipe=recipe,
        run=run,
        engine=engine,
        tokens=tokens,
        order=order,
        val_tokens=tokens,
        validation=None,
        metrics=None,
        stop=StopRequest(),
        identity="",
    )
    answer: dict[str, list[float]] = {"seconds": [], "tokens": [], "loss": []}
    for step in range(order.num_steps):
        started = time.perf_counter()
        batch = next_batch(training, step)
        loss, _ = forward_backward(training, batch, step)
        update(training, batch, step, learning_rate(step, order.num_steps, recipe.train))
        answer["seconds"].append(time.perf_counter() - started)
        answer["tokens"].append(batch.plan.num_tokens)
        answer["loss"].append(loss)
    if engine.rank == 0:
        out.write_text(json.dumps(answer))
    leave()


def run_trl(options: argparse.Namespace, out: Path) -> None:
    import accelerate
    import datasets
    import torch
    import transformers
    from trl import SFTConfig, SFTTrainer

    from toolgenesis_sft.training.engine import leave
    from toolgenesis_sft.training.packing import Order, OrderSettings

    recipe, folder = recipe_of(options), rank_folder(out)
    # Before SFTConfig: that makes every model from then on a ZeRO-3 one.
    weights = base_model(options, folder / "base_model")
    on_gpu = torch.cuda.is_available()
    if not on_gpu:
        import deepspeed

        deepspeed.ops.__compatible_ops__["deepspeed_shm_comm"] = False
        # transformers asks the state whether it is DeepSpeed's; on a CPU only this says yes.
        accelerate.PartialState(cpu=True).distributed_type = accelerate.DistributedType.DEEPSPEED
    data, tokens = samples(options), token_set(options)
    order = Order(tokens.lengths, tokens.num_supervised, OrderSettings.of(recipe), options.ranks)
    in_order = [data[one] for step in range(order.num_steps) for one in order.step(step).samples]
    rows = {
        "input_ids": [ids for ids, _ in in_order],
        "labels": [[-100] * prompt + ids[prompt:] for ids, prompt in in_order],
    }
    zero3 = json.loads((ROOT / "launch" / "zero3.json").read_text())
    zero3["zero_optimization"]["overlap_comm"] = on_gpu
    zero3["gradient_accumulation_steps"] = "auto"
    config = SFTConfig(
        output_dir=str(folder),
        per_device_train_batch_size=1,
        gradient_accumulation_steps=options.accumulation,
        max_length=recipe.train.max_row_tokens,
        packing=options.packing,
        learning_rate=recipe.train.learning_rate,
        lr_scheduler_type="constant",
        adam_beta1=recipe.train.betas[0],
        adam_beta2=recipe.train.betas[1],
        adam_epsilon=recipe.train.eps,
        weight_decay=recipe.train.weight_decay,
        max_grad_norm=recipe.train.max_grad_norm,
        num_train_epochs=1,
        bf16=options.dtype == "bf16",
        gradient_checkpointing=False,
        deepspeed=zero3,
        accelerator_config={"use_configured_state": not on_gpu},
        logging_steps=1,
        save_strategy="no",
        report_to="none",
        disable_tqdm=True,
    )
    model = transformers.AutoModelForCausalLM.from_pretrained(
        weights, dtype=getattr(torch, DTYPES[options.dtype])
    )
    answer: dict[str, list[float]] = {"seconds": [], "tokens": [], "loss": []}

    class Clock(transformers.TrainerCallback):
        def on_step_begin(self, *_: Any, **__: Any) -> None:
            self.started = time.perf_counter()

        def on_step_end(self, *_: Any, **__: Any) -> None:
            answer["seconds"].append(time.perf_counter() - self.started)

        def on_log(self, *arguments: Any, logs: dict[str, float], **_: Any) -> None:
            if "loss" in logs:
                answer["loss"].append(logs["loss"])

    class InOrder(SFTTrainer):
        def _get_train_sampler(self, *_: Any) -> Any:
            return torch.utils.data.SequentialSampler(self.train_dataset)

    trainer = InOrder(
        model=model,
        args=config,
        train_dataset=datasets.Dataset.from_dict(rows),
        callbacks=[Clock()],
        processing_class=tokenizer(),
    )
    trainer.train()
    num_tokens = sum(len(ids) for ids, _ in in_order) / len(answer["seconds"])
    answer["tokens"] = [num_tokens] * len(answer["seconds"])
    if trainer.accelerator.is_main_process:
        out.write_text(json.dumps(answer))
    leave()


DTYPES = {"fp32": "float32", "bf16": "bfloat16"}


def tokenizer() -> Any:
    """TRL wants one, although the data holds token ids."""
    import transformers
    from tokenizers import Tokenizer, models

    words = {f"token{number}": number for number in range(VOCABULARY)}
    bare = Tokenizer(models.WordLevel(words, unk_token="token0"))
    return transformers.PreTrainedTokenizerFast(
        tokenizer_object=bare, eos_token="token1", pad_token="token2"
    )


def rank_folder(out: Path) -> Path:
    """A folder of this rank's own: both make the same model, and neither waits for the other."""
    folder = out.with_suffix("") / os.environ["RANK"]
    folder.mkdir(parents=True, exist_ok=True)
    return folder


if __name__ == "__main__":
    status = main()
    if "RANK" in os.environ:
        os._exit(status)
    sys.exit(status)
