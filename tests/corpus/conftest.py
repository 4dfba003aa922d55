"""A benchmark of a few servers of data/mini, in a folder that a test may change."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from toolgenesis_sft.config import Recipe, load_recipe
from toolgenesis_sft.runs import RunFolder

ROOT = Path(__file__).resolve().parents[2]
MINI = ROOT / "data" / "mini"
TRAIN = ("triangle-solver", "bowling-scorecard", "bond-pricer", "stockroom")
HELD_OUT = ("molar-mass", "parcel-weights")


@dataclass(frozen=True)
class Workbench:
    """root/benchmark.json, splits.json, tasks.json and servers/<slug>.py."""

    root: Path

    @property
    def benchmark(self) -> Path:
        return self.root / "benchmark.json"

    @property
    def servers(self) -> Path:
        return self.root / "servers"

    def run(self, name: str = "run") -> RunFolder:
        return RunFolder(self.root / "runs" / name)

    def recipe(self, *overrides: str) -> Recipe:
        """recipes/tiny_cpu.yaml on this benchmark; a later override wins."""
        return load_recipe(
            ROOT / "recipes" / "tiny_cpu.yaml",
            (
                f"benchmark={self.benchmark}",
                f"data.servers={self.servers}",
                "data.max_scenarios=null",
                "data.num_processes=1",
                *overrides,
            ),
        )

    def write_splits(self, train: tuple[str, ...], held_out: tuple[str, ...]) -> None:
        splits = {"train": list(train), "held_out": list(held_out)}
        self.benchmark.with_name("splits.json").write_text(json.dumps(splits))


def mini_items() -> dict[str, dict[str, Any]]:
    items = json.loads((MINI / "benchmark.json").read_text(encoding="utf-8"))
    return {item["server_slug"]: item for item in items}


@pytest.fixture
def bench(tmp_path: Path) -> Workbench:
    return make_workbench(tmp_path / "bench")


@pytest.fixture(scope="session")
def make_bench(tmp_path_factory: pytest.TempPathFactory) -> Callable[[], Workbench]:
    return lambda: make_workbench(tmp_path_factory.mktemp("bench"))


def make_workbench(root: Path) -> Workbench:
    bench = Workbench(root)
    bench.servers.mkdir(parents=True)
    items = mini_items()
    chosen = [items[slug] for slug in (*TRAIN, *HELD_OUT)]
    bench.benchmark.write_text(json.dumps(chosen), encoding="utf-8")
    bench.write_splits(TRAIN, HELD_OUT)
    for slug in (*TRAIN, *HELD_OUT):
        shutil.copy(MINI / "servers" / f"{slug}.py", bench.servers)
    return bench
