"""A benchmark of a few servers of data/mini, and one warm sandbox for a test file."""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import pytest

from tests.generation.scripted_server import Fault, Script, reply
from toolgenesis_sft.config import server_python
from toolgenesis_sft.sandbox.jail import Limits
from toolgenesis_sft.sandbox.session import Sandbox

MINI = Path(__file__).resolve().parent.parent.parent / "data" / "mini"
MakeBenchmark = Callable[..., Path]


def write_benchmark(folder: Path, *slugs: str) -> Path:
    """A benchmark of those servers of data/mini, with their tasks."""
    folder.mkdir()
    items = json.loads((MINI / "benchmark.json").read_bytes())
    chosen = [item for item in items if item["server_slug"] in slugs]
    tasks = json.loads((MINI / "tasks.json").read_bytes())
    (folder / "benchmark.json").write_text(json.dumps(chosen))
    (folder / "tasks.json").write_text(json.dumps({slug: tasks[slug] for slug in slugs}))
    return folder / "benchmark.json"


@pytest.fixture
def make_benchmark(tmp_path: Path) -> MakeBenchmark:
    """make(*slugs) -> the path of a benchmark of those servers."""
    return lambda *slugs: write_benchmark(tmp_path / "benchmark", *slugs)


@pytest.fixture(scope="module")
def sandbox() -> Iterator[Sandbox]:
    with Sandbox(server_python(None), Limits(call_s=3)) as box:
        yield box


def reference(slug: str) -> str:
    return (MINI / "servers" / f"{slug}.py").read_text(encoding="utf-8")


def judge_script(beyond: Sequence[str] = (), rating: int = 5) -> Script:
    """A judge that refuses tools with these words in their block, and rates every task alike.

    It copies the fence from its instructions, as a model does.
    """

    def script(body: dict[str, Any]) -> dict[str, Any] | Fault:
        prompt = body["messages"][-1]["content"]
        verdict = re.search(r"^VERDICT (\w+): within$", prompt, re.MULTILINE)
        if verdict:
            fence = verdict[1]
            tool = prompt.split(f"=== {fence} ===")[4]
            word = "beyond" if any(name in tool for name in beyond) else "within"
            return reply(f"So it is.\nVERDICT {fence}: {word}")
        fence = re.findall(r"^RATING (\w+): N$", prompt, re.MULTILINE)[-1]
        return reply(f"So it is.\nRATING {fence}: {rating}")

    return script
