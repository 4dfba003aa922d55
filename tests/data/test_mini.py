"""data/mini is what its own rules say, and its recorded answers are what the servers answer."""

from __future__ import annotations

import ast
import json
import subprocess
import sys
from collections import Counter
from pathlib import Path

import pytest

from toolgenesis_sft.benchmark import load_answer_keys, load_benchmark
from toolgenesis_sft.scoring.boundary import findings

MINI = Path(__file__).resolve().parent.parent.parent / "data" / "mini"
V3_KEYS = {
    "server_id",
    "server_name",
    "server_slug",
    "primary_label",
    "secondary_labels",
    "agent_input_prompt",
    "task_example",
    "tool_definitions",
    "unit_test",
    "server_class",
    "requires_api",
    "sandbox_level",
}
SERVERS = sorted((MINI / "servers").glob("*.py"))


def test_the_recorded_answers_are_what_the_servers_answer_now() -> None:
    done = subprocess.run(
        [sys.executable, "-m", "toolgenesis_sft.corpus.record", str(MINI), "--check"],
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr


def test_it_has_exactly_the_keys_of_the_v3_layout() -> None:
    for item in json.loads((MINI / "benchmark.json").read_bytes()):
        assert set(item) == V3_KEYS


def test_it_is_as_large_and_as_mixed_as_its_card_says() -> None:
    benchmark = load_benchmark(MINI / "benchmark.json")
    assert (len(benchmark.train), len(benchmark.held_out)) == (24, 12)
    assert set(benchmark.train).isdisjoint(benchmark.held_out)
    classes = Counter(scenario.server_class for scenario in benchmark.scenarios)
    assert classes["stateful"] * 3 >= len(benchmark.scenarios)
    assert len({scenario.primary_label for scenario in benchmark.scenarios}) >= 12


def test_every_server_has_tools_tests_and_tasks_enough() -> None:
    for slug, key in load_answer_keys(MINI / "benchmark.json").items():
        assert 2 <= len(key.tools) <= 6, slug
        tests = Counter(test.tool for test in key.unit_tests)
        assert all(tests[tool.name] >= 4 for tool in key.tools), slug
        assert 3 <= len(key.tasks) <= 5, slug
        assert all(task.plan and task.outcome for task in key.tasks), slug
        assert not any(test.unanswerable for test in key.unit_tests), slug


def test_both_import_styles_and_the_benchmarks_convention_occur() -> None:
    codes = [path.read_text(encoding="utf-8") for path in SERVERS]
    assert sum("from src.apps import App" in code for code in codes) >= 4
    assert sum("from mcp.server.fastmcp import FastMCP" in code for code in codes) >= 8
    assert sum("from fastmcp import FastMCP" in code for code in codes) >= 8


@pytest.mark.parametrize("path", SERVERS, ids=lambda path: path.stem)
def test_a_reference_server_needs_nothing_but_computation(path: Path) -> None:
    code = path.read_text(encoding="utf-8")
    assert findings(code) == ()
    imported = {
        (node.module or "").split(".")[0]
        for node in ast.walk(ast.parse(code))
        if isinstance(node, ast.ImportFrom)
    } | {
        alias.name.split(".")[0]
        for node in ast.walk(ast.parse(code))
        if isinstance(node, ast.Import)
        for alias in node.names
    }
    assert not imported & {"random", "time", "uuid", "os", "socket", "subprocess", "secrets"}


def test_no_prompt_gives_a_tools_name_away() -> None:
    keys = load_answer_keys(MINI / "benchmark.json")
    for scenario in load_benchmark(MINI / "benchmark.json").scenarios:
        for tool in keys[scenario.slug].tools:
            assert tool.name not in scenario.prompt, scenario.slug
