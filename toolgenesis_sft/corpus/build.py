"""Build the training set: collect, verify by running, split, write; the manifest last."""

from __future__ import annotations

import sys
from pathlib import Path

from toolgenesis_sft.benchmark import load_answer_keys, load_benchmark
from toolgenesis_sft.config import Recipe, resolve_path, server_python
from toolgenesis_sft.corpus.sources import Pair, benchmark_pairs
from toolgenesis_sft.corpus.verify import verify
from toolgenesis_sft.errors import UserError
from toolgenesis_sft.progress import Progress
from toolgenesis_sft.prompts import direct_messages, server_answer
from toolgenesis_sft.records import ChatSample, Json
from toolgenesis_sft.runs import (
    RunFolder,
    add_provenance,
    fingerprint,
    read_json,
    read_records,
    sha256_file,
    write_json,
    write_text,
)
from toolgenesis_sft.sandbox.jail import runtime_digest, self_test
from toolgenesis_sft.sandbox.session import Sandbox
from toolgenesis_sft.training.chat import CHAT_TEMPLATE, render
from toolgenesis_sft.training.tokenizer import train_tokenizer


def build(recipe: Recipe, run: RunFolder) -> None:
    """Write data/: train.jsonl, val.jsonl, tokenizer/ (tiny recipes), manifest.json last."""
    benchmark = load_benchmark(resolve_path(recipe.benchmark))
    pairs = list(benchmark_pairs(recipe, benchmark))
    interpreter = server_python(recipe.score.server_python)
    inputs = {
        "data": recipe.data.model_dump(mode="json"),
        "random": recipe.model.random and recipe.model.random.model_dump(mode="json"),
        "thinking": recipe.train.thinking,
        "seed": recipe.seed,
        "template": CHAT_TEMPLATE,
        "benchmark": benchmark.digest,
        "pairs": [(pair.slug, pair.scenario.digest, pair.code) for pair in pairs],
        "server_runtime": runtime_digest(interpreter),
    }
    manifest = run.data / "manifest.json"
    with run.locked("build"):
        if manifest.exists() and read_json(manifest)["fingerprint"] == fingerprint(inputs):
            print(f"build: {run.data} is up to date", file=sys.stderr)
            return
        manifest.unlink(missing_ok=True)
        self_test(interpreter)
        kept, drops = verified_pairs(recipe, benchmark.path, pairs, interpreter)
        samples = [sample_of(pair) for pair in kept]
        if not samples:
            raise UserError(
                "data", str(drops), "no sample is left to train on", "see why they were dropped"
            )
        write_text(run.data / "train.jsonl", "".join(sample.to_line() for sample in samples))
        write_text(run.data / "val.jsonl", "")
        if recipe.model.random is not None:
            train_tokenizer(
                [render(sample.messages, sample.tools) for sample in samples],
                recipe.model.random.vocab_size,
                run.data / "tokenizer",
                recipe.train.thinking,
                recipe.model.max_position_embeddings,
            )
        facts: dict[str, Json] = {
            "fingerprint": fingerprint(inputs),
            "benchmark_digest": benchmark.digest,
            "num_train": len(samples),
            "num_val": 0,
            "drops": drops,
            "files": {
                str(path.relative_to(run.data)): sha256_file(path)
                for path in sorted(run.data.rglob("*"))
                if path.is_file() and "tokens" not in path.relative_to(run.data).parts
            },
        }
        add_provenance(run, "build", facts)
        write_json(manifest, facts)
    print(f"build: {len(samples)} samples, dropped {drops or 'none'}", file=sys.stderr)


def verified_pairs(
    recipe: Recipe, benchmark: Path, pairs: list[Pair], interpreter: Path
) -> tuple[list[Pair], dict[str, int]]:
    """The pairs whose server was run and passed, and why the others were dropped."""
    keys = load_answer_keys(benchmark)
    drops: dict[str, int] = {}
    if recipe.data.max_scenarios is not None and len(pairs) > recipe.data.max_scenarios:
        pairs = sorted(pairs, key=lambda pair: (len(pair.code), pair.slug))
        drops["data.max_scenarios (the shortest answers are kept)"] = (
            len(pairs) - recipe.data.max_scenarios
        )
        pairs = sorted(pairs[: recipe.data.max_scenarios], key=lambda pair: pair.slug)
    kept = []
    with Sandbox(interpreter) as sandbox, Progress("build", len(pairs), "servers") as progress:
        for pair in pairs:
            verification = verify(pair, keys[pair.slug], sandbox)
            if verification.reason:
                print(f"build: {pair.slug} is dropped: {verification.reason}", file=sys.stderr)
                drops["verification"] = drops.get("verification", 0) + 1
            else:
                kept.append(pair)
            progress.done("dropped" if verification.reason else "verified")
    return kept, drops


def sample_of(pair: Pair) -> ChatSample:
    """The model card's kind of sample: scenario -> server."""
    return ChatSample(
        id=f"{pair.source}/{pair.slug}",
        messages=(*direct_messages(pair.scenario), server_answer(pair.code)),
        source=pair.source,
        licence=pair.licence,
        scenario=pair.slug,
        scenario_digest=pair.scenario.digest,
    )


def show(recipe: Recipe, run: RunFolder, sample_id: str) -> str:
    """One sample as the model will see it."""
    for name in ("train.jsonl", "val.jsonl"):
        for sample in read_records(run.data / name, ChatSample):
            if sample.id == sample_id:
                return render(sample.messages, sample.tools)
    raise UserError("--show", sample_id, "is no sample of this run", "see data/train.jsonl")
