"""Requests/s and tokens/s of the project's client beside a bare httpx client, same server, one run.

    python benchmarks/generate_throughput.py [--requests 400] [--tokens 600] [--rounds 15]

Both send the same body, ask for log-probabilities, and take text, tokens and mean log-probability
from the answer; both use the same HTTP library with as many connections as requests in flight. The
bare one does nothing else: no retries, no deadline of the whole request, no cap, no accounting.
The server (tests/generation/scripted_server.py, a process of its own) answers at once, so what is
measured is the client alone, which is harsher than any model; the last row has a server that takes
`--delay-s` for an answer. Short rounds alternate, each side first in every other one, and medians
of their ratios are taken. Goal: ours reaches at least 95 % of the bare client.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import statistics
import subprocess
import sys
import time
from collections.abc import Awaitable, Callable, Iterator
from pathlib import Path
from typing import Any, NamedTuple

import httpx

from toolgenesis_sft.chat_protocol import message_body
from toolgenesis_sft.client import ModelClient
from toolgenesis_sft.prompts import direct_messages
from toolgenesis_sft.records import Scenario

SERVER = Path(__file__).resolve().parent.parent / "tests" / "generation" / "scripted_server.py"
CONCURRENCY = (1, 8, 64)
SCENARIO = Scenario(slug="any", prompt="word " * 500, digest="")
SAMPLING: dict[str, Any] = {"max_tokens": 4096, "temperature": 0.2, "seed": 0, "logprobs": True}
Ask = Callable[[], Awaitable[int]]
Client = Callable[[str, int, int], Awaitable["Rate"]]


class Rate(NamedTuple):
    requests_s: float
    tokens_s: float
    cpu_ms: float  # of the client's process, a request


async def timed(ask: Ask, num_requests: int, concurrency: int) -> Rate:
    """How fast this many workers are that ask one after the other."""
    await asyncio.gather(*(ask() for _ in range(concurrency)))  # connections are open from here on
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
            answer = await client.complete(direct_messages(SCENARIO), **SAMPLING)
            assert answer.text
            assert answer.mean_logprob == -0.25
            return answer.num_completion_tokens

        return await timed(ask, num_requests, concurrency)


async def bare(url: str, num_requests: int, concurrency: int) -> Rate:
    limits = httpx.Limits(max_connections=concurrency, max_keepalive_connections=concurrency)
    async with httpx.AsyncClient(limits=limits, timeout=600, trust_env=False) as client:

        async def ask() -> int:
            messages = [message_body(message) for message in direct_messages(SCENARIO)]
            body = {"model": "scripted", "messages": messages, **SAMPLING}
            response = await client.post(f"{url}/chat/completions", json=body)
            answer = response.raise_for_status().json()
            [choice] = answer["choices"]
            assert choice["message"]["content"]
            logprobs = [token["logprob"] for token in choice["logprobs"]["content"]]
            assert sum(logprobs) / len(logprobs) == -0.25
            return int(answer["usage"]["completion_tokens"])

        return await timed(ask, num_requests, concurrency)


def compare(url: str, label: str, num_requests: int, concurrency: int, rounds: int) -> None:
    clients: dict[str, Client] = {"bare": bare, "ours": ours}
    rates: dict[str, list[Rate]] = {name: [] for name in clients}
    for number in range(rounds):
        for name in sorted(clients, reverse=number % 2 == 1):
            rates[name].append(asyncio.run(clients[name](url, num_requests, concurrency)))
    for name, results in rates.items():
        requests_s, tokens_s, cpu_ms = map(statistics.median, zip(*results, strict=True))
        print(
            f"{label:>9} {concurrency:>11} {name:>7} {requests_s:>11,.0f} {tokens_s:>10,.0f}"
            f" {cpu_ms:>15.3f}"
        )
    pairs = list(zip(rates["ours"], rates["bare"], strict=True))
    speed = statistics.median(mine.requests_s / other.requests_s for mine, other in pairs)
    cpu = statistics.median(mine.cpu_ms / other.cpu_ms for mine, other in pairs)
    print(f"{'':>21} ratio of requests/s {speed:.3f}, of CPU time {cpu:.3f}", flush=True)


@contextlib.contextmanager
def server(num_tokens: int, delay_s: float) -> Iterator[str]:
    """URL of a server that gives everyone the same answer."""
    command = [sys.executable, str(SERVER), "0", str(num_tokens), str(delay_s)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
        try:
            assert process.stdout is not None
            yield f"http://127.0.0.1:{process.stdout.readline().strip()}/v1"
        finally:
            process.terminate()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--requests", type=int, default=400, help="of one round")
    parser.add_argument("--tokens", type=int, default=600)
    parser.add_argument("--rounds", type=int, default=15)
    parser.add_argument("--delay-s", type=float, default=1.0)
    options = parser.parse_args()
    print("   answer concurrency  client  requests/s   tokens/s  CPU ms/request")
    with server(options.tokens, 0.0) as url:
        for concurrency in CONCURRENCY:
            compare(url, "at once", options.requests, concurrency, options.rounds)
    with server(options.tokens, options.delay_s) as url:
        label = f"in {options.delay_s:g} s"
        compare(url, label, options.requests, max(CONCURRENCY), max(3, options.rounds // 5))


if __name__ == "__main__":
    main()
