"""Hours to score a campaign of checkpoints on clusters of several sizes, from measured costs.

    python benchmarks/simulate_campaign.py [--checkpoints 100] [--servers 86] [--samples 16]
        [--cores 2 64 1024] [--cores-a-task 16] [--share-hanging 0.02] [--costs FILE]
        [--seed 0] [--json]

Costs are measured first, on one core: all layers of each reference server of data/mini, a server
that hangs, and the start of a worker. --costs takes them from a file instead:
{"server_s": [...], "hanging_s": x, "start_s": y}.

Assumed: the benchmark's servers cost what these cost, drawn at random; every sample of a server
costs the same, but for a share that hangs; a core of the cluster is as fast as this one and does
one server at a time; starting a worker costs what it costs here; no core fails; nobody judges.

Four ways are compared:
    array     a checkpoint after the other; servers are dealt to tasks of some cores each, and a
              task's cores take its samples one by one (cluster.score_array)
    ray       a checkpoint after the other; a core takes a server, and one that finds none left
              helps with the fullest (score.executor: ray)
    servers   all checkpoints in one queue, by server: many `score` commands on one Ray cluster
    samples   all checkpoints in one queue, by sample: no way of ours, as good as it gets
The tail is the time from the first core that finds nothing left to do until the end.
"""

from __future__ import annotations

import argparse
import heapq
import json
import random
import tempfile
import time
from collections import deque
from collections.abc import Iterable
from itertools import chain
from pathlib import Path
from typing import NamedTuple

from toolgenesis_sft.benchmark import load_answer_keys
from toolgenesis_sft.config import Score, server_python
from toolgenesis_sft.records import ServerPrediction
from toolgenesis_sft.scoring.job import ScoreJob
from toolgenesis_sft.scoring.worker import Kit, Worker

MINI = Path(__file__).resolve().parent.parent / "data" / "mini"
HANGING = "import time\ntime.sleep(3600)\n"
WAYS = ("array", "ray", "servers", "samples")


class Costs(NamedTuple):
    """Seconds of one core: of each measured server, of one that hangs, of a worker's start."""

    server_s: list[float]
    hanging_s: float
    start_s: float


class Span(NamedTuple):
    """A schedule's end, and its tail."""

    end_s: float
    tail_s: float


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--checkpoints", type=int, default=100)
    parser.add_argument("--servers", type=int, default=86)
    parser.add_argument("--samples", type=int, default=16)
    parser.add_argument("--cores", type=int, nargs="+", default=[2, 64, 1024])
    parser.add_argument("--cores-a-task", type=int, default=16)
    parser.add_argument("--share-hanging", type=float, default=0.02)
    parser.add_argument("--costs", type=Path)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--json", action="store_true")
    options = parser.parse_args()
    costs = Costs(**json.loads(options.costs.read_bytes())) if options.costs else measured()
    campaign = draw(costs, options)
    work_s = sum(seconds for checkpoint in campaign for server in checkpoint for seconds in server)
    spans = {
        (way, cores): schedule(way, campaign, cores, options.cores_a_task, costs.start_s)
        for way in WAYS
        for cores in options.cores
    }
    if options.json:
        answer = {f"{way} {cores}": span._asdict() for (way, cores), span in spans.items()}
        print(json.dumps({"work_s": work_s, "costs": costs._asdict(), "spans": answer}))
        return
    print(
        f"costs: {len(costs.server_s)} servers, {min(costs.server_s):.2f} to"
        f" {max(costs.server_s):.2f} s, mean {sum(costs.server_s) / len(costs.server_s):.2f} s;"
        f" one that hangs {costs.hanging_s:.1f} s; start of a worker {costs.start_s:.1f} s"
    )
    print(
        f"campaign: {options.checkpoints} checkpoints x {options.servers} servers x"
        f" {options.samples} samples, {options.share_hanging:.0%} hang:"
        f" {work_s / 3600:.1f} core hours"
    )
    heads = (f"{f'{cores} cores: h':>18}{'busy':>7}{'tail s':>8}" for cores in options.cores)
    print(f"{'way':<8}{''.join(heads)}")
    for way in WAYS:
        cells = ""
        for cores in options.cores:
            span = spans[way, cores]
            busy = work_s / cores / span.end_s
            cells += f"{span.end_s / 3600:>18.2f}{busy:>7.0%}{span.tail_s:>8.0f}"
        print(f"{way:<8}{cells}")


def measured() -> Costs:
    """One worker scores each reference server, and one that hangs."""
    with tempfile.TemporaryDirectory() as folder:
        benchmark = MINI / "benchmark.json"
        job = ScoreJob.of_folder(benchmark, MINI / "servers", Path(folder), Score())
        keys = load_answer_keys(benchmark)
        started = time.perf_counter()
        worker = Worker(Kit.of(job, keys, server_python(None)))
        score_s(worker, next(iter(keys)), "")  # loads what the first server makes it load
        start_s = time.perf_counter() - started
        server_s = [
            score_s(worker, slug, (MINI / "servers" / f"{slug}.py").read_text(encoding="utf-8"))
            for slug in keys
        ]
        return Costs(server_s, score_s(worker, next(iter(keys)), HANGING), start_s)


def score_s(worker: Worker, slug: str, code: str) -> float:
    prediction = ServerPrediction(
        slug=slug, model="m", strategy="imported", completion=code, finish_reason="stop"
    )
    started = time.perf_counter()
    worker.score(prediction)
    return time.perf_counter() - started


Checkpoint = list[list[float]]
"""Seconds by server and sample."""


def draw(costs: Costs, options: argparse.Namespace) -> list[Checkpoint]:
    chance = random.Random(options.seed)
    of_server = [chance.choice(costs.server_s) for _ in range(options.servers)]
    return [
        [
            [
                costs.hanging_s if chance.random() < options.share_hanging else seconds
                for _ in range(options.samples)
            ]
            for seconds in of_server
        ]
        for _ in range(options.checkpoints)
    ]


def schedule(
    way: str, campaign: list[Checkpoint], cores: int, cores_a_task: int, start_s: float
) -> Span:
    everything = [server for checkpoint in campaign for server in checkpoint]
    if way == "servers":
        return in_line([sum(server) for server in everything], cores, start_s)
    if way == "samples":
        return in_line(chain.from_iterable(everything), cores, start_s)
    each = [
        helping(checkpoint, cores, start_s)
        if way == "ray"
        else dealt(checkpoint, cores, cores_a_task, start_s)
        for checkpoint in campaign
    ]
    return Span(sum(span.end_s for span in each), sum(span.tail_s for span in each))


def dealt(servers: Checkpoint, cores: int, cores_a_task: int, start_s: float) -> Span:
    """Each task has every n-th server, as score.shard deals them."""
    num_tasks = max(1, cores // cores_a_task)
    tasks = [
        in_line(chain.from_iterable(servers[task::num_tasks]), cores // num_tasks, start_s)
        for task in range(num_tasks)
    ]
    end_s = max(task.end_s for task in tasks)
    return Span(end_s, end_s - min(task.end_s - task.tail_s for task in tasks))


def in_line(pieces: Iterable[float], cores: int, start_s: float) -> Span:
    """List scheduling: the next piece goes to the core that is free first."""
    free = [start_s] * cores
    for seconds in pieces:
        heapq.heapreplace(free, free[0] + seconds)
    return Span(max(free), max(free) - min(free))


def helping(servers: Checkpoint, cores: int, start_s: float) -> Span:
    """As scoring/on_ray.py gives out work: the rest of a core's own server, a new one, a share in
    the fullest."""
    waiting = deque(deque(server) for server in servers)
    free = [(start_s, core) for core in range(cores)]
    own: dict[int, deque[float]] = {}
    ends = []
    while free:
        now, core = heapq.heappop(free)
        if not own.get(core) and waiting:
            own[core] = waiting.popleft()
        source = own.get(core) or max(own.values(), key=len, default=deque())
        if source:
            heapq.heappush(free, (now + source.popleft(), core))
        else:
            ends.append(now)
    return Span(max(ends), max(ends) - min(ends))


if __name__ == "__main__":
    main()
