"""The statistics of the report: counting, intervals, tests. Pure functions of numbers.

`counted` is the one place where an unscored figure becomes a zero. Everything is deterministic:
resampling starts from a fixed seed, so the same scores give the same bytes.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from statistics import NormalDist
from typing import TypeAlias

import numpy as np
import numpy.typing as npt

from toolgenesis_sft.errors import Outcome
from toolgenesis_sft.records import FigureScore, Record

Floats: TypeAlias = npt.NDArray[np.float64]

SEED = 20_261
ALPHA = 0.05
POWER = 0.8
DIFFERENCES = (-1.0, 1.0)  # the scale of a difference of two figures
PASS = 0.5  # a figure of one server counts as passed from here on (funnel, alignment)
EXACT_PAIRS = 14  # up to here all sign flips are enumerated (2^14), above they are drawn
PERMUTATIONS = 10_000
CHUNK = 2_000_000  # numbers of one resampling block: memory stays flat in the number of servers


def counted(score: FigureScore) -> float | None:
    """What a figure adds to the mean over the benchmark.

    A model fault and a figure that was not reached count as 0. A harness fault gives None: it
    says nothing about the model, so the mean over all does not exist until it is scored again.
    """
    if score.outcome is Outcome.HARNESS_FAULT:
        return None
    return 0.0 if score.value is None else score.value


def mean(values: Sequence[float]) -> float | None:
    return math.fsum(values) / len(values) if values else None


def bootstrap_means(values: Floats, resamples: int) -> Floats:
    """Means of bootstrap resamples of the rows. `values` [n, figures] -> [resamples, figures]."""
    n = len(values)
    rng = np.random.default_rng(SEED)
    block = max(1, CHUNK // n)
    means = []
    for start in range(0, resamples, block):
        weights = rng.multinomial(n, np.full(n, 1 / n), size=min(block, resamples - start))
        means.append(weights @ values / n)
    return np.concatenate(means)


def intervals(
    values: Floats,
    resamples: int,
    level: float = 1 - ALPHA,
    scale: tuple[float, float] = (0.0, 1.0),
) -> list[tuple[float, float]]:
    """Percentile bootstrap intervals of the column means, over servers. `values` [n, figures].

    Where all n servers agree, resampling them shows no spread and the bound is exact instead
    (Clopper and Pearson's): a share q of servers at the other end of the scale stays unseen with
    the chance (1 - q)^n, which is a tail of the level up to q = 1 - tail^(1/n).
    """
    tail = (1 - level) / 2
    low, high = np.quantile(bootstrap_means(values, resamples), (tail, 1 - tail), axis=0)
    unseen = 1 - tail ** (1 / len(values))
    agreed = np.ptp(values, axis=0) == 0
    low = np.where(agreed, values[0] + unseen * (scale[0] - values[0]), low)
    high = np.where(agreed, values[0] + unseen * (scale[1] - values[0]), high)
    return [(round(float(a), 6), round(float(b), 6)) for a, b in zip(low, high, strict=True)]


def pass_at_k(num_samples: int, num_passed: int, k: int) -> float:
    """Chance that at least one of k samples drawn without replacement passes:
    1 - C(n - c, k) / C(n, k), unbiased (Chen et al. 2021)."""
    return 1 - math.comb(num_samples - num_passed, k) / math.comb(num_samples, k)


def pass_hat_k(num_samples: int, num_passed: int, k: int) -> float:
    """Chance that all k samples drawn without replacement pass: C(c, k) / C(n, k) (tau-bench)."""
    return math.comb(num_passed, k) / math.comb(num_samples, k)


def ranks(values: Floats) -> Floats:
    """1-based ranks; ties share their mean rank."""
    _, inverse, counts = np.unique(values, return_inverse=True, return_counts=True)
    last = np.cumsum(counts)
    shared: Floats = ((last - counts + 1 + last) / 2)[inverse]
    return shared


def auroc(signal: Floats, positive: npt.NDArray[np.bool_]) -> float | None:
    """Chance that a positive has the higher signal than a negative, ties count half
    (Mann-Whitney U / (n+ n-)). None where only one class occurs."""
    num_positive = int(positive.sum())
    num_negative = len(positive) - num_positive
    if not num_positive or not num_negative:
        return None
    u = ranks(signal)[positive].sum() - num_positive * (num_positive + 1) / 2
    return float(u / (num_positive * num_negative))


def spearman(a: Floats, b: Floats) -> float | None:
    """Rank correlation. None where one side is constant."""
    if len(a) < 2:
        return None
    rank_a, rank_b = ranks(a) - (len(a) + 1) / 2, ranks(b) - (len(b) + 1) / 2
    norm = math.sqrt(float(rank_a @ rank_a) * float(rank_b @ rank_b))
    return float(rank_a @ rank_b) / norm if norm else None


def sign_flip_p(differences: Floats) -> float:
    """Two-sided p of a paired permutation test: under the null each pair may be swapped.

    All swaps are enumerated up to EXACT_PAIRS unequal pairs; above that PERMUTATIONS are drawn
    and p = (1 + extreme) / (1 + drawn), which is never 0.
    """
    unequal = differences[differences != 0]
    n = len(unequal)
    if n == 0:
        return 1.0
    observed = abs(float(unequal.sum())) * (1 - 1e-12)  # rounding must not hide an equal sum
    if n <= EXACT_PAIRS:
        bits = np.arange(2**n)[:, None] >> np.arange(n) & 1
        return float(np.mean(np.abs(unequal.sum() - 2 * bits @ unequal) >= observed))
    rng = np.random.default_rng(SEED)
    extreme = 0
    block = max(1, CHUNK // n)
    width = -(-n // 8)
    for start in range(0, PERMUTATIONS, block):
        rows = min(block, PERMUTATIONS - start)
        random = np.frombuffer(rng.bytes(rows * width), np.uint8).reshape(rows, width)
        bits = np.unpackbits(random, axis=1, count=n).astype(np.float64)
        extreme += int(np.count_nonzero(np.abs(unequal.sum() - 2 * bits @ unequal) >= observed))
    return (1 + extreme) / (1 + PERMUTATIONS)


def holm(p_values: Sequence[float]) -> list[float]:
    """Holm's step-down adjustment: the family-wise error stays below the level compared with."""
    adjusted = [0.0] * len(p_values)
    highest = 0.0
    for place, index in enumerate(sorted(range(len(p_values)), key=lambda i: p_values[i])):
        highest = max(highest, min(1.0, p_values[index] * (len(p_values) - place)))
        adjusted[index] = highest
    return adjusted


class Paired(Record):
    """A paired difference b - a over servers, in units of the figure (0..1). b has the higher value
    in `wins` of them."""

    difference: float
    ci95: tuple[float, float]
    p: float
    wins: int
    losses: int
    ties: int


def paired(a: Floats, b: Floats, resamples: int) -> Paired:
    """Compare two runs server by server. `a`, `b` [n], n >= 1: means over a server's samples.

    Resampling whole servers is the cluster bootstrap: a server's samples stay together.
    """
    differences = b - a
    return Paired(
        difference=float(differences.mean()),
        ci95=intervals(differences[:, None], resamples, scale=DIFFERENCES)[0],
        p=sign_flip_p(differences),
        wins=int(np.count_nonzero(differences > 0)),
        losses=int(np.count_nonzero(differences < 0)),
        ties=int(np.count_nonzero(differences == 0)),
    )


def smallest_detectable(differences: Floats, num_tests: int) -> float | None:
    """The true difference that this many servers show with POWER at ALPHA / num_tests, two-sided.
    None where no difference could be shown.

    (z_alpha + z_power) * sd / sqrt(n) from the observed spread of the differences, and never less
    than the sign test's floor: the fewest servers k that must all change one way before 2 * 0.5^k
    falls below the level, each by as much as those that changed do (where none did: from 0 to 1).
    """
    n = len(differences)
    level = ALPHA / num_tests
    normal = NormalDist()
    spread = float(differences.std(ddof=1)) if n > 1 else 0.0
    z = normal.inv_cdf(1 - level / 2) + normal.inv_cdf(POWER)
    num_needed = math.ceil(math.log2(2 / level))
    changed = np.abs(differences[differences != 0])
    change = float(changed.mean()) if len(changed) else 1.0
    smallest = max(z * spread / math.sqrt(n), change * num_needed / n)
    return smallest if num_needed <= n and smallest <= 1 else None
