"""Which samples a step takes, and in which rows of which rank: a pure function of (seed, step).

An epoch is a permutation of the samples. What a step takes from it depends on the seed, the epoch
and the step alone, never on the number of ranks or on whether rows are packed:

- `samples`: the next `global_batch_size` samples. The last step of an epoch takes what is left, so
  it may be smaller; nothing is dropped, and the loss counts tokens, so no sample weighs more.
- `tokens`: as many samples as fill `global_batch_size // max_row_tokens` rows. A sample that no
  row has room for is the first of the next step. The last step takes what is left.

A step's samples are then laid into rows of at most `max_row_tokens`, one row a micro-batch, with
the same number of rows on every rank. Any world size will do: where rows are fewer than slots,
empty rows (no samples, so no labels) keep the collectives in step.
"""

from __future__ import annotations

import heapq
from bisect import bisect_left, insort
from dataclasses import dataclass
from functools import lru_cache
from itertools import chain
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from toolgenesis_sft.config import Recipe

Row = list[int]  # sample indices; empty where a rank has nothing to do in a micro-step

# The sequence length at which causal attention costs as many FLOPs as all matrix products of
# Qwen3-8B: 7.568e9 / (36 layers x 4096). It only balances rows; it changes no result.
ATTENTION_EQUALS_MATMULS_TOKENS = 51_300
GAP_SHARE = 0.002  # a step in `tokens` looks for more samples until this share of it is left free
TIGHT_SHARE = 0.98  # fuller rows than this leave nothing to balance


@dataclass(frozen=True)
class OrderSettings:
    """All that the order depends on besides the samples' lengths and the number of ranks."""

    seed: int
    epochs: int
    global_batch_size: int
    batch_unit: Literal["samples", "tokens"]
    max_row_tokens: int
    packing: bool

    @classmethod
    def of(cls, recipe: Recipe) -> OrderSettings:
        train = recipe.train
        return cls(
            seed=recipe.seed,
            epochs=train.epochs,
            global_batch_size=train.global_batch_size,
            batch_unit=train.batch_unit,
            max_row_tokens=train.max_row_tokens,
            packing=train.packing,
        )


@dataclass(frozen=True)
class StepPlan:
    """One optimizer step. `ranks[rank][micro_step]` is the row that the rank computes then."""

    ranks: tuple[tuple[Row, ...], ...]
    num_tokens: int
    num_supervised: int

    @property
    def num_micro_steps(self) -> int:
        return len(self.ranks[0])

    @property
    def rows(self) -> list[Row]:
        """All rows that hold samples."""
        return [row for rank in self.ranks for row in rank if row]

    @property
    def samples(self) -> list[int]:
        return sorted(chain.from_iterable(self.rows))


@dataclass(frozen=True)
class _Epoch:
    """An epoch cut into steps: step k takes `order[starts[k] : starts[k + 1]]`. `rows[k]` is a
    tight packing of that step where choosing its samples has found one, else None."""

    order: NDArray[np.int64]
    starts: list[int]
    rows: list[list[Row] | None]

    @property
    def num_steps(self) -> int:
        return len(self.starts) - 1


class Order:
    """The whole run's order. lengths and num_supervised: tokens of each sample, [num_samples]."""

    def __init__(
        self,
        lengths: NDArray[np.int64],
        num_supervised: NDArray[np.int64],
        settings: OrderSettings,
        world_size: int,
    ) -> None:
        assert len(lengths) > 0, "an empty data set has no order"
        assert lengths.max() <= settings.max_row_tokens, "a sample is longer than a row"
        self.lengths, self.num_supervised = lengths, num_supervised
        self.settings, self.world_size = settings, world_size
        self._epoch = lru_cache(maxsize=2)(self._cut_epoch)
        self._ends: list[int] = []
        for epoch in range(settings.epochs):
            before = self._ends[-1] if self._ends else 0
            self._ends.append(before + self._count_steps(epoch))

    @property
    def num_steps(self) -> int:
        """Optimizer steps of all epochs."""
        return self._ends[-1]

    @property
    def num_steps_per_epoch(self) -> int:
        """Steps of the first epoch. In `tokens` a later epoch may differ by a step."""
        return self._ends[0]

    def place(self, step: int) -> tuple[int, int]:
        """(epoch, step within the epoch) of a step of the run, all counted from 0."""
        assert 0 <= step < self.num_steps, f"step {step} is not one of {self.num_steps}"
        epoch = next(number for number, end in enumerate(self._ends) if step < end)
        return epoch, step - (self._ends[epoch - 1] if epoch else 0)

    def step(self, step: int) -> StepPlan:
        """The plan of a step of the run, counted from 0."""
        epoch, inner = self.place(step)
        cut = self._epoch(epoch)
        samples = cut.order[cut.starts[inner] : cut.starts[inner + 1]]
        return plan_step(
            samples,
            self.lengths,
            self.num_supervised,
            self.settings,
            self.world_size,
            cut.rows[inner],
        )

    def _count_steps(self, epoch: int) -> int:
        if self.settings.batch_unit == "samples":
            return -(-len(self.lengths) // self.settings.global_batch_size)
        return self._epoch(epoch).num_steps

    def _cut_epoch(self, epoch: int) -> _Epoch:
        order = permutation(len(self.lengths), self.settings.seed, epoch)
        if self.settings.batch_unit == "samples":
            starts = list(range(0, len(order), self.settings.global_batch_size))
            return _Epoch(order, [*starts, len(order)], [None] * len(starts))
        num_rows = self.settings.global_batch_size // self.settings.max_row_tokens
        steps = fill_steps(self.lengths[order], num_rows, self.settings.max_row_tokens)
        rows: list[list[Row] | None] = []
        taken: list[NDArray[np.int64]] = []
        for positions in steps:
            flat = order[list(chain.from_iterable(positions))]
            taken.append(flat)
            samples = iter(flat.tolist())
            rows.append([[next(samples) for _ in row] for row in positions])
        starts = np.cumsum([0, *(len(step) for step in taken)]).tolist()
        return _Epoch(np.concatenate(taken), starts, rows)


def permutation(num_samples: int, seed: int, epoch: int) -> NDArray[np.int64]:
    """Sample indices in an order that depends on the seed and the epoch alone.

    Sorts by the finaliser of SplitMix64 (Steele, Lea and Flood, 2014) instead of drawing from
    numpy's generator, whose stream may change between versions.
    """
    stream = _mixed(_mixed(np.full(1, seed, np.uint64)) ^ np.full(1, epoch, np.uint64))
    counters = np.arange(num_samples, dtype=np.uint64)
    keys = _mixed(counters ^ stream)
    return np.argsort(keys, kind="stable")


def _mixed(value: NDArray[np.uint64]) -> NDArray[np.uint64]:
    value = value + np.uint64(0x9E3779B97F4A7C15)
    value = (value ^ (value >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    value = (value ^ (value >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return value ^ (value >> np.uint64(31))


def plan_step(
    samples: NDArray[np.int64],
    lengths: NDArray[np.int64],
    num_supervised: NDArray[np.int64],
    settings: OrderSettings,
    world_size: int,
    tight_rows: list[Row] | None = None,
) -> StepPlan:
    """Lay samples (their indices) into rows, and rows onto ranks and micro-steps.

    Validation takes this too, with all its samples as one step. `tight_rows` is a packing that is
    known already.
    """
    sizes = lengths[samples]
    num_tokens = int(sizes.sum())
    if not settings.packing:
        rows = [[sample] for sample in samples.tolist()]
    else:
        rows = tight_rows or best_fit_rows(samples, sizes, settings.max_row_tokens)
        num_slots = _num_slots(len(rows), world_size)
        if num_tokens <= TIGHT_SHARE * num_slots * settings.max_row_tokens:
            rows = balanced_rows(samples, sizes, num_slots, settings.max_row_tokens) or rows
    # Ranks wait for the slowest of each micro-step, so rows of like cost share one; the dearest
    # come first, so that a row that does not fit the memory shows at once.
    ranked = sorted(rows, key=lambda row: -row_cost(lengths[row]))
    ranked += [[] for _ in range(_num_slots(len(rows), world_size) - len(rows))]
    return StepPlan(
        ranks=tuple(tuple(ranked[rank::world_size]) for rank in range(world_size)),
        num_tokens=num_tokens,
        num_supervised=int(num_supervised[samples].sum()),
    )


def row_cost(lengths: NDArray[np.int64]) -> float:
    """Time of a row in units of one token's matrix products: each sample attends to itself only."""
    return float(cost(lengths).sum())


def cost(length: NDArray[np.int64]) -> NDArray[np.float64]:
    """Time of samples in units of one token's matrix products, causal attention included."""
    return length * (1 + length / ATTENTION_EQUALS_MATMULS_TOKENS)


def best_fit_rows(
    samples: NDArray[np.int64], sizes: NDArray[np.int64], max_row_tokens: int
) -> list[Row]:
    """Best-fit decreasing: the longest first, each into the fullest row that has room for it."""
    rows: list[Row] = []
    free: list[tuple[int, int]] = []  # (tokens left, row), ascending
    for number in np.argsort(-sizes, kind="stable").tolist():
        sample, size = int(samples[number]), int(sizes[number])
        fit = bisect_left(free, (size, -1))
        if fit == len(free):
            insort(free, (max_row_tokens - size, len(rows)))
            rows.append([sample])
        else:
            left, row = free.pop(fit)
            insort(free, (left - size, row))
            rows[row].append(sample)
    return rows


def balanced_rows(
    samples: NDArray[np.int64], sizes: NDArray[np.int64], num_rows: int, max_row_tokens: int
) -> list[Row] | None:
    """Exactly `num_rows` rows of like cost: the dearest sample first, each into the cheapest row
    that has room. None where that order of work finds no room for a sample."""
    rows: list[Row] = [[] for _ in range(num_rows)]
    used = [0] * num_rows
    cheapest = [(0.0, row) for row in range(num_rows)]  # a heap of (cost so far, row)
    costs = cost(sizes)
    for number in np.argsort(-sizes, kind="stable").tolist():
        size = int(sizes[number])
        full = []
        while cheapest and used[cheapest[0][1]] + size > max_row_tokens:
            full.append(heapq.heappop(cheapest))
        if not cheapest:
            return None
        so_far, row = cheapest[0]
        heapq.heapreplace(cheapest, (so_far + float(costs[number]), row))
        rows[row].append(int(samples[number]))
        used[row] += size
        for entry in full:
            heapq.heappush(cheapest, entry)
    return [row for row in rows if row]


def fill_steps(lengths: NDArray[np.int64], num_rows: int, max_row_tokens: int) -> list[list[Row]]:
    """Cut a sequence of samples into steps of `num_rows` full rows; positions in the sequence.

    A step takes the samples that the one before had no room for and as many of the next ones as
    its rows could hold, longest first, then looks a little further to fill the gaps that are left.
    What has waited for two steps goes before all else.
    """
    sizes: list[int] = lengths.tolist()
    ends = np.cumsum(lengths)
    capacity = num_rows * max_row_tokens
    steps: list[list[Row]] = []
    late: list[int] = []
    waiting: list[int] = []
    start = 0
    while late or waiting or start < len(sizes):
        fill = _Filling(num_rows, max_row_tokens, sizes)
        budget = capacity - sum(sizes[position] for position in chain(late, waiting))
        before = int(ends[start - 1]) if start else 0
        stop = max(start, int(np.searchsorted(ends, before + budget, side="right")))
        window = sorted(chain(waiting, range(start, stop)), key=lambda at: (-sizes[at], at))
        left_over = [position for position in chain(late, window) if not fill.take(position)]
        late = sorted(position for position in left_over if position < start)
        waiting = sorted(position for position in left_over if position >= start)
        furthest = min(len(sizes), stop + max(num_rows, (stop - start) // 2))
        while stop < furthest and fill.left > GAP_SHARE * capacity:
            if not fill.take(stop):
                waiting.append(stop)
            stop += 1
        start = stop
        steps.append([row for row in fill.rows if row])
    return steps


class _Filling:
    """A fixed number of rows that take samples by best fit until nothing fits."""

    def __init__(self, num_rows: int, max_row_tokens: int, sizes: list[int]) -> None:
        self.sizes, self.num_rows = sizes, num_rows
        self.rows: list[Row] = [[] for _ in range(num_rows)]
        self.left = num_rows * max_row_tokens
        # Tokens left and row number in one integer keep the search on plain numbers.
        self.free = [max_row_tokens * num_rows + row for row in range(num_rows)]

    def take(self, position: int) -> bool:
        size = self.sizes[position]
        fit = bisect_left(self.free, size * self.num_rows)
        if fit == len(self.free):
            return False
        entry = self.free.pop(fit)
        self.rows[entry % self.num_rows].append(position)
        insort(self.free, entry - size * self.num_rows)
        self.left -= size
        return True


def _num_slots(num_rows: int, world_size: int) -> int:
    """Rows of a step, empty ones included, that give every rank the same number."""
    return -(-num_rows // world_size) * world_size
