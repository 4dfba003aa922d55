"""How many candidates are run for data.max_scenarios, and which of them stay."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import pytest

from toolgenesis_sft.corpus.drops import Drops
from toolgenesis_sft.corpus.pairs import Pair
from toolgenesis_sft.corpus.servers import MIN_SCENARIOS_AT_ONCE, Server, until_enough


def pair(number: int, like: int | None = None) -> Pair:
    """Program `number` is longer than all before it; like: whose shape it has."""
    shape = number if like is None else like
    code = "\n".join(f"import part_{shape}_{line}" for line in range(30))
    return Pair(f"s{number:02d}", code + "\n" * number, "test", "MIT")


class Sandbox:
    """Passes all but a few, and remembers what it was given."""

    def __init__(self, *broken: str) -> None:
        self.broken = broken
        self.batches: list[list[str]] = []

    def __call__(self, batch: Sequence[Pair]) -> Iterator[Server]:
        self.batches.append([each.slug for each in batch])
        return (Server(each, ()) for each in batch if each.slug not in self.broken)


LEFT_OUT = "data.max_scenarios (the shortest answers are kept)"


def test_others_take_the_place_of_those_that_fail_and_no_more_are_run() -> None:
    candidates = [pair(number) for number in reversed(range(20))]
    sandbox, drops = Sandbox("s01", "s03", "s06"), Drops()
    servers = until_enough(candidates, 5, sandbox, drops)
    assert [server.pair.slug for server in servers] == ["s07", "s05", "s04", "s02", "s00"]
    assert [len(batch) for batch in sandbox.batches] == [5, MIN_SCENARIOS_AT_ONCE]
    assert sum(map(len, sandbox.batches)) == 13
    assert drops.counts == {LEFT_OUT: 20 - 3 - 5}


def test_where_nothing_fails_nothing_more_is_run() -> None:
    sandbox, drops = Sandbox(), Drops()
    assert len(until_enough([pair(number) for number in range(9)], 4, sandbox, drops)) == 4
    assert [len(batch) for batch in sandbox.batches] == [4]
    assert drops.counts == {LEFT_OUT: 5}


def test_a_near_duplicate_is_none_of_the_scenarios_that_are_asked_for() -> None:
    candidates = [pair(0), pair(1, like=0), pair(2)]
    drops = Drops()
    servers = until_enough(candidates, 2, Sandbox(), drops)
    assert [server.pair.slug for server in servers] == ["s00", "s02"]
    assert drops.counts == {"near duplicate": 1}


@pytest.mark.parametrize("most", [None, 3, 30])
def test_all_are_run_where_there_are_never_enough(most: int | None) -> None:
    candidates = [pair(number) for number in range(12)]
    sandbox = Sandbox(*(each.slug for each in candidates[1:]))
    assert [s.pair.slug for s in until_enough(candidates, most, sandbox, Drops())] == ["s00"]
    assert sum(map(len, sandbox.batches)) == 12
