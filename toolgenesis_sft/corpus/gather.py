"""The pairs of all sources that hold servers, in the recipe's order."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import replace

from toolgenesis_sft.benchmark import Benchmark, load_benchmark
from toolgenesis_sft.config import Recipe, resolve_path
from toolgenesis_sft.corpus.drops import Drops, Unfit
from toolgenesis_sft.corpus.pairs import Pair, benchmark_pairs, folder_pairs, row_pair
from toolgenesis_sft.corpus.sources import Source, decoded, rows
from toolgenesis_sft.corpus.transcripts import transcript_pair
from toolgenesis_sft.errors import UserError


def gather(
    recipe: Recipe, benchmark: Benchmark, sources: Sequence[Source], drops: Drops
) -> list[Pair]:
    """Nothing is run yet. Rows that are no pair are counted in `drops`.

    Raises UserError where a source is another benchmark than the recipe's, or lacks a server.
    """
    pairs: list[Pair] = []
    for source in sources:
        entry = source.entry
        if entry.layout == "benchmark":
            if load_benchmark(source.path).digest != benchmark.digest:
                raise UserError(
                    f"source {source.name}",
                    str(source.path),
                    "is another benchmark than the recipe's",
                    "set benchmark: to it, or declare its servers as a source of layout servers",
                )
            folder = resolve_path(entry.servers or "servers")
            pairs += benchmark_pairs(benchmark, folder, source.label, entry.licence)
        elif entry.layout == "servers":
            pairs += folder_pairs(source.path, source.label, entry.licence)
        elif source.has_servers:
            pairs += _of_rows(source, benchmark, drops)
    return pairs


def _of_rows(source: Source, benchmark: Benchmark, drops: Drops) -> Iterator[Pair]:
    """The pairs of a file's rows. A slug that came before gets its row's number beside it: what is
    known of a server is kept by its id."""
    seen: set[str] = set()
    for where, row in rows(source):
        number = where.rpartition(" ")[2]
        facts = (number, source.label, source.entry.licence)
        try:
            if source.entry.layout == "transcripts":
                pair = transcript_pair(decoded(row), benchmark, *facts)
            else:
                pair = row_pair(decoded(row), *facts)
        except Unfit as unfit:
            drops.add(unfit.reason, f"{source.label}: {where}", unfit.detail)
            continue
        if pair.id in seen:
            pair = replace(pair, variant=f"row-{number}")
        seen.add(pair.id)
        yield pair
