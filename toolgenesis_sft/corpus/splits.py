"""Which samples train and which validate, and how many of each source and kind are taken.

Everything here orders by digests, never by position or a random generator: adding a server
moves the others hardly ever, and the same set gives the same split on every machine.
"""

from __future__ import annotations

import hashlib
from collections import defaultdict
from collections.abc import Hashable, Mapping, Sequence
from typing import TypeVar

K = TypeVar("K", bound=Hashable)

SUM_TOLERANCE = 1e-6  # shares are written by hand: 0.333, 0.333, 0.334


def rank(seed: int, key: str) -> str:
    """A fixed pseudo-random place of `key`, as hexadecimal text to sort by."""
    return hashlib.sha256(f"{seed}:{key}".encode()).hexdigest()


def validation_groups(strata: Mapping[str, str], share: float, seed: int) -> frozenset[str]:
    """Groups (servers) for validation: those whose place is below `share`, and one of each stratum
    (domain) that is large enough for one and would have none.

    A group's place is its own, so another group beside it does not move it, as a quota by stratum
    would. Their number is held within a half of what `share` asks for, exactly where that is one;
    only there, and where a stratum was given one, another group may move one. strata: group ->
    stratum. At least one group validates where share > 0 and there are two, and never all.
    """
    if share == 0 or len(strata) < 2:
        return frozenset()
    in_order = sorted(strata, key=lambda group: rank(seed, group))
    limit = f"{int(share * 16**12):012x}"
    num_below = sum(rank(seed, group) < limit for group in in_order)
    wanted = max(1, round(share * len(strata)))
    number = min(max(num_below, wanted - wanted // 2), wanted + wanted // 2)
    chosen = set(in_order[:number])
    members: dict[str, list[str]] = defaultdict(list)
    for group in in_order:
        members[strata[group]].append(group)
    for groups in members.values():
        if len(groups) * share >= 1 and chosen.isdisjoint(groups):
            chosen.add(groups[0])
    return frozenset(chosen) - frozenset(in_order[-1:] if len(chosen) >= len(strata) else ())


def apportion(weights: Mapping[K, float], total: int) -> dict[K, int]:
    """Whole numbers that add up to `total` and are nearest to the weights' shares of it.

    Largest remainders get what rounding down left over; equal remainders go by the key's text.
    """
    whole = sum(weights.values())
    if whole <= 0:
        return dict.fromkeys(weights, 0)
    exact = {key: total * weight / whole for key, weight in weights.items()}
    counts = {key: int(value) for key, value in exact.items()}
    by_remainder = sorted(
        weights, key=lambda key: (counts[key] - exact[key], rank(0, str(key)), str(key))
    )
    for key in by_remainder[: total - sum(counts.values())]:
        counts[key] += 1
    return counts


def largest_mixture(available: Mapping[K, int], shares: Mapping[K, float]) -> dict[K, int]:
    """How many to take of each so that the shares hold and as many as possible are taken."""
    wanted = {key: share for key, share in shares.items() if share > 0}
    total = min((available[key] / share for key, share in wanted.items()), default=0.0)
    # The scarcest is taken whole; rounding must not ask for more than there is.
    counts = apportion(wanted, int(total + SUM_TOLERANCE))
    return {key: min(counts.get(key, 0), available[key]) for key in shares}


def take(keys: Sequence[str], count: int, seed: int) -> frozenset[str]:
    """`count` of the keys, by digest."""
    return frozenset(sorted(keys, key=lambda key: rank(seed, key))[:count])
