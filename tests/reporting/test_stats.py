"""Counting, intervals and tests, against hand-made numbers and simulations."""

import itertools
import math

import numpy as np
import pytest
from scipy import stats as scipy_stats

from toolgenesis_sft.errors import Outcome
from toolgenesis_sft.records import FigureScore
from toolgenesis_sft.reporting import stats


def test_a_model_fault_and_a_figure_that_was_not_reached_count_as_zero():
    assert stats.counted(FigureScore(outcome=Outcome.MODEL_FAULT)) == 0.0
    assert stats.counted(FigureScore(outcome=Outcome.NOT_REACHED)) == 0.0


def test_a_harness_fault_counts_as_nothing_at_all():
    assert stats.counted(FigureScore(outcome=Outcome.HARNESS_FAULT)) is None


def test_a_scored_value_counts_as_itself():
    assert stats.counted(FigureScore(value=0.25, outcome=Outcome.SCORED)) == 0.25


def test_intervals_are_the_same_every_time():
    values = np.random.default_rng(1).random((40, 2))
    assert stats.intervals(values, 500) == stats.intervals(values, 500)


def test_intervals_cover_the_true_mean_about_95_times_in_100():
    rng = np.random.default_rng(2)
    covered = 0
    for _ in range(200):
        low, high = stats.intervals((rng.random((60, 1)) < 0.3).astype(float), 400)[0]
        covered += low <= 0.3 <= high
    assert 180 <= covered <= 199


def test_an_interval_grows_as_one_over_the_root_of_the_servers():
    values = np.tile([0.0, 1.0], 100)[:, None]
    few, many = (stats.intervals(values[:n], 2000)[0] for n in (50, 200))
    assert (few[1] - few[0]) / (many[1] - many[0]) == pytest.approx(2, rel=0.15)


def test_servers_that_all_agree_leave_room_for_those_that_so_few_could_have_missed():
    """Clopper and Pearson's interval of 0, or all, of 12, from the quantiles of the beta law."""
    low, high = stats.intervals(np.zeros((12, 1)), 100)[0]
    assert low == 0
    assert high == pytest.approx(scipy_stats.beta.ppf(0.975, 1, 12), abs=1e-6)
    low, high = stats.intervals(np.ones((12, 1)), 100, level=0.99)[0]
    assert low == pytest.approx(scipy_stats.beta.ppf(0.005, 12, 1), abs=1e-6)
    assert high == 1


def test_equal_runs_may_still_differ_both_ways_and_less_so_the_more_servers_agree():
    few, many = (stats.paired(np.ones(n), np.ones(n), 100).ci95 for n in (12, 86))
    assert few[0] == -few[1]
    assert 0 < many[1] < few[1] < 0.3


def test_intervals_do_not_depend_on_the_block_they_are_computed_in(monkeypatch):
    values = np.random.default_rng(3).random((30, 1))
    whole = stats.intervals(values, 300)
    monkeypatch.setattr(stats, "CHUNK", 90)
    assert stats.intervals(values, 300) == whole


@pytest.mark.parametrize(("n", "c", "k"), [(5, 2, 1), (5, 2, 3), (8, 8, 4), (6, 0, 2), (4, 1, 4)])
def test_pass_at_k_and_pass_hat_k_are_what_drawing_samples_gives(n, c, k):
    passed = [True] * c + [False] * (n - c)
    draws = list(itertools.combinations(passed, k))
    assert stats.pass_at_k(n, c, k) == pytest.approx(sum(any(d) for d in draws) / len(draws))
    assert stats.pass_hat_k(n, c, k) == pytest.approx(sum(all(d) for d in draws) / len(draws))


def test_auroc_is_the_share_of_rightly_ordered_pairs_with_ties_half():
    signal = np.array([0.1, 0.4, 0.4, 0.8])
    positive = np.array([False, True, False, True])
    assert stats.auroc(signal, positive) == pytest.approx((1 + 0.5 + 1 + 1) / 4)


def test_auroc_of_one_class_does_not_exist():
    assert stats.auroc(np.array([0.1, 0.2]), np.array([True, True])) is None


def test_rank_correlation_sees_order_only():
    a = np.array([1.0, 2.0, 3.0, 4.0])
    assert stats.spearman(a, a**9) == pytest.approx(1.0)
    assert stats.spearman(a, -a) == pytest.approx(-1.0)
    assert stats.spearman(a, np.ones(4)) is None


def test_rank_correlation_and_auroc_agree_with_scipy():
    rng = np.random.default_rng(4)
    a, b = rng.integers(0, 5, 50).astype(float), rng.integers(0, 5, 50).astype(float)
    assert stats.spearman(a, b) == pytest.approx(scipy_stats.spearmanr(a, b).statistic)
    u = scipy_stats.mannwhitneyu(a[b > 2], a[b <= 2]).statistic
    assert stats.auroc(a, b > 2) == pytest.approx(u / ((b > 2).sum() * (b <= 2).sum()))


def test_a_permutation_test_of_few_pairs_is_exact():
    assert stats.sign_flip_p(np.ones(5)) == pytest.approx(2 / 2**5)
    assert stats.sign_flip_p(np.array([1.0, -1.0])) == 1.0


def test_drawn_permutations_agree_with_all_permutations(monkeypatch):
    differences = np.random.default_rng(5).normal(0.4, 1.0, 14)
    exact = stats.sign_flip_p(differences)
    monkeypatch.setattr(stats, "EXACT_PAIRS", 0)
    assert stats.sign_flip_p(differences) == pytest.approx(exact, abs=0.02)


def test_equal_runs_have_a_p_of_one():
    assert stats.sign_flip_p(np.zeros(10)) == 1.0


def test_holm_multiplies_the_smallest_p_by_the_number_of_tests_and_keeps_the_order():
    assert stats.holm([0.01, 0.04, 0.03]) == pytest.approx([0.03, 0.06, 0.06])
    assert stats.holm([0.6, 0.9]) == [1.0, 1.0]


def test_a_paired_comparison_counts_wins_losses_and_ties_of_the_second_run():
    result = stats.paired(np.array([0.0, 1.0, 0.5, 0.5]), np.array([1.0, 0.0, 0.5, 1.0]), 200)
    assert (result.wins, result.losses, result.ties) == (2, 1, 1)
    assert result.difference == pytest.approx(0.125)


def test_the_smallest_detectable_difference_is_found_80_times_in_100():
    rng = np.random.default_rng(6)
    n, spread = 86, 0.3
    effect = (1.959964 + 0.841621) * spread / math.sqrt(n)
    found = sum(stats.sign_flip_p(rng.normal(effect, spread, n)) < 0.05 for _ in range(200))
    assert 145 <= found <= 178
    assert stats.smallest_detectable(rng.normal(effect, spread, 20_000)[:n], 1) == pytest.approx(
        effect, rel=0.25
    )


def test_equal_runs_still_say_how_many_servers_would_have_had_to_change():
    floor = stats.smallest_detectable(np.zeros(86), 1)
    assert floor == pytest.approx(6 / 86)


def test_too_few_servers_can_show_no_difference_at_all():
    assert stats.smallest_detectable(np.ones(5), 1) is None  # 2 * 0.5^5 is above the level
    assert stats.sign_flip_p(np.ones(5)) > stats.ALPHA
    assert stats.smallest_detectable(np.ones(6), 1) == 1.0
    assert stats.sign_flip_p(np.ones(6)) < stats.ALPHA


def test_a_small_and_steady_difference_counts_as_one_that_can_be_shown():
    differences = np.random.default_rng(8).normal(0.02, 0.005, 86)
    assert stats.sign_flip_p(differences) * 7 < stats.ALPHA
    assert stats.smallest_detectable(differences, 7) < 0.02
