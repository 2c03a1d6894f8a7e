"""Percentile intervals from resampled prompts.

The candidates of a prompt share its difficulty, so they are not independent observations: the unit that is
drawn with replacement is the prompt, with all its candidates. A resample is written as how often each prompt
was drawn, which turns every statistic that is a ratio of sums over prompts into two matrix products for all
resamples at once.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from probe_lab.metrics.prompts import Bools, Floats


@dataclass(frozen=True)
class Interval:
    """An estimate with its bootstrap interval.

    ``prompts`` is the number of prompts that the estimate rests on, ``tied`` how many were left out because
    all their candidates have the same target. All three numbers are nan when no prompt is left.
    """

    estimate: float
    lower: float
    upper: float
    prompts: int
    tied: int


@dataclass(frozen=True)
class PromptRatio:
    """The statistic Σ_p numerator_p / Σ_p denominator_p; a mean over prompts has denominators of 1.

    Both are ``[P]``, and 0 for the prompts that ``left_out [P]`` marks.
    """

    numerator: Floats
    denominator: Floats
    left_out: Bools

    def __call__(self, draws: Floats) -> Floats:
        """``[R]``: value in each sample of ``draws [R, P]``; nan where every prompt drawn is left out."""
        with np.errstate(invalid="ignore"):
            return (draws @ self.numerator) / (draws @ self.denominator)

    def estimate(self) -> float:
        """Value for the prompts as they are."""
        return float(self(np.ones((1, self.numerator.size)))[0])

    def interval(self, draws: Floats, confidence: float) -> Interval:
        """The estimate with its interval over the samples ``draws [R, P]``."""
        tied = int(self.left_out.sum())
        return interval(self.estimate(), self(draws), confidence, self.left_out.size - tied, tied)


def mean_over(values: Floats, left_out: Bools) -> PromptRatio:
    """The mean of ``values [P]`` over the prompts that are not left out."""
    return PromptRatio(np.where(left_out, 0.0, values), (~left_out).astype(np.float64), left_out)


def resample(prompts: int, resamples: int, seed: int) -> Floats:
    """``[resamples, prompts]``: how often each of ``prompts`` prompts is drawn, as many with replacement."""
    drawn = np.random.default_rng(seed).integers(prompts, size=(resamples, prompts))
    drawn += prompts * np.arange(resamples)[:, None]
    return np.bincount(drawn.ravel(), minlength=resamples * prompts).reshape(drawn.shape).astype(np.float64)


def interval(estimate: float, values: Floats, confidence: float, prompts: int, tied: int) -> Interval:
    """An estimate between the percentiles of its resampled ``values [R]``.

    Resamples in which the value is undefined (nan: one class only, tied prompts only) are left out.
    """
    values = values[np.isfinite(values)]
    tails = 50.0 * (1.0 - confidence)
    lower, upper = np.percentile(values, [tails, 100.0 - tails]) if values.size else (np.nan, np.nan)
    return Interval(float(estimate), float(lower), float(upper), prompts, tied)
