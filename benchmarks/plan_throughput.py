"""Seconds to plan an epoch, and how full its rows are, beside a naive packer.

    python benchmarks/plan_throughput.py [--samples 1000000] [--naive-samples 20000]

Lengths are log-normal with a mean of 2,500 tokens and a long tail, rows have 16,384 tokens. The
naive packer is first-fit decreasing over the whole data set with a linear search for a row: it
needs time quadratic in the number of samples and gives up the seed's order.
"""

from __future__ import annotations

import argparse
import time

import numpy as np
from numpy.typing import NDArray

from toolgenesis_sft.training.packing import Order, OrderSettings

ROW_TOKENS = 16_384


def lengths_of(num_samples: int) -> NDArray[np.int64]:
    drawn = np.random.default_rng(0).lognormal(0.0, 0.8, num_samples)
    return np.clip(drawn / drawn.mean() * 2500, 50, ROW_TOKENS).astype(np.int64)


def first_fit_decreasing(lengths: NDArray[np.int64]) -> int:
    """The number of rows that the naive packer needs."""
    free: list[int] = []
    for length in sorted(lengths.tolist(), reverse=True):
        for row, left in enumerate(free):
            if left >= length:
                free[row] = left - length
                break
        else:
            free.append(ROW_TOKENS - length)
    return len(free)


def plan_epoch(num_samples: int, unit: str, size: int, world_size: int) -> tuple[float, float]:
    """(seconds to plan every step of an epoch, fill of its rows, empty ones included)."""
    lengths = lengths_of(num_samples)
    started = time.perf_counter()
    settings = OrderSettings(0, 1, size, unit, ROW_TOKENS, packing=True)  # type: ignore[arg-type]
    order = Order(lengths, lengths, settings, world_size)
    steps = [order.step(step) for step in range(order.num_steps)]
    seconds = time.perf_counter() - started
    num_rows = sum(step.num_micro_steps for step in steps) * world_size
    return seconds, float(lengths.sum()) / (num_rows * ROW_TOKENS)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--samples", type=int, default=1_000_000)
    parser.add_argument("--naive-samples", type=int, default=20_000)
    options = parser.parse_args()
    print(f"{'packer':34} {'samples':>10} {'seconds':>8} {'fill':>7}")
    for count in sorted({options.naive_samples, options.samples}):
        for unit, size in (("tokens", 2**20), ("tokens", 2**17), ("samples", 64)):
            seconds, fill = plan_epoch(count, unit, size, world_size=8)
            name = f"planned, {size:,} {unit} a step"
            print(f"{name:34} {count:10,} {seconds:8.2f} {fill:7.2%}", flush=True)
    lengths = lengths_of(options.naive_samples)
    started = time.perf_counter()
    rows = first_fit_decreasing(lengths)
    seconds = time.perf_counter() - started
    fill = float(lengths.sum()) / (rows * ROW_TOKENS)
    print(f"{'naive first-fit decreasing':34} {len(lengths):10,} {seconds:8.2f} {fill:7.2%}")


if __name__ == "__main__":
    main()
