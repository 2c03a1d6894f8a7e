"""How often intervals hold the truth, simulated: few prompts, skewed contributions. The whole table is that of
``benchmarks/coverage.py``."""

from __future__ import annotations

import numpy as np
import pytest
from scipy import stats

from benchmarks.coverage import WITHIN
from benchmarks.coverage_worlds import KINDS, Kind, part_of, world
from probe_lab.metrics import paired_mean
from probe_lab.metrics.bootstrap import PromptRatio, mean_over, minus, resample
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
