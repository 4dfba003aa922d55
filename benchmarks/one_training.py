"""One rank of a short training, ours or TRL's: started by train_vs_trl.py and train_gpu.py.

Takes a JSON file with a Setting, writes a JSON file with seconds, tokens and loss of each step.
The data is random tokens, the same for both sides, drawn from the setting's seed.
"""

from __future__ import annotations

import importlib.util
import json
import os
import subprocess
import sys
import time
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

ROOT = Path(__file__).resolve().parent.parent
DTYPES = {"fp32": "float32", "bf16": "bfloat16"}


@dataclass(frozen=True)
class Setting:
    """What both sides are given. `model` is a folder base_model/ with random weights.

    A step holds `samples_per_step` samples of shortest..longest tokens, a third of each a prompt;
    a packed row holds row_tokens. `train` overrides the recipe's fields (ours), `trl` SFTConfig's.
    """

    side: str
    model: str
    vocabulary: int
    num_steps: int
    samples_per_step: int
    shortest: int
    longest: int
    row_tokens: int
    packing: bool
    dtype: str
    ranks: int
    train: dict[str, Any] = field(default_factory=dict)
    trl: dict[str, Any] = field(default_factory=dict)


def launch(setting: Setting, out: Path) -> dict[str, Any]:
    """Run a setting under accelerate's launcher. Yields its figures, or {"fault": last words}."""
    out.parent.mkdir(parents=True, exist_ok=True)
    asked = out.with_suffix(".setting.json")
    asked.write_text(json.dumps(asdict(setting)))
    launcher = [sys.executable, "-m", "accelerate.commands.launch", "--no_python"]
    launcher += ["--config_file", str(ROOT / "launch" / "accelerate_cpu.yaml")]
    launcher += ["--num_processes", str(setting.ranks)]
    env = {**os.environ, "PYTHONWARNINGS": "ignore", "PYTHONPATH": str(ROOT)}
    env.setdefault("PYTORCH_CUDA_ALLOC_CONF", "expandable_segments:True")
    done = subprocess.run(
        [*launcher, sys.executable, __file__, str(asked), str(out)],
        cwd=ROOT,
        env=env,
        capture_output=True,
        text=True,
        check=False,
    )
    if not out.exists():
        out.with_suffix(".log").write_text(done.stdout + done.stderr)
        words = [line for line in done.stderr.splitlines() if "Error" in line]
        return {"fault": words[0][:200] if words else f"exit status {done.returncode}"}
    answer: dict[str, Any] = json.loads(out.read_text())
    return answer


def lengths_of(setting: Setting) -> list[int]:
    random = np.random.default_rng(0)
    number = setting.num_steps * setting.samples_per_step
    lengths: list[int] = random.integers(setting.shortest, setting.longest + 1, number).tolist()
    return lengths


def recipe_of(setting: Setting) -> Any:
    from toolgenesis_sft.config import Recipe

    train = {
        "epochs": 1,
        "global_batch_size": setting.samples_per_step,
        "max_row_tokens": setting.row_tokens,
        "packing": setting.packing,
        "learning_rate": 1e-4,
        "min_learning_rate_ratio": 1.0,
        "warmup_ratio": 0.0,
        "dtype": setting.dtype,
        **setting.train,
    }
    model = {"random": {}, "max_position_embeddings": 40_960}
    data = {"max_tokens": setting.longest}
    return Recipe.model_validate({"name": "bench", "model": model, "data": data, "train": train})


def tokens_of(setting: Setting) -> Any:
    from toolgenesis_sft.training.tokens import TokenSet

    lengths = lengths_of(setting)
    masks = [np.arange(length) >= length // 3 for length in lengths]
    ids = np.random.default_rng(1).integers(3, setting.vocabulary, sum(lengths))
    return TokenSet(
        ids=ids.astype(np.int32),
        mask=np.concatenate(masks),
        offsets=np.cumsum([0, *lengths]),
        num_supervised=np.array([mask.sum() for mask in masks]),
        sample_ids=[str(number) for number in range(len(lengths))],
        fingerprint="",
    )


def order_of(setting: Setting, tokens: Any) -> Any:
    from toolgenesis_sft.training.packing import Order, OrderSettings

    settings = OrderSettings.of(recipe_of(setting))
    return Order(tokens.lengths, tokens.num_supervised, settings, setting.ranks)


def run_ours(setting: Setting) -> dict[str, Any]:
    from toolgenesis_sft.runs import RunFolder
    from toolgenesis_sft.training.engine import join, make_engine
    from toolgenesis_sft.training.loop import Training, forward_backward, next_batch, update
    from toolgenesis_sft.training.metrics import ModelFlops, peak_flops
    from toolgenesis_sft.training.saving import Saver
    from toolgenesis_sft.training.schedule import learning_rate
    from toolgenesis_sft.training.signals import StopRequest

    recipe, run = recipe_of(setting), RunFolder(Path(setting.model).parent)
    join(recipe.train)
    engine = make_engine(recipe, run, resume=None)
    tokens = tokens_of(setting)
    order = order_of(setting, tokens)
    training = Training(
        recipe=recipe,
        run=run,
        engine=engine,
        tokens=tokens,
        order=order,
        val_tokens=tokens,
        validation=None,
        metrics=None,
        saver=Saver(recipe, run, engine, order.num_steps, identity=""),
        stop=StopRequest(),
    )
    answer: dict[str, Any] = {"seconds": [], "tokens": [], "flops": [], "loss": []}
    flops = ModelFlops.of(engine.config)
    for step in range(order.num_steps):
        started = time.perf_counter()
        batch = next_batch(training, step)
        # Counted from 1: the check of the first loss is for the models of a recipe.
        loss, _ = forward_backward(training, batch, step + 1)
        update(training, batch, step, learning_rate(step, order.num_steps, recipe.train))
        answer["seconds"].append(time.perf_counter() - started)
        answer["tokens"].append(batch.plan.num_tokens)
        lengths = tokens.lengths[batch.plan.samples].tolist()
        answer["flops"].append(flops.of_samples(lengths, batch.plan.num_supervised))
        answer["loss"].append(loss)
    answer["peak_flops"] = peak_flops(engine.device_name)
    answer["memory_gib"] = engine.peak_memory_gib()
    answer["device"] = engine.device_name
    return answer


def run_trl(setting: Setting) -> dict[str, Any]:
    import accelerate
    import datasets
    import torch
    import transformers
    from trl import SFTConfig, SFTTrainer

    recipe = recipe_of(setting)
    on_gpu = torch.cuda.is_available()
    if not on_gpu:
        import deepspeed

        deepspeed.ops.__compatible_ops__["deepspeed_shm_comm"] = False
        # transformers asks the state whether it is DeepSpeed's; on a CPU only this says yes.
        accelerate.PartialState(cpu=True).distributed_type = accelerate.DistributedType.DEEPSPEED
    tokens = tokens_of(setting)
    order = order_of(setting, tokens)
    samples = [tokens[one] for step in range(order.num_steps) for one in order.step(step).samples]
    rows = {
        "input_ids": [sample.ids.tolist() for sample in samples],
        "labels": [np.where(sample.mask, sample.ids, -100).tolist() for sample in samples],
    }
    zero3 = json.loads((ROOT / "launch" / "zero3.json").read_text())
    zero3["zero_optimization"]["overlap_comm"] = on_gpu
    zero3["gradient_accumulation_steps"] = "auto"
    if setting.packing:  # as many full rows a step as ours has
        tokens_per_step = setting.samples_per_step * (setting.shortest + setting.longest) / 2
        accumulation = max(1, round(tokens_per_step / setting.row_tokens / setting.ranks))
    else:
        accumulation = setting.samples_per_step // setting.ranks
    # Packed, only FlashAttention keeps its samples apart without a mask of row x row.
    flash = on_gpu and importlib.util.find_spec("flash_attn") is not None
    config = SFTConfig(
        output_dir=str(Path(setting.model).parent / "trl"),
        per_device_train_batch_size=1,
        gradient_accumulation_steps=accumulation,
        max_length=setting.row_tokens,
        packing=setting.packing,
        learning_rate=recipe.train.learning_rate,
        lr_scheduler_type="constant",
        adam_beta1=recipe.train.betas[0],
        adam_beta2=recipe.train.betas[1],
        adam_epsilon=recipe.train.eps,
        weight_decay=recipe.train.weight_decay,
        max_grad_norm=recipe.train.max_grad_norm,
        num_train_epochs=1,
        bf16=setting.dtype == "bf16",
        deepspeed=zero3,
        accelerator_config={"use_configured_state": not on_gpu},
        logging_steps=1,
        save_strategy="no",
        report_to="none",
        disable_tqdm=True,
        **{"gradient_checkpointing": False, **setting.trl},
    )
    answer: dict[str, Any] = {"seconds": [], "tokens": [], "loss": []}

    class Watch(transformers.TrainerCallback):
        """Seconds and tokens of each step, read where the trainer itself counts them."""

        def on_step_begin(self, *_: Any, **__: Any) -> None:
            self.started = time.perf_counter()

        def on_step_end(self, *_: Any, **__: Any) -> None:
            if on_gpu:
                torch.cuda.synchronize()
            answer["seconds"].append(time.perf_counter() - self.started)

        def on_log(self, *_: Any, logs: dict[str, float], **__: Any) -> None:
            if "loss" in logs:
                answer["loss"].append(logs["loss"])
                answer["tokens"].append(logs["num_tokens"] - sum(answer["tokens"]))

    class InOrder(SFTTrainer):
        def _get_train_sampler(self, *_: Any) -> Any:
            return torch.utils.data.SequentialSampler(self.train_dataset)

    trainer = InOrder(
        model=transformers.AutoModelForCausalLM.from_pretrained(
            setting.model,
            dtype=getattr(torch, DTYPES[setting.dtype]),
            attn_implementation="flash_attention_2" if flash else "sdpa",
        ),
        args=config,
        train_dataset=datasets.Dataset.from_dict(rows),
        callbacks=[Watch()],
        processing_class=tokenizer(setting.vocabulary),
    )
    trainer.train()
    if on_gpu:
        answer["memory_gib"] = torch.cuda.max_memory_allocated() / 2**30
    return answer


def tokenizer(vocabulary: int) -> Any:
    """TRL wants one, although the data holds token ids."""
    import transformers
    from tokenizers import Tokenizer, models

    words = {f"token{number}": number for number in range(vocabulary)}
    bare = Tokenizer(models.WordLevel(words, unk_token="token0"))
    return transformers.PreTrainedTokenizerFast(
        tokenizer_object=bare, eos_token="token1", pad_token="token2"
    )


def write_model(config: Any, folder: Path, device: str, dtype: str) -> Path:
    """Random weights of this shape, once, for both sides."""
    import torch
    import transformers

    torch.manual_seed(0)
    with torch.device(device):
        model = transformers.AutoModelForCausalLM.from_config(
            config, dtype=getattr(torch, DTYPES[dtype])
        )
    model.save_pretrained(folder)
    if device == "cuda":  # what this process keeps, the ranks that it starts cannot have
        del model
        torch.cuda.empty_cache()
    return folder


def main() -> None:
    setting = Setting(**json.loads(Path(sys.argv[1]).read_text()))
    answer = {"ours": run_ours, "trl": run_trl}[setting.side](setting)
    if os.environ["RANK"] == "0":
        out = Path(sys.argv[2])
        partial = out.with_suffix(".partial")
        partial.write_text(json.dumps(answer))
        partial.rename(out)
    from toolgenesis_sft.training.engine import leave

    leave()
    os._exit(0)  # a native thread may still abort the interpreter's end


if __name__ == "__main__":
    main()
