"""Servers a minute of the scorer, beside the naive way, in one run on one machine.

    python benchmarks/score_throughput.py [--servers 200] [--naive-servers 12] [--workers 1 2]

Both ways start each server three times and run all of its unit tests, each test of a stateful
server on a process of its own. The reference servers of data/mini are the predictions, repeated.
Ours (layers 1 and 2, sandbox on, its start included) also matches schemas and scores the answers.
The naive way is the MCP SDK's stdio client: a cold process for each start and each stateful test,
one after the other, no sandbox, nothing scored. It runs a sample of the servers, spread evenly
over classes and numbers of tests; its rate is that sample's.
"""

from __future__ import annotations

import argparse
import asyncio
import os
import statistics
import sys
import tempfile
import time
from pathlib import Path

from mcp import ClientSession, StdioServerParameters
from mcp.client.stdio import stdio_client

import toolgenesis_sft
from toolgenesis_sft.benchmark import load_answer_keys, load_benchmark
from toolgenesis_sft.config import Score, server_python
from toolgenesis_sft.records import AnswerKey, LayerScores, Scenario, ServerPrediction
from toolgenesis_sft.runs import read_records
from toolgenesis_sft.sandbox.session import Sandbox
from toolgenesis_sft.scoring.job import ScoreJob
from toolgenesis_sft.scoring.score import score_predictions

MINI = Path(__file__).resolve().parent.parent / "data" / "mini"
SHIM = Path(toolgenesis_sft.__file__).parent / "sandbox" / "shim"
RUN_APP = """
import runpy, sys
from src.apps import App
runpy.run_path(sys.argv[1])
App.__subclasses__()[0](spec={})._initialize_mcp_server().run()
"""
LAUNCH_ATTEMPTS = 3
WARM_STARTS = 40


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--servers", type=int, default=200)
    parser.add_argument("--naive-servers", type=int, default=12)
    parser.add_argument("--workers", type=int, nargs="+", default=[1, 2])
    options = parser.parse_args()
    scenarios = load_benchmark(MINI / "benchmark.json").scenarios
    keys = load_answer_keys(MINI / "benchmark.json")
    print(f"{os.cpu_count()} cores, load {os.getloadavg()[0]:.1f} before the run")

    naive_s, num_tests = naive_way(sample(scenarios, keys, options.naive_servers), keys)
    naive_rate = options.naive_servers / naive_s * 60
    print(
        f"naive way: {naive_rate:.1f} servers/min, {num_tests / naive_s:.1f} tests/s"
        f" (measured on {options.naive_servers} servers, {naive_s:.0f} s)"
    )
    with tempfile.TemporaryDirectory() as folder:
        predictions = Path(folder) / "predictions.jsonl"
        write_predictions(scenarios, options.servers, predictions)
        for workers in options.workers:
            out = Path(folder) / f"workers{workers}"
            settings = Score(layers=("L1", "L2"), launch_attempts=LAUNCH_ATTEMPTS, workers=workers)
            started = time.perf_counter()
            score_predictions(
                ScoreJob.of_folder(MINI / "benchmark.json", predictions, out, settings)
            )
            ours_s = time.perf_counter() - started
            records = read_records(out / "scores.jsonl", LayerScores)
            wrong = [r.slug for r in records if r.figures["ut_hard"].value != 1.0]
            assert not wrong, f"reference servers must pass their own tests: {wrong}"
            num_tests = sum(int(record.details["num_unit_tests"] or 0) for record in records)
            rate = len(records) / ours_s * 60
            print(
                f"ours, {workers} worker{'s' if workers > 1 else ''}: {rate:.1f} servers/min,"
                f" {num_tests / ours_s:.1f} tests/s, {rate / naive_rate:.1f} times the naive way"
                f" ({len(records)} servers, {ours_s:.0f} s)"
            )
    starts = warm_starts(scenarios, keys)
    print(
        f"launch to first answer, warm: median {statistics.median(starts):.0f} ms,"
        f" 90th percentile {statistics.quantiles(starts, n=10)[-1]:.0f} ms"
    )


def source(slug: str) -> Path:
    return MINI / "servers" / f"{slug}.py"


def sample(
    scenarios: tuple[Scenario, ...], keys: dict[str, AnswerKey], size: int
) -> list[Scenario]:
    """Evenly spread over the servers sorted by class and number of tests."""
    ordered = sorted(scenarios, key=lambda s: (s.server_class, len(keys[s.slug].unit_tests)))
    return [ordered[(2 * index + 1) * len(ordered) // (2 * size)] for index in range(size)]


def write_predictions(scenarios: tuple[Scenario, ...], count: int, path: Path) -> None:
    with path.open("w", encoding="utf-8") as file:
        for index in range(count):
            slug = scenarios[index % len(scenarios)].slug
            prediction = ServerPrediction(
                slug=slug,
                model="reference",
                strategy="imported",
                sample_index=index // len(scenarios),
                completion=source(slug).read_text(encoding="utf-8"),
                finish_reason="stop",
            )
            file.write(prediction.to_line())


def naive_way(chosen: list[Scenario], keys: dict[str, AnswerKey]) -> tuple[float, int]:
    """(seconds, unit tests run)."""
    started = time.perf_counter()
    num_tests = sum(asyncio.run(naively(scenario, keys[scenario.slug])) for scenario in chosen)
    return time.perf_counter() - started, num_tests


async def naively(scenario: Scenario, key: AnswerKey) -> int:
    path = source(scenario.slug)
    is_program = "__main__" in path.read_text(encoding="utf-8")
    server = StdioServerParameters(
        command=str(server_python(None)),
        args=[str(path)] if is_program else ["-c", RUN_APP, str(path)],
        env={"PYTHONPATH": str(SHIM)},
    )
    for _ in range(LAUNCH_ATTEMPTS):
        await call_cold(server, [])
    calls = [(test.tool, test.arguments or {}) for test in key.unit_tests]
    if scenario.server_class == "stateful":
        for call in calls:
            await call_cold(server, [call])
    else:
        await call_cold(server, calls)
    return len(calls)


async def call_cold(
    server: StdioServerParameters, calls: list[tuple[str, dict[str, object]]]
) -> None:
    with Path(os.devnull).open("w") as nowhere:
        async with (
            stdio_client(server, errlog=nowhere) as (reads, writes),
            ClientSession(reads, writes) as session,
        ):
            await session.initialize()
            await session.list_tools()
            for tool, arguments in calls:
                await session.call_tool(tool, arguments)


def warm_starts(scenarios: tuple[Scenario, ...], keys: dict[str, AnswerKey]) -> list[float]:
    """Milliseconds from the program's text to its first tool's answer, one server at a time."""
    times: list[float] = []
    with Sandbox(server_python(None)) as sandbox:
        for index in range(WARM_STARTS + 1):
            slug = scenarios[index % len(scenarios)].slug
            test = keys[slug].unit_tests[0]
            code = source(slug).read_text(encoding="utf-8")
            started = time.perf_counter()
            with sandbox.start(code) as server:
                server.list_tools()
                server.call(test.tool, test.arguments or {})
                times.append((time.perf_counter() - started) * 1000)
    return times[1:]  # the first one warms the zygote's pages


if __name__ == "__main__":
    sys.exit(main())
