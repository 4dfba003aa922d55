"""A benchmark of a few servers of data/mini, in a folder that a test may change."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from toolgenesis_sft.config import Recipe, load_recipe
from toolgenesis_sft.corpus.build import build
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
                "data.max_tokens=4096",
                "data.kinds={server: 0.4, schema: 0.2, schema_to_server: 0.2, repair: 0.2}",
                *overrides,
            ),
        )

    def write_splits(self, train: tuple[str, ...], held_out: tuple[str, ...]) -> None:
        splits = {"train": list(train), "held_out": list(held_out)}
        self.benchmark.with_name("splits.json").write_text(json.dumps(splits))


def mini_items() -> dict[str, dict[str, Any]]:
    items = json.loads((MINI / "benchmark.json").read_text(encoding="utf-8"))
    return {item["server_slug"]: item for item in items}


PROGRAM = """
import sys
from pathlib import Path
from toolgenesis_sft.config import Recipe
from toolgenesis_sft.corpus.build import build
from toolgenesis_sft.runs import RunFolder
build(Recipe.model_validate_json(sys.argv[1]), RunFolder(Path(sys.argv[2])))
"""


def start_build(recipe: Recipe, run: RunFolder) -> subprocess.Popen[bytes]:
    """A build in a process of its own, for a test to kill."""
    command = [sys.executable, "-c", PROGRAM, recipe.model_dump_json(), str(run.root)]
    return subprocess.Popen(command, stderr=subprocess.DEVNULL, cwd=ROOT)


def wait_for(what: Callable[[], bool], limit_s: float = 120) -> None:
    deadline = time.monotonic() + limit_s
    while not what():
        assert time.monotonic() < deadline, "it never came"
        time.sleep(0.02)


@pytest.fixture(scope="session")
def built(tmp_path_factory: pytest.TempPathFactory) -> tuple[Workbench, RunFolder]:
    """A finished build of all four kinds. Tests read it; whoever changes it makes another."""
    bench = make_workbench(tmp_path_factory.mktemp("corpus") / "bench")
    build(bench.recipe(), bench.run())
    return bench, bench.run()


@pytest.fixture
def bench(tmp_path: Path, built: tuple[Workbench, RunFolder]) -> Workbench:
    """A workbench of the test's own. What the sandbox said about its servers is known already, so
    only servers that the test changes or adds are run."""
    bench = make_workbench(tmp_path / "bench")
    data = bench.run().data
    data.mkdir(parents=True)
    for name in ("verified.jsonl", "tried.jsonl"):
        shutil.copy(built[1].data / name, data)
    return bench


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
