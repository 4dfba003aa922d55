"""Where pairs of scenario and server come from."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from toolgenesis_sft.benchmark import Benchmark
from toolgenesis_sft.config import Recipe, resolve_path
from toolgenesis_sft.errors import UserError
from toolgenesis_sft.records import Scenario


@dataclass(frozen=True)
class Pair:
    """A scenario and a server that claims to answer it; nothing is verified yet."""

    scenario: Scenario
    code: str
    source: str
    licence: str

    @property
    def slug(self) -> str:
        return self.scenario.slug


def benchmark_pairs(recipe: Recipe, benchmark: Benchmark) -> Iterator[Pair]:
    """The train split of the benchmark with its reference servers, one <slug>.py each."""
    if recipe.data.servers is None:
        raise UserError(
            "data.servers", "", "is needed by the source `benchmark`", "name the folder of servers"
        )
    folder = resolve_path(recipe.data.servers)
    if not folder.is_dir():
        raise UserError(
            "data.servers", str(folder), "is no folder", "give the folder that holds <slug>.py"
        )
    by_slug = {scenario.slug: scenario for scenario in benchmark.scenarios}
    if not benchmark.train:
        raise UserError(
            "benchmark",
            str(benchmark.path),
            "has no training split, so there is nothing to train on",
            "write splits.json beside it: {\"train\": [slugs], \"held_out\": [slugs]}",
        )
    for slug in benchmark.train:
        path = folder / f"{slug}.py"
        if not path.exists():
            raise UserError(
                "data.servers",
                str(path),
                f"the training scenario {slug} has no server",
                "add the file, or take the slug out of splits.json",
            )
        yield Pair(by_slug[slug], read_server(path), benchmark.path.parent.name, "Apache-2.0")


def read_server(path: Path) -> str:
    try:
        return path.read_text(encoding="utf-8")
    except UnicodeDecodeError as error:
        raise UserError("server", str(path), "is not UTF-8 text", "mend the file") from error
