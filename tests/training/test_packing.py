"""The planned order: each sample once an epoch, whatever the ranks and the rows."""

from __future__ import annotations

import itertools
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from toolgenesis_sft.training.packing import (
    Order,
    OrderSettings,
    StepPlan,
    best_fit_rows,
    permutation,
    plan_step,
    row_cost,
)


def lognormal(num_samples: int, seed: int = 0, longest: int = 16_384) -> NDArray[np.int64]:
    """Lengths like those of code answers: mean about 2,500 tokens, a long tail."""
    drawn = np.random.default_rng(seed).lognormal(np.log(2000), 0.7, num_samples)
    return np.clip(drawn, 50, longest).astype(np.int64)


def order(lengths: NDArray[np.int64], world_size: int = 2, **changes: Any) -> Order:
    settings: dict[str, Any] = {
        "seed": 7,
        "epochs": 2,
        "global_batch_size": 64,
        "batch_unit": "samples",
        "max_row_tokens": 16_384,
        "packing": True,
    }
    return Order(lengths, lengths // 2, OrderSettings(**{**settings, **changes}), world_size)


def all_steps(plan: Order) -> list[StepPlan]:
    return [plan.step(step) for step in range(plan.num_steps)]


CASES = [
    {"batch_unit": unit, "global_batch_size": size, "packing": packing}
    for (unit, size), packing in itertools.product(
        [("samples", 64), ("samples", 7), ("samples", 5000), ("tokens", 65_536)], [True, False]
    )
]


@pytest.mark.parametrize("world_size", [1, 2, 3, 8, 64])
@pytest.mark.parametrize("case", CASES)
def test_every_sample_comes_exactly_once_an_epoch(case: dict[str, Any], world_size: int) -> None:
    lengths = lognormal(500)
    plan = order(lengths, world_size, **case)
    seen: dict[int, list[int]] = {0: [], 1: []}
    for number, step in enumerate(all_steps(plan)):
        seen[plan.place(number)[0]] += step.samples
    assert sorted(seen[0]) == sorted(seen[1]) == list(range(500))


@pytest.mark.parametrize("world_size", [1, 2, 3, 8, 64])
@pytest.mark.parametrize("case", CASES)
def test_rows_fit_and_every_rank_has_the_same_number_of_them(
    case: dict[str, Any], world_size: int
) -> None:
    lengths = lognormal(300)
    for step in all_steps(order(lengths, world_size, **case)):
        assert len(step.ranks) == world_size
        assert {len(rows) for rows in step.ranks} == {step.num_micro_steps}
        assert len(step.rows) > (step.num_micro_steps - 1) * world_size, "no idle micro-step"
        for row in step.rows:
            assert lengths[row].sum() <= 16_384
            assert case["packing"] or len(row) == 1
        assert step.num_tokens == lengths[step.samples].sum()
        assert step.num_supervised == (lengths // 2)[step.samples].sum()


@pytest.mark.parametrize("unit", [("samples", 64), ("tokens", 65_536)])
def test_what_a_step_takes_depends_on_neither_the_ranks_nor_packing(unit: tuple[str, int]) -> None:
    lengths = lognormal(400)
    plans = [
        order(lengths, world_size, batch_unit=unit[0], global_batch_size=unit[1], packing=packing)
        for world_size, packing in itertools.product([1, 2, 3, 16], [True, False])
    ]
    first, *others = [[step.samples for step in all_steps(plan)] for plan in plans]
    assert all(other == first for other in others)


def test_a_step_does_not_depend_on_the_steps_asked_for_before() -> None:
    lengths = lognormal(400)
    for case in CASES:
        resumed, whole = order(lengths, **case), order(lengths, **case)
        steps = all_steps(whole)
        for number in (whole.num_steps - 1, 0, whole.num_steps // 2):
            assert resumed.step(number) == steps[number]


def test_the_published_run_has_39_steps_an_epoch_and_117_in_all() -> None:
    plan = order(lognormal(2496), world_size=8, epochs=3)
    assert (plan.num_steps_per_epoch, plan.num_steps) == (39, 117)
    assert all(len(step.samples) == 64 for step in all_steps(plan))


def test_the_last_step_of_an_epoch_takes_what_is_left() -> None:
    plan = order(lognormal(130), global_batch_size=64)
    assert [len(step.samples) for step in all_steps(plan)] == [64, 64, 2, 64, 64, 2]
    assert [plan.place(step) for step in range(6)] == [
        (0, 0), (0, 1), (0, 2), (1, 0), (1, 1), (1, 2),
    ]  # fmt: skip


def test_epochs_and_seeds_shuffle_differently_and_stay_as_they_are() -> None:
    assert permutation(8, seed=0, epoch=0).tolist() == [0, 1, 6, 3, 5, 4, 2, 7]
    shuffles = {tuple(permutation(50, seed, epoch)) for seed in range(5) for epoch in range(5)}
    assert len(shuffles) == 25


def test_a_shuffle_has_no_visible_pattern() -> None:
    """Each position's mean over many epochs is the middle; neighbours are not correlated."""
    drawn = np.array([permutation(100, seed=3, epoch=epoch) for epoch in range(2000)])
    deviation = drawn.mean(axis=0) - 49.5  # standard error 28.9 / sqrt(2000) = 0.65
    assert np.abs(deviation).max() < 4 * 0.65
    assert abs(np.corrcoef(drawn[:, :-1].ravel(), drawn[:, 1:].ravel())[0, 1] + 1 / 99) < 0.01


@pytest.mark.parametrize("sigma_seed", range(3))
@pytest.mark.parametrize("global_batch_size", [131_072, 1_048_576])
def test_full_steps_in_tokens_are_filled_to_99_percent(
    sigma_seed: int, global_batch_size: int
) -> None:
    lengths = lognormal(20_000, sigma_seed)
    plan = order(lengths, 8, batch_unit="tokens", global_batch_size=global_batch_size, epochs=1)
    full = all_steps(plan)[:-1]  # the last one takes what is left
    tokens = sum(step.num_tokens for step in full)
    slots = sum(step.num_micro_steps * 8 for step in full)
    assert tokens / (slots * 16_384) >= 0.99


def test_a_sample_that_has_to_wait_comes_in_one_of_the_next_steps() -> None:
    lengths = lognormal(5_000)
    plan = order(lengths, 1, batch_unit="tokens", global_batch_size=131_072, epochs=1)
    turn = np.empty(5_000, dtype=int)
    for number, step in enumerate(all_steps(plan)):
        turn[step.samples] = number
    ideal = np.cumsum(lengths[permutation(5_000, 7, 0)]) / 131_072
    assert np.abs(turn[permutation(5_000, 7, 0)] - ideal).max() < 4


def test_long_samples_that_share_no_row_still_make_progress() -> None:
    lengths = np.full(10, 9_000)
    plan = order(lengths, 2, batch_unit="tokens", global_batch_size=32_768, epochs=1)
    assert [len(step.samples) for step in all_steps(plan)] == [2] * 5


def test_rows_of_a_micro_step_cost_alike() -> None:
    lengths = lognormal(64 * 20)
    plan = order(lengths, 4, epochs=1)
    busy = waited = 0.0
    for step in all_steps(plan):
        for rows in zip(*step.ranks, strict=True):
            costs = [row_cost(lengths[row]) for row in rows]
            busy, waited = busy + sum(costs), waited + 4 * max(costs)
    assert busy / waited > 0.97


def test_a_rows_cost_counts_attention_within_samples_only() -> None:
    one, four = row_cost(np.array([16_000])), row_cost(np.full(4, 4_000))
    assert one - 16_000 == pytest.approx(4 * (four - 16_000))
    assert one == pytest.approx(16_000 * (1 + 16 / 51.3))


def test_best_fit_needs_no_more_rows_than_first_fit() -> None:
    lengths = lognormal(2_000)
    rows = best_fit_rows(np.arange(2_000), lengths, 16_384)
    assert len(rows) <= -(-lengths.sum() // 16_384) + 1
    assert sorted(itertools.chain.from_iterable(rows)) == list(range(2_000))


def test_validation_is_one_step_of_all_its_samples() -> None:
    lengths = lognormal(10)
    settings = order(lengths).settings
    step = plan_step(np.arange(10), lengths, lengths, settings, world_size=4)
    assert step.samples == list(range(10))
    assert step.num_supervised == lengths.sum()


def test_fewer_samples_than_ranks_leave_empty_rows() -> None:
    step = order(np.array([100]), world_size=3, global_batch_size=1).step(0)
    assert step.ranks == (([0],), ([],), ([],))
