"""Build the training set: collect, verify by running, filter, split, report; the manifest last."""

from __future__ import annotations

import shutil
import sys
from collections.abc import Iterator
from functools import partial
from itertools import islice
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from toolgenesis_sft.benchmark import Benchmark
from toolgenesis_sft.config import Recipe, resolve_path
from toolgenesis_sft.corpus import report, teacher
from toolgenesis_sft.corpus.chats import Examiner, conversation_digest
from toolgenesis_sft.corpus.drops import Drops
from toolgenesis_sft.corpus.gather import gather
from toolgenesis_sft.corpus.inputs import Inputs, is_up_to_date, refuse_where_trained
from toolgenesis_sft.corpus.kinds import samples_of
from toolgenesis_sft.corpus.overlap import HeldOut
from toolgenesis_sft.corpus.pool import ordered_map
from toolgenesis_sft.corpus.repairs import Repairer
from toolgenesis_sft.corpus.scenario_writer import ScenarioWriter
from toolgenesis_sft.corpus.servers import Server, by_template, servers_of
from toolgenesis_sft.corpus.show import show
from toolgenesis_sft.corpus.sources import Source, chunks
from toolgenesis_sft.corpus.splits import largest_mixture, rank, take, validation_groups
from toolgenesis_sft.corpus.table import Table
from toolgenesis_sft.corpus.tokens import Measurer
from toolgenesis_sft.corpus.verify import Verifier, gold_tool_names
from toolgenesis_sft.errors import UserError
from toolgenesis_sft.records import ChatSample, Json, ServerPrediction
from toolgenesis_sft.runs import (
    RunFolder,
    add_provenance,
    disk_error,
    sha256_file,
    write_json,
    write_lines,
)
from toolgenesis_sft.sandbox.jail import runtime_digest
from toolgenesis_sft.sandbox.workshop import Workshop
from toolgenesis_sft.training.chat import render
from toolgenesis_sft.training.tokenizer import resolve_tokenizer, train_tokenizer

LINES_PER_CHUNK = 512
WORK = "work"  # folder of what a build needs while it runs
OUTPUTS = ("train.jsonl", "val.jsonl", "data_report.json", "data_report.html", "README.md")
__all__ = ["build", "show"]


def build(recipe: Recipe, run: RunFolder) -> None:
    """Write data/: train.jsonl, val.jsonl, tokenizer/ (tiny recipes), manifest.json last.

    Raises UserError where the data that it would replace are those of a trained model.
    """
    inputs = Inputs.of(recipe, run)
    manifest = run.data / "manifest.json"
    with run.locked("build"):
        if is_up_to_date(manifest, inputs.fingerprint):
            print(f"build: {run.data} is up to date", file=sys.stderr)
            return
        with run.locked("train"):  # one that goes on has read these data
            refuse_where_trained(run)
            manifest.unlink(missing_ok=True)
            remove_leftovers(run)
        job = Job(recipe, run, inputs.benchmark, inputs.sources, inputs.interpreter)
        try:
            table = job.collect()
            table.drop_duplicates(job.drops)
            job.train_tokenizer(table)
            job.measure(table)
            job.mix(table, inputs.weights)
            validates = job.split(table)
            facts = job.write(table, validates) | {"fingerprint": inputs.fingerprint}
        finally:
            shutil.rmtree(run.data / WORK, ignore_errors=True)
        add_provenance(run, "build", facts)
        write_json(manifest, facts)
    print(
        f"build: {facts['num_train']} samples to train on, {facts['num_val']} to validate on,"
        f" dropped: {job.drops.line()}",
        file=sys.stderr,
    )


def remove_leftovers(run: RunFolder) -> None:
    """What a killed build left half written, which a new one must not take for its own, and what
    was made of the data that it replaces: token ids, and a random model with its tokenizer."""
    for folder in (run.data / "tokenizer", run.data / "tokens", run.base_model):
        if not folder.is_symlink():
            shutil.rmtree(folder, ignore_errors=True)
    for half in run.data.glob(".*.partial"):
        half.unlink()


class Job:
    """One build: what is known while the samples pass."""

    def __init__(
        self,
        recipe: Recipe,
        run: RunFolder,
        benchmark: Benchmark,
        sources: list[Source],
        interpreter: Path,
    ) -> None:
        self.recipe, self.run, self.benchmark = recipe, run, benchmark
        self.sources, self.interpreter = sources, interpreter
        self.drops = Drops()
        self.overlaps: list[tuple[str, str, str]] = []
        self.servers: list[Server] = []
        self.candidates: list[ServerPrediction] = []
        self.writer: ScenarioWriter | None = None
        if recipe.data.scenarios == "teacher":
            assert recipe.data.teacher is not None
            memory = run.data / "scenarios.jsonl"
            self.writer = ScenarioWriter(recipe, recipe.data.teacher, memory)
        folder = resolve_path(recipe.data.servers) if recipe.data.servers else None
        self.held_out = HeldOut.of(benchmark, gold_tool_names(benchmark.path), folder)

    def collect(self) -> Table:
        """Samples of servers, each of which was run, then those of trajectories."""
        samples = self._server_samples()
        try:
            with Table(self.run.data / WORK / "samples.jsonl") as table:
                for sample in samples:
                    table.add(sample, conversation_digest(sample))
                for source in self.sources:
                    if not source.has_servers:
                        self._add_chats(source, table)
        except OSError as error:
            raise disk_error(error, self.run.data) from error
        return table

    def _server_samples(self) -> list[ChatSample]:
        recipe, memory = self.recipe, self.run.data
        runtime = runtime_digest(self.interpreter)
        with Workshop(self.interpreter, recipe.score) as workshop:
            pairs = gather(recipe, self.benchmark, self.sources, self.drops)
            if teacher.SOURCE in recipe.data.sources:
                self.candidates, more = teacher.candidates(
                    recipe, self.benchmark, workshop, memory / "teacher.jsonl", self.drops
                )
                pairs += more
            verifier = Verifier(self.benchmark.path, workshop, runtime, memory / "verified.jsonl")
            servers = servers_of(
                recipe,
                pairs,
                self.held_out,
                verifier,
                self.writer or by_template,
                self.drops,
                self.overlaps,
            )
            if recipe.data.teacher is not None:
                servers = teacher.most_diverse(servers, recipe.data.teacher, self.drops)
            self.servers = servers
            repairer = Repairer(
                workshop,
                runtime,
                memory / "tried.jsonl",
                verifier.trial_calls,
                self.drops,
            )
            return samples_of(servers, recipe.data.kinds, repairer, recipe.seed)

    def _add_chats(self, source: Source, table: Table) -> None:
        make = partial(Examiner, source, self.held_out, self.recipe.data.overlap == "exclude")
        for found in ordered_map(make, chunks(source), self.recipe.data.num_processes):
            for drop in found.drops:
                self.drops.add(*drop)
            self.overlaps += found.overlaps
            for line, sample_id, digest_, signature in zip(
                found.lines, found.ids, found.digests, found.signatures, strict=True
            ):
                table.add_line(line, sample_id, source.label, "trajectory", digest_, signature)

    def train_tokenizer(self, table: Table) -> None:
        """A random-weight model's tokenizer is trained on what it will read."""
        random = self.recipe.model.random
        if random is None:
            return
        if not table.kept.any():
            raise self.nothing_left()
        samples = (ChatSample.from_line(line) for _, line in table.lines())
        train_tokenizer(
            (render(sample.messages, sample.tools) for sample in samples),
            random.vocab_size,
            self.run.data / "tokenizer",
            self.recipe.train.thinking,
            self.recipe.model.max_position_embeddings,
            self.recipe.train.loss_on,
        )

    def measure(self, table: Table) -> None:
        """Tokens of every sample, as training will see them."""
        rows_of_chunks: list[list[int]] = []

        def line_chunks() -> Iterator[list[str]]:
            lines = table.lines()
            while chunk := list(islice(lines, LINES_PER_CHUNK)):
                rows_of_chunks.append([row for row, _ in chunk])
                yield [line for _, line in chunk]

        folder = resolve_tokenizer(self.recipe, self.run)
        make = partial(Measurer, folder, self.recipe.train)
        for measured in ordered_map(make, line_chunks(), self.recipe.data.num_processes):
            table.measure(rows_of_chunks.pop(0), measured, self.recipe.data.max_tokens, self.drops)

    def mix(self, table: Table, weights: dict[str, float]) -> None:
        """Hold the sources' shares: what is too much of a source is left out, by digest."""
        if not weights:
            return
        available = table.counts(table.sources)
        for name, weight in weights.items():
            if weight > 0 and not available[name]:
                raise UserError(
                    "data.weights",
                    f"{name}: {weight:g}",
                    f"no sample of this source is left (dropped: {self.drops.line()})",
                    "mend the source, or take it out of data.weights and data.sources",
                )
        quota = largest_mixture({name: available[name] for name in weights}, weights)
        for name, count in quota.items():
            rows_ = [
                row for row in np.flatnonzero(table.kept).tolist() if table.sources[row] == name
            ]
            chosen = take([table.digest(row) for row in rows_], count, self.recipe.seed)
            for row in rows_:
                if table.digest(row) not in chosen:
                    table.drop(int(row), "left out to hold the weights", self.drops)

    def split(self, table: Table) -> NDArray[np.bool_]:
        """Which rows validate: whole servers by domain, trajectories one by one, by digest."""
        share, seed = self.recipe.data.val_share, self.recipe.seed
        kept_scenarios = {
            table.scenarios[row] for row in np.flatnonzero(table.kept) if table.scenarios[row]
        }
        strata = {
            server.pair.slug: server.pair.primary_label
            for server in self.servers
            if server.pair.slug in kept_scenarios
        }
        groups = validation_groups(strata, share, seed)
        validates = np.zeros(len(table), dtype=np.bool_)
        for row in np.flatnonzero(table.kept).tolist():
            scenario = table.scenarios[row]
            if scenario is not None:
                validates[row] = scenario in groups
            elif share:
                validates[row] = int(rank(seed, table.digest(row))[:12], 16) < share * 16**12
        if not (table.kept & ~validates).any():
            raise self.nothing_left()
        return validates

    def write(self, table: Table, validates: NDArray[np.bool_]) -> dict[str, Json]:
        """The samples and the report about them; the manifest's facts are what it returns."""
        data = self.run.data
        summary = report.summarise(
            self.recipe,
            table,
            validates,
            self.servers,
            self.sources,
            self.drops,
            self.overlaps,
            len(self.benchmark.held_out),
        )
        if self.candidates:
            summary["teacher"] = teacher.yields(self.candidates, self.servers)
        if self.writer:
            summary["scenario_writer"] = self.writer.facts()
        report.write(self.recipe, data, summary, report.examples(self.recipe, table))
        for name, wanted in (("train", False), ("val", True)):
            chosen = (line for row, line in table.lines() if validates[row] == wanted)
            write_lines(data / f"{name}.jsonl", chosen)
        written = [data / name for name in OUTPUTS]
        return {
            "benchmark_digest": self.benchmark.digest,
            "num_train": summary["num_train"],
            "num_val": summary["num_val"],
            "drops": self.drops.counts,
            "sources": summary["sources"],
            "scenarios": summary["scenarios"],
            "overlapping_held_out": summary["overlap"]["held_out"],
            "files": {
                str(path.relative_to(data)): sha256_file(path)
                for path in (*written, *sorted((data / "tokenizer").glob("*")))
            },
        }

    def nothing_left(self) -> UserError:
        return UserError(
            "data.sources",
            ", ".join(self.recipe.data.sources),
            f"no sample is left to train on (dropped: {self.drops.line()})",
            "mend the sources, or set data.overlap=report if the overlap is meant",
        )
