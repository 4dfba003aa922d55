"""Shares, mixtures and validation groups: fixed by digests."""

from __future__ import annotations

import pytest

from toolgenesis_sft.corpus.splits import apportion, largest_mixture, take, validation_groups


def strata(count: int) -> dict[str, str]:
    return {f"server-{n}": ("maths", "text", "time")[n % 3] for n in range(count)}


def test_the_share_is_taken_from_every_domain() -> None:
    groups = strata(30)
    for seed in range(20):
        chosen = validation_groups(groups, 0.2, seed)
        assert {groups[name] for name in chosen} == {"maths", "text", "time"}


@pytest.mark.parametrize(("count", "least", "most"), [(5, 1, 1), (20, 2, 6), (1000, 170, 230)])
def test_the_number_is_near_the_share_and_exact_where_it_is_one(
    count: int, least: int, most: int
) -> None:
    for seed in range(20):
        alike = dict.fromkeys(strata(count), "maths")
        assert least <= len(validation_groups(alike, 0.2, seed)) <= most


def test_another_server_does_not_move_the_others() -> None:
    """But for the one that a domain, or the number, was filled up with."""
    moved = []
    for seed in range(100):
        groups = strata(90)
        before = validation_groups(groups, 0.2, seed)
        after = validation_groups(groups | {"one-more": "text"}, 0.2, seed)
        moved.append(len(before ^ (after - {"one-more"})))
    assert sum(moved) <= 2
    assert max(moved) <= 1


def test_something_trains_however_large_the_share() -> None:
    for seed in range(20):
        assert len(validation_groups(strata(4), 0.99, seed)) == 3


def test_a_small_share_of_few_servers_still_validates_one() -> None:
    assert len(validation_groups(strata(4), 0.01, seed=0)) == 1
    assert validation_groups(strata(4), 0.0, seed=0) == frozenset()
    assert validation_groups(strata(1), 0.5, seed=0) == frozenset()


def test_the_order_of_the_servers_does_not_matter() -> None:
    groups = strata(30)
    shuffled = dict(sorted(groups.items(), reverse=True))
    assert validation_groups(groups, 0.3, 1) == validation_groups(shuffled, 0.3, 1)
    assert validation_groups(groups, 0.3, 1) != validation_groups(groups, 0.3, 2)


def test_apportioned_numbers_add_up_and_are_nearest() -> None:
    assert apportion({"a": 0.5, "b": 0.3, "c": 0.2}, 10) == {"a": 5, "b": 3, "c": 2}
    for total in range(50):
        counts = apportion({"a": 1 / 3, "b": 1 / 3, "c": 1 / 3}, total)
        assert sum(counts.values()) == total
        assert max(counts.values()) - min(counts.values()) <= 1


def test_the_scarcest_part_bounds_the_mixture() -> None:
    available = {"a": 100, "b": 10, "c": 100}
    assert largest_mixture(available, {"a": 0.5, "b": 0.1, "c": 0.4}) == {"a": 50, "b": 10, "c": 40}
    assert largest_mixture(available, {"a": 1.0, "b": 0.0, "c": 0.0}) == {"a": 100, "b": 0, "c": 0}
    assert largest_mixture({"a": 5, "b": 0}, {"a": 0.5, "b": 0.5}) == {"a": 0, "b": 0}


def test_what_is_taken_grows_and_never_changes_places() -> None:
    keys = [f"sample-{n}" for n in range(100)]
    assert take(keys, 20, 0) < take(keys, 30, 0)
    assert take(keys[::-1], 20, 0) == take(keys, 20, 0)
