"""How often intervals hold the truth, simulated: few prompts, skewed contributions. The whole table is that of
``benchmarks/coverage.py``."""

from __future__ import annotations

import numpy as np
import pytest
from scipy import stats

from benchmarks.coverage import WITHIN
from benchmarks.coverage_worlds import KINDS, Kind, part_of, world
from probe_lab.metrics import paired_mean
from probe_lab.metrics.bootstrap import PromptRatio, Uncertainty, mean_over, minus, resample
from probe_lab.metrics.within import WITHIN_METRICS

SIMULATIONS = 250


def coverage(statistics: list[PromptRatio], truth: float) -> float:
    draws = resample(len(statistics[0].left_out), 400, 0)
    found = [statistic.interval(draws, 0.95) for statistic in statistics]
    return float(np.mean([one.lower <= truth <= one.upper for one in found]))


def parts(whole: PromptRatio, prompts: int) -> list[PromptRatio]:
    return [part_of(whole, start, prompts) for start in range(0, len(whole.left_out), prompts)]


@pytest.mark.parametrize("kind", KINDS)
def test_intervals_hold_the_truth_on_twenty_prompts(kind: Kind) -> None:
    """Percentiles of a bootstrap fail this: their coverage of the gain is 0.88."""
    rng = np.random.default_rng(3)
    many, few = (world(kind, prompts, rng).tables() for prompts in (40_000, 20 * SIMULATIONS))
    for name in WITHIN:
        sides = [[WITHIN_METRICS[name](side[0]) for side in tables] for tables in (many, few)]
        statistics = [(sides[0][0], sides[1][0]), tuple(minus(*side) for side in sides)]
        for known, drawn in statistics:
            held = coverage(parts(drawn, 20), known.estimate())
            error = np.sqrt(0.05 * 0.95 / SIMULATIONS)
            assert 0.93 - 2.5 * error < held <= 0.97 + 2.5 * error, (name, drawn.scale, held)


def test_means_of_skewed_scores_and_their_differences_hold_the_truth() -> None:
    rng = np.random.default_rng(0)
    draws, means, differences = resample(20, 400, 0), 0, 0
    for _ in range(SIMULATIONS):
        first, second = 1 - np.exp(rng.normal(-1.5, 0.7, (2, 20)))
        interval = mean_over(first, np.zeros(20, np.bool_)).interval(draws, 0.95)
        means += interval.lower <= 1 - np.exp(-1.5 + 0.7**2 / 2) <= interval.upper
        interval = paired_mean(first, second, resamples=400)
        differences += interval.lower <= 0 <= interval.upper
    for held in (means, differences):
        assert stats.binomtest(held, SIMULATIONS, 0.95).pvalue > 0.001


@pytest.mark.parametrize("trainings", [2, 3, 5, 9])
@pytest.mark.parametrize("prompts", [20, 303])
@pytest.mark.parametrize("level", [0.05, 0.1])
def test_two_sources_of_error_hold_the_truth_whatever_their_shares(trainings: int, prompts: int, level: float) -> None:
    """By quadrature: both variances are drawn at the mid-quantiles of their distributions, the error is normal."""
    quantiles = (np.arange(60) + 0.5) / 60
    degrees, training_degrees = prompts - 1, trainings - 1
    first = stats.chi2.ppf(quantiles[::3], degrees) / degrees
    second = stats.chi2.ppf(quantiles, training_degrees) / training_degrees
    for share in (0.0, 0.02, 0.15, 0.3, 0.5, 0.7, 0.85, 0.95, 1.0):
        spreads = [
            Uncertainty((1 - share) * a, degrees, between=share * b, training_degrees=training_degrees)
            for a in first for b in second
        ]  # fmt: skip
        held = np.mean([1 - 2 * stats.norm.sf(spread.reach(level)) for spread in spreads])
        below, above = (0.4, 0.37) if trainings == 2 else (0.1, 0.27)
        assert -max(0.005, below * level) < held - (1 - level) < above * level, (share, held)


def test_the_level_of_a_distance_is_that_at_which_it_is_reached() -> None:
    for spread in (
        Uncertainty(1.0, 19.0, 1.3),
        Uncertainty(1.0, 19.0, 1.3, 0.7, 2.0),
        Uncertainty(0.2, 302.0, 1.0, 2.0, 2.0),
    ):
        for level in (0.6, 0.05, 1e-6):
            assert spread.level(spread.reach(level)) == pytest.approx(level, rel=1e-6)


def test_a_sum_of_independent_statistics_is_nearer_to_normal_than_each() -> None:
    """Skewness² of a sum of two like gamma variables is half of that of each, and so is what their tails have more."""
    alone = Uncertainty(1.0, 19.0, 1.4)
    assert alone.and_of(alone).tail == pytest.approx(1.2)
    assert alone.and_of(Uncertainty(0.0, 19.0)).tail == pytest.approx(1.4)
    shape = 3.0
    skewness = stats.gamma(shape).stats(moments="s"), stats.gamma(2 * shape).stats(moments="s")
    assert skewness[1] ** 2 == pytest.approx(skewness[0] ** 2 / 2)


def test_what_trainings_add_is_cut_at_nothing_after_all_sums() -> None:
    """Independent means of trainings that differ by nothing: cut in each, their sum would be 0.4 of it too high."""
    rng, added = np.random.default_rng(0), []
    for _ in range(2000):
        several = [
            Uncertainty(1.0, 19.0, between=rng.chisquare(2) / 2, training_degrees=2, explained=1.0) for _ in "ab"
        ]
        whole = several[0].scaled(0.5).and_of(several[1].scaled(0.5))
        assert whole.trainings == pytest.approx(max(0.0, sum(one.between - 1.0 for one in several) / 4))
        assert whole.training_degrees == pytest.approx(
            2 * sum(one.between for one in several) ** 2 / sum(one.between**2 for one in several)
        )
        added.append((whole.trainings, sum(one.trainings for one in several) / 4))
    together, apart = np.mean(added, axis=0)
    assert together < 0.8 * apart


def test_variances_whose_squares_vanish_are_pooled_like_others() -> None:
    tiny = Uncertainty(1e-170, 19.0, 1.2, between=2e-170, training_degrees=2.0)
    like = Uncertainty(1.0, 19.0, 1.2, between=2.0, training_degrees=2.0)
    for scale, whole in ((1e-170, tiny.and_of(tiny)), (1.0, like.and_of(like))):
        assert (whole.degrees, whole.tail, whole.training_degrees) == pytest.approx((38.0, 1.1, 4.0))
        assert whole.reach(0.05) == pytest.approx(like.and_of(like).reach(0.05) * scale**0.5)
