"""Requests/s and tokens/s of the project's client beside a bare httpx client, same server, one run.

    python benchmarks/generate_throughput.py [--requests 1500] [--tokens 600] [--rounds 5]

The server (tests/generation/scripted_server.py, a process of its own) answers at once, so what is
measured is the client alone: the worst case, since a model takes seconds. Rounds alternate between
the two, and medians are compared. Goal: ours reaches at least 95 % of the bare client.
"""

from __future__ import annotations

import argparse
import asyncio
import statistics
import subprocess
import sys
import time
from collections.abc import Awaitable, Callable
from pathlib import Path

import httpx

from toolgenesis_sft.client import ModelClient, message_body
from toolgenesis_sft.prompts import direct_messages
from toolgenesis_sft.records import Scenario

SERVER = Path(__file__).resolve().parent.parent / "tests" / "generation" / "scripted_server.py"
CONCURRENCY = (1, 8, 64)
SCENARIO = Scenario(slug="any", prompt="word " * 500, digest="")
Ask = Callable[[], Awaitable[int]]


async def timed(ask: Ask, num_requests: int, concurrency: int) -> tuple[float, float]:
    """Requests/s and tokens/s of this many workers that ask one after the other."""
    left = iter(range(num_requests))
    num_tokens = 0

    async def work() -> None:
        nonlocal num_tokens
        for _ in left:
            num_tokens += await ask()

    started = time.perf_counter()
    await asyncio.gather(*(work() for _ in range(concurrency)))
    elapsed_s = time.perf_counter() - started
    return num_requests / elapsed_s, num_tokens / elapsed_s


async def ours(url: str, num_requests: int, concurrency: int) -> tuple[float, float]:
    async with ModelClient(url, "scripted", concurrency=concurrency) as client:

        async def ask() -> int:
            messages = direct_messages(SCENARIO)
            answer = await client.complete(messages, max_tokens=4096, temperature=0.2, seed=0)
            return answer.num_completion_tokens

        return await timed(ask, num_requests, concurrency)


async def bare(url: str, num_requests: int, concurrency: int) -> tuple[float, float]:
    limits = httpx.Limits(max_connections=concurrency, max_keepalive_connections=concurrency)
    async with httpx.AsyncClient(limits=limits, timeout=600, trust_env=False) as client:

        async def ask() -> int:
            messages = [message_body(message) for message in direct_messages(SCENARIO)]
            body = {"model": "scripted", "messages": messages, "max_tokens": 4096}
            body |= {"temperature": 0.2, "seed": 0}
            answer = await client.post(f"{url}/chat/completions", json=body)
            answer.raise_for_status()
            return int(answer.json()["usage"]["completion_tokens"])

        return await timed(ask, num_requests, concurrency)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--requests", type=int, default=1500)
    parser.add_argument("--tokens", type=int, default=600)
    parser.add_argument("--rounds", type=int, default=5)
    options = parser.parse_args()
    command = [sys.executable, str(SERVER), "0", str(options.tokens)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as server:
        try:
            assert server.stdout is not None
            url = f"http://127.0.0.1:{server.stdout.readline().strip()}/v1"
            print(
                f"{'concurrency':>11} {'client':>7} {'requests/s':>11} {'tokens/s':>11} {'ratio':>6}"
            )
            for concurrency in CONCURRENCY:
                rates: dict[str, list[tuple[float, float]]] = {"bare": [], "ours": []}
                for _ in range(options.rounds):
                    for name, client in (("bare", bare), ("ours", ours)):
                        result = asyncio.run(client(url, options.requests, concurrency))
                        rates[name].append(result)
                ratios = [
                    mine[0] / other[0]
                    for mine, other in zip(rates["ours"], rates["bare"], strict=True)
                ]
                for name, results in rates.items():
                    requests_s = statistics.median(result[0] for result in results)
                    tokens_s = statistics.median(result[1] for result in results)
                    ratio = f"{statistics.median(ratios):6.2f}" if name == "ours" else ""
                    print(
                        f"{concurrency:>11} {name:>7} {requests_s:>11,.0f} {tokens_s:>11,.0f} {ratio}"
                    )
        finally:
            server.terminate()


if __name__ == "__main__":
    main()
