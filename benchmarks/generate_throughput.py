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
from typing import NamedTuple

import httpx

from toolgenesis_sft.client import ModelClient, message_body
from toolgenesis_sft.prompts import direct_messages
from toolgenesis_sft.records import Scenario

SERVER = Path(__file__).resolve().parent.parent / "tests" / "generation" / "scripted_server.py"
CONCURRENCY = (1, 8, 64)
SCENARIO = Scenario(slug="any", prompt="word " * 500, digest="")
Ask = Callable[[], Awaitable[int]]


class Rate(NamedTuple):
    requests_s: float
    tokens_s: float
    cpu_ms: float  # of the client's process, a request


async def timed(ask: Ask, num_requests: int, concurrency: int) -> Rate:
    """How fast this many workers are that ask one after the other."""
    left = iter(range(num_requests))
    num_tokens: list[int] = []

    async def work() -> None:
        for _ in left:
            num_tokens.append(await ask())

    started, cpu_started = time.perf_counter(), time.process_time()
    await asyncio.gather(*(work() for _ in range(concurrency)))
    elapsed_s, cpu_s = time.perf_counter() - started, time.process_time() - cpu_started
    return Rate(num_requests / elapsed_s, sum(num_tokens) / elapsed_s, 1e3 * cpu_s / num_requests)


async def ours(url: str, num_requests: int, concurrency: int) -> Rate:
    async with ModelClient(url, "scripted", concurrency=concurrency) as client:

        async def ask() -> int:
            messages = direct_messages(SCENARIO)
            answer = await client.complete(messages, max_tokens=4096, temperature=0.2, seed=0)
            return answer.num_completion_tokens

        return await timed(ask, num_requests, concurrency)


async def bare(url: str, num_requests: int, concurrency: int) -> Rate:
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
            print("concurrency  client  requests/s   tokens/s  CPU ms/request")
            for concurrency in CONCURRENCY:
                rates: dict[str, list[Rate]] = {"bare": [], "ours": []}
                for _ in range(options.rounds):
                    for name, client in (("bare", bare), ("ours", ours)):
                        rates[name].append(asyncio.run(client(url, options.requests, concurrency)))
                for name, results in rates.items():
                    requests_s, tokens_s, cpu_ms = map(
                        statistics.median, zip(*results, strict=True)
                    )
                    print(
                        f"{concurrency:>11} {name:>7} {requests_s:>11,.0f} {tokens_s:>10,.0f}"
                        f" {cpu_ms:>15.3f}"
                    )
                pairs = list(zip(rates["ours"], rates["bare"], strict=True))
                speed = statistics.median(
                    mine.requests_s / other.requests_s for mine, other in pairs
                )
                cpu = statistics.median(mine.cpu_ms / other.cpu_ms for mine, other in pairs)
                print(f"{'':>11} ratio of requests/s {speed:.3f}, of CPU time {cpu:.3f}")
        finally:
            server.terminate()


if __name__ == "__main__":
    main()
