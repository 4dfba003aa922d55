"""How fast chat samples become checked, distinct, tokenised training data.

    python benchmarks/build_throughput.py [--samples 20000,200000] [--processes 1,2]

Synthetic chats (two turns, some 130 words, one in fifty nearly a copy) go through the stage as it
is: convert, rules, secrets, overlap, signatures, exact and near duplicates, tokens and mask. Beside
it, in the same run, `datasets.map` with the same tokenizer on text that is rendered already.
Each measurement is a process of its own; memory is its peak and, below it, its workers'. Speed goes
with the length of the samples, so tokens/s stand beside samples/s; and processor time, workers
included, says what a sample costs where other work disturbs the clock.
"""

from __future__ import annotations

import argparse
import json
import os
import random
import resource
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parent.parent
WORDS_PER_TURN = (20, 45)
SYLLABLES = [consonant + vowel for consonant in "bdfgklmnprstvz" for vowel in "aeiou"]
VOCABULARY = [a + b for a in SYLLABLES for b in SYLLABLES]  # 4,900 words, most of them one token
NEAR_COPY_EVERY = 50


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    parser.add_argument("--samples", default="20000,200000")
    parser.add_argument("--processes", default="1,2")
    parser.add_argument("--one", nargs=4, metavar=("WHAT", "SAMPLES", "PROCESSES", "FOLDER"))
    options = parser.parse_args()
    if options.one:
        what, samples, processes, folder = options.one
        measure = {"build": measure_build, "datasets": measure_datasets}[what]
        print(json.dumps(measure(int(samples), int(processes), Path(folder))))
        return
    sizes = [int(text) for text in options.samples.split(",")]
    counts = [int(text) for text in options.processes.split(",")]
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        make_tokenizer(folder)
        print(
            f"{'what':10} {'samples':>8} {'processes':>9} {'seconds':>8} {'samples/s':>10}"
            f" {'tokens/s':>10} {'cpu us/sample':>13} {'GiB':>6} {'workers':>8}  stages"
        )
        for size in sizes:
            write_samples(folder / f"{size}.jsonl", size)
            for count in counts:
                for what in ("build", "datasets"):
                    show(what, size, count, folder)


def show(what: str, size: int, count: int, folder: Path) -> None:
    command = [sys.executable, __file__, "--one", what, str(size), str(count), str(folder)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode:
        sys.exit(done.stderr)
    found = json.loads(done.stdout.splitlines()[-1])
    stages = ", ".join(f"{name} {seconds:.1f}" for name, seconds in found["stages"].items())
    print(
        f"{what:10} {size:8,} {count:9} {found['seconds']:8.1f} {size / found['seconds']:10,.0f}"
        f" {found['num_tokens'] / found['seconds']:10,.0f} {found['cpu_s'] / size * 1e6:13,.0f}"
        f" {found['peak_gib']:6.2f} {found['workers_gib']:8.2f}",
        f" {stages}",
        flush=True,
    )


def sample_row(number: int) -> dict[str, Any]:
    """A chat that only its number decides; each fiftieth repeats the one before, but for a word."""
    copies = number % NEAR_COPY_EVERY == NEAR_COPY_EVERY - 1
    rng = random.Random(number - 1 if copies else number)
    messages = []
    for turn in range(2):
        for role in ("user", "assistant"):
            words = [rng.choice(VOCABULARY) for _ in range(rng.randint(*WORDS_PER_TURN))]
            messages.append({"role": role, "content": f"{role} {turn}: " + " ".join(words) + "."})
    if copies:
        messages[0]["content"] += " again"
    return {"messages": messages}


def write_samples(path: Path, size: int) -> None:
    with path.open("w", encoding="utf-8") as file:
        file.writelines(json.dumps(sample_row(number)) + "\n" for number in range(size))


def make_tokenizer(folder: Path) -> None:
    from toolgenesis_sft.corpus.trajectories import convert
    from toolgenesis_sft.training.chat import render
    from toolgenesis_sft.training.tokenizer import train_tokenizer

    texts = (render(convert(sample_row(n), "messages").messages) for n in range(4000))
    train_tokenizer(texts, 32_000, folder / "model", thinking=False, max_length=4096)


def measure_build(size: int, processes: int, folder: Path) -> dict[str, Any]:
    from toolgenesis_sft.benchmark import load_benchmark
    from toolgenesis_sft.config import load_recipe, server_python
    from toolgenesis_sft.corpus.build import Job
    from toolgenesis_sft.corpus.sources import resolve_sources
    from toolgenesis_sft.runs import RunFolder

    recipe = load_recipe(
        ROOT / "recipes" / "tiny_cpu.yaml",
        (
            "model.random=null",
            f"model.name_or_path={folder / 'model'}",
            f"data.sources=[{folder / f'{size}.jsonl'}]",
            f"data.num_processes={processes}",
            "data.val_share=0.01",
        ),
    )
    run = RunFolder(folder / f"run-{size}-{processes}")
    benchmark = load_benchmark(ROOT / "data" / "mini" / "benchmark.json")
    stages: dict[str, float] = {}
    started = last = time.perf_counter()

    def note(name: str) -> None:
        nonlocal last
        stages[name], last = time.perf_counter() - last, time.perf_counter()

    job = Job(recipe, run, benchmark, resolve_sources(recipe), server_python(None))
    table = job.collect()
    note("filters")
    table.drop_duplicates(job.drops)
    note("duplicates")
    job.measure(table)
    note("tokens")
    job.write(table, job.split(table))
    note("write")
    seconds = time.perf_counter() - started
    found = job.drops.counts.get("near duplicate", 0)
    planted = size // NEAR_COPY_EVERY
    # Their Jaccard is 0.94 and the threshold 0.8, so an estimate may miss one in some thousands.
    assert 0.995 * planted <= found <= planted, f"{found} near duplicates of {planted}"
    return facts(seconds, int(table.num_tokens.sum()), stages)


def measure_datasets(size: int, processes: int, folder: Path) -> dict[str, Any]:
    os.environ["HF_DATASETS_CACHE"] = str(folder / f"cache-{size}-{processes}")
    os.environ["TOKENIZERS_PARALLELISM"] = "false"
    import datasets
    from tokenizers import Tokenizer

    from toolgenesis_sft.corpus.trajectories import convert
    from toolgenesis_sft.training.chat import render

    datasets.disable_progress_bars()
    texts = folder / f"{size}-rendered.jsonl"
    if not texts.exists():
        with (folder / f"{size}.jsonl").open() as source, texts.open("w") as file:
            for line in source:
                conversation = convert(json.loads(line), "messages")
                file.write(json.dumps({"text": render(conversation.messages)}) + "\n")
    tokenizer = Tokenizer.from_file(str(folder / "model" / "tokenizer.json"))

    def tokens(batch: dict[str, list[str]]) -> dict[str, list[list[int]]]:
        encoded = tokenizer.encode_batch_fast(batch["text"], add_special_tokens=False)
        return {"input_ids": [encoding.ids for encoding in encoded]}

    started = time.perf_counter()
    rows = datasets.Dataset.from_json(str(texts))
    loaded = time.perf_counter()
    mapped = rows.map(
        tokens, batched=True, remove_columns=["text"], num_proc=processes if processes > 1 else None
    )
    seconds = time.perf_counter() - started
    num_tokens = sum(len(ids) for batch in mapped.iter(1000) for ids in batch["input_ids"])
    return facts(seconds, num_tokens, {"load": loaded - started, "map": seconds + started - loaded})


def facts(seconds: float, num_tokens: int, stages: dict[str, float]) -> dict[str, Any]:
    """Beside these the user's and the system's processor time of this process and its workers, and
    the peak memory in GiB of it and of the largest of them (Linux counts KiB)."""
    usage = [resource.getrusage(who) for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN)]
    own, workers = (each.ru_maxrss / 2**20 for each in usage)
    return {
        "seconds": seconds,
        "num_tokens": num_tokens,
        "cpu_s": sum(each.ru_utime + each.ru_stime for each in usage),
        "peak_gib": own,
        "workers_gib": workers,
        "stages": stages,
    }


if __name__ == "__main__":
    main()
