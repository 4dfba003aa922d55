"""The learning rate of each step."""

from __future__ import annotations

import pytest

from toolgenesis_sft.config import Train
from toolgenesis_sft.training.schedule import learning_rate


def rates(num_steps: int, **settings: float) -> list[float]:
    train = Train.model_validate({"learning_rate": 1.0, **settings})
    return [learning_rate(step, num_steps, train) for step in range(num_steps)]


def test_warm_up_climbs_in_equal_parts_to_the_peak() -> None:
    assert rates(117, warmup_ratio=0.03)[:4] == [0.25, 0.5, 0.75, 1.0]


def test_the_cosine_is_halfway_in_the_middle_and_ends_at_the_floor() -> None:
    found = rates(100, warmup_ratio=0, min_learning_rate_ratio=0.1)
    assert found[49] == pytest.approx(0.55)
    assert found[-1] == pytest.approx(0.1)
    assert found == sorted(found, reverse=True)


def test_a_floor_of_one_is_a_constant_rate() -> None:
    assert rates(5, warmup_ratio=0, min_learning_rate_ratio=1) == [1.0] * 5


def test_a_run_of_one_step_takes_the_peak() -> None:
    assert rates(1, warmup_ratio=0.03) == [1.0]
