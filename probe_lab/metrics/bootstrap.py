"""Intervals over prompts, for every number that the project shows with one.

The candidates of a prompt share its difficulty, so they are not independent observations: the unit that is drawn
with replacement is the prompt, with all its candidates. A resample is written as how often each prompt was drawn,
which turns every statistic that is a ratio of sums over prompts into a few matrix products for all resamples at
once.

The percentiles of a bootstrap are too narrow where prompts are few or their contributions skewed: measured on 20 of
them, a 95 % interval of the selection gain held the truth 88 times of 100. Intervals are therefore studentised, as
estimate ± c · error: the standard error is that of the linearised statistic, and c is the quantile of
|value − estimate| / error over the resamples, each with its own error (the symmetric bootstrap-t of Hall, *The
Bootstrap and Edgeworth Expansion*, 1992, whose coverage errs by 1/P²). Proportions are lattices, on which that
oscillates; they have the interval of Jeffreys (Brown, Cai and DasGupta 2001). ``benchmarks/coverage.py`` measures how
often all of them hold the truth.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Literal

import numpy as np
from scipy import optimize, special

from probe_lab.metrics.per_prompt import Bools, Floats

Scale = Literal["plain", "difference", "signed", "share", "gain", "proportion", "correlation", "auc"]
"""What the values of a statistic can be, which decides the shape of its interval (see :func:`interval`)."""

_RANGE: dict[Scale, tuple[float, float]] = {
    "plain": (-math.inf, math.inf),
    "difference": (-math.inf, math.inf),
    "signed": (-1.0, 1.0),
    "share": (0.0, 1.0),
    "gain": (-math.inf, 1.0),
}

STUDENTISED_FROM = 8
"""Fewer prompts than these say too little about the tails of |value − estimate| / error: Student's t decides."""

_APART = 1.2
"""Weight of the rule that takes each source apart, per share of the trainings in the variance."""

_LEAST_LOGARITHM = -34.0
"""Of a p-value that is told from 0, where there are trainings."""

_NEGLIGIBLE = 1e-9
"""Errors below this share of the typical size of a statistic's terms are rounding."""


@dataclass(frozen=True)
class Interval:
    """An estimate with its interval.

    ``prompts`` is the number of prompts that the estimate rests on, ``tied`` how many were left out because
    all their candidates have the same target. All three numbers are nan when no prompt is left, and the bounds are
    where a single one is: it says nothing about others. ``p`` is the two-sided p-value of the truth being 0, from the
    same distribution as the interval: below 1 − confidence just where the bounds exclude 0 (nan for proportions).
    """

    estimate: float
    lower: float
    upper: float
    prompts: int
    tied: int
    p: float = math.nan

    @property
    def excludes_zero(self) -> bool:
        """Whether the bounds are both above or both below 0."""
        return self.lower > 0 or self.upper < 0


@dataclass(frozen=True)
class Uncertainty:
    """How far an estimate may be from the truth, by two independent sources.

    Other prompts: a ``variance``, as good as one from ``degrees`` of freedom, and ``tail``, its critical value over
    Student's. Other trainings: the variance ``between`` their own values, from ``training_degrees``, of which the part
    ``explained`` is that of their errors on single prompts.
    """

    variance: float
    degrees: float
    tail: float = 1.0
    between: float = 0.0
    training_degrees: float = math.inf
    explained: float = 0.0

    @property
    def trainings(self) -> float:
        """The variance that trainings add. It is cut at 0 here, after all sums: cut in each of their terms, it would be
        too high where trainings hardly differ."""
        return max(0.0, self.between - self.explained)

    def scaled(self, weight: float) -> Uncertainty:
        """That of ``weight`` times the statistic."""
        variance, between, explained = (part * weight**2 for part in (self.variance, self.between, self.explained))
        return replace(self, variance=variance, between=between, explained=explained)

    def and_of(self, other: Uncertainty) -> Uncertainty:
        """That of the sum of two independent statistics.

        Each source has Satterthwaite's degrees of freedom. What a tail has over Student's is of the order of skewness²
        and kurtosis, which in a sum count by the square of the share of the variance.
        """
        variance, degrees = _pooled(self.variance, self.degrees, other.variance, other.degrees)
        share = self.variance / variance if variance > 0 else 0.0
        trainings = _pooled(self.between, self.training_degrees, other.between, other.training_degrees)
        explained = self.explained + other.explained
        tail = 1.0 + (self.tail - 1.0) * share**2 + (other.tail - 1.0) * (1.0 - share) ** 2
        return Uncertainty(variance, degrees, tail, *trainings, explained)

    def reach(self, level: float) -> float:
        """Distance that |estimate − truth| exceeds with a probability of ``level`` in (0, 1).

        Two rules are known for adding sources whose variances v are uncertain. √(Σ c² v), with the critical value c of
        each source (Cochran), is too wide where both weigh the same: three trainings hold the truth 98 times of 100
        instead of 95. Student's c for Satterthwaite's pooled degrees of freedom is too narrow, 92 of 100, where the
        trainings make most of the variance: the few variances that come out small seem well known. Their squares are
        therefore averaged, and the weight of the first grows with the share of the trainings in the variance, by the
        smallest factor with which no share is covered less than 95 times of 100, of three trainings or more
        (``tests/metrics/test_metrics_coverage.py``): then it is 95 to 96 for every share, and 93 to 97 of two
        trainings. With a single training it is Student's t.
        """
        prompts = self.tail**2 * self.variance
        total, degrees = _pooled(prompts, self.degrees, self.trainings, self.training_degrees)
        if total == 0:
            return 0.0
        weight = min(1.0, _APART * self.trainings / total)
        apart = (
            _critical(level, self.degrees) ** 2 * prompts
            + _critical(level, self.training_degrees) ** 2 * self.trainings
        )
        pooled = _critical(level, degrees) ** 2 * total
        return math.sqrt(weight * apart + (1.0 - weight) * pooled)

    @property
    def total(self) -> float:
        """The variance by both sources."""
        return self.variance + self.trainings

    def level(self, distance: float) -> float:
        """That at which ``reach`` is ``distance`` > 0, of a total above 0."""
        if self.trainings == 0:
            return float(2.0 * special.stdtr(self.degrees, -distance / math.sqrt(self.variance) / self.tail))

        def excess(logarithm: float) -> float:
            return self.reach(math.exp(logarithm)) - distance

        if excess(_LEAST_LOGARITHM) <= 0:
            return 0.0
        return math.exp(float(optimize.brentq(excess, _LEAST_LOGARITHM, 0.0)))


@dataclass(frozen=True)
class PromptRatio:
    """The statistic Σ_p numerator_p / Σ_p denominator_p; a mean over prompts has denominators of 1.

    Both are ``[P]``, and 0 for the prompts that ``left_out [P]`` marks.
    """

    numerator: Floats
    denominator: Floats
    left_out: Bools
    scale: Scale = "plain"

    def __call__(self, draws: Floats) -> Floats:
        """``[R]``: value in each sample of ``draws [R, P]``; nan where every prompt drawn is left out."""
        with np.errstate(invalid="ignore"):
            return (draws @ self.numerator) / (draws @ self.denominator)

    def estimate(self) -> float:
        """Value for the prompts as they are."""
        return float(self(np.ones((1, self.numerator.size)))[0])

    @property
    def prompts(self) -> int:
        """How many prompts are not left out."""
        return int(self.left_out.size - self.left_out.sum())

    def influence(self) -> Floats:
        """``[P]``: what each prompt adds to estimate − truth, times P and to first order; they sum to 0."""
        with np.errstate(invalid="ignore", divide="ignore"):
            added = (self.numerator - self.estimate() * self.denominator) / self.denominator.mean()
        return np.asarray(added, np.float64)

    def spread(self, draws: Floats, confidence: float) -> Uncertainty:
        """Of the sampling of prompts, with the tail that the samples ``draws [R, P]`` have."""
        variance = mean_variance(self.influence(), self.prompts)
        return Uncertainty(variance, self.prompts - 1, self.tail(draws, confidence))

    def tail(self, draws: Floats, confidence: float) -> float:
        """Critical value of |value − estimate| / error in the samples ``draws [R, P]`` over Student's, at least 1."""
        variance = mean_variance(self.influence(), self.prompts)
        if self.prompts < STUDENTISED_FROM or not variance > 0:
            return 1.0
        found = self._studentised(draws, math.sqrt(variance))
        student = _critical(1.0 - confidence, self.prompts - 1)
        tail = max(1.0, float(np.quantile(found, confidence) / student)) if found.size else 1.0
        return 1.0 + (tail - 1.0) * self._skewed() if self.scale == "difference" else tail

    def interval(self, draws: Floats, confidence: float) -> Interval:
        """The estimate with its interval; the tails are those of the samples ``draws [R, P]``."""
        spread = self.spread(draws, confidence)
        return interval(self.estimate(), spread, confidence, self.prompts, int(self.left_out.sum()), self.scale)

    def _skewed(self) -> float:
        """The share of the variance that varying denominators make, by which a difference leans to one side.

        The rest of a difference is as often too high as too low, so that Student's t holds; resamples of a single
        sample of few prompts cannot tell that, and their tails alone would cover 98 times of 100.
        """
        kept = self.denominator[~self.left_out]
        made = self.estimate() ** 2 * float(((kept - kept.mean()) ** 2).sum())
        return min(1.0, made / float(((self.numerator - self.estimate() * self.denominator) ** 2).sum()))

    def _studentised(self, draws: Floats, error: float) -> Floats:
        """``[≤ R]``: |value − estimate| / its own error in every sample; none where that error is 0."""
        # About the estimate, so that the squares do not cancel.
        estimate, b = self.estimate(), self.denominator
        a = self.numerator - estimate * b
        n, total, weight, aa, ab, bb = (draws @ np.stack([~self.left_out, a, b, a * a, a * b, b * b], axis=1)).T
        with np.errstate(invalid="ignore", divide="ignore"):
            moved = total / weight
            squares = np.maximum(aa - 2.0 * moved * ab + moved**2 * bb, 0.0)
            errors = np.sqrt(squares * n / (n - 1.0)) / weight
            found = np.abs(moved) / errors
        return np.asarray(found[(n > 1) & (errors > _NEGLIGIBLE * error)], np.float64)


def mean_over(values: Floats, left_out: Bools, scale: Scale = "plain") -> PromptRatio:
    """The mean of ``values [P]`` over the prompts that are not left out."""
    return PromptRatio(np.where(left_out, 0.0, values), (~left_out).astype(np.float64), left_out, scale)


def mean_of(ratios: Sequence[PromptRatio]) -> PromptRatio:
    """The mean of statistics with the same denominators, those of several trainings for instance."""
    return replace(ratios[0], numerator=np.mean([ratio.numerator for ratio in ratios], axis=0))


def minus(first: PromptRatio, second: PromptRatio) -> PromptRatio:
    """The paired difference of two statistics with the same denominators: what a prompt adds to both cancels."""
    return replace(first, numerator=first.numerator - second.numerator, scale="difference")


def resample(prompts: int, resamples: int, seed: int) -> Floats:
    """``[resamples, prompts]``: how often each of ``prompts`` prompts is drawn, as many with replacement."""
    drawn = np.random.default_rng(seed).integers(prompts, size=(resamples, prompts))
    drawn += prompts * np.arange(resamples)[:, None]
    return np.bincount(drawn.ravel(), minlength=resamples * prompts).reshape(drawn.shape).astype(np.float64)


def interval(
    estimate: float, spread: Uncertainty, confidence: float, prompts: int, tied: int, scale: Scale = "plain"
) -> Interval:
    """The interval of an estimate, in the shape that its ``scale`` asks for.

    ``plain`` and ``difference``: symmetric; ``signed``, ``share`` and ``gain`` too, cut at −1 … 1, 0 … 1 and 1, beyond
    which no value lies. ``correlation`` and ``auc``: symmetric in Fisher's z (of 2 · auc − 1). ``proportion``:
    Jeffreys', of as many prompts as would have that variance. Without any variance the p-value is that of a sign test,
    and there are no bounds (nan) while it is above 1 − confidence: two or three prompts that agree say little about
    others.
    """
    if not math.isfinite(estimate) or not math.isfinite(spread.variance) or spread.degrees <= 0:
        return Interval(float(estimate), math.nan, math.nan, prompts, tied)
    reach = spread.reach(1.0 - confidence)
    if scale == "proportion":
        return Interval(estimate, *_jeffreys(estimate, spread, confidence, prompts), prompts, tied)
    p = _p_value(estimate, spread, prompts)
    if spread.total == 0 and p > 1.0 - confidence and estimate != 0:
        return Interval(estimate, math.nan, math.nan, prompts, tied, p)
    if scale in _RANGE:
        lowest, highest = _RANGE[scale]
        return Interval(estimate, max(estimate - reach, lowest), min(estimate + reach, highest), prompts, tied, p)
    lower, upper = _fisher(estimate, reach) if scale == "correlation" else _of_auc(estimate, reach)
    return Interval(estimate, lower, upper, prompts, tied, p)


def mean_variance(influence: Floats, prompts: int) -> float:
    """Variance of the mean of ``influence [P]``, all 0 but for ``prompts`` of them; nan of fewer than 2."""
    if prompts < 2:
        return math.nan
    return float((influence**2).sum()) * prompts / (prompts - 1) / influence.size**2


def _critical(level: float, degrees: float) -> float:
    """What |t| of Student's t, or of the normal distribution, exceeds with a probability of ``level``."""
    quantile = special.ndtri(level / 2) if math.isinf(degrees) else special.stdtrit(degrees, level / 2)
    return -float(quantile)


def _pooled(first: float, its_degrees: float, second: float, other_degrees: float) -> tuple[float, float]:
    """The sum of two independent variances, and its degrees of freedom after Satterthwaite."""
    if second == 0:
        return first, its_degrees
    if first == 0:
        return second, other_degrees
    share = first / (first + second)
    return first + second, 1.0 / (share**2 / its_degrees + (1.0 - share) ** 2 / other_degrees)


def _p_value(estimate: float, spread: Uncertainty, prompts: int) -> float:
    if spread.total == 0:  # the same in every prompt: as surprising as that all have one sign
        return 1.0 if estimate == 0 else 2.0 ** (1 - prompts)
    return 1.0 if estimate == 0 else spread.level(abs(estimate))


def _fisher(estimate: float, reach: float) -> tuple[float, float]:
    """tanh(atanh r ± reach / (1 − r²)), which is r itself at ±1."""
    slope = 1.0 - estimate**2
    if slope <= 0:
        return estimate, estimate
    centre = math.atanh(estimate)
    return math.tanh(centre - reach / slope), math.tanh(centre + reach / slope)


def _of_auc(estimate: float, reach: float) -> tuple[float, float]:
    lower, upper = _fisher(2.0 * estimate - 1.0, 2.0 * reach)
    return 0.5 + 0.5 * lower, 0.5 + 0.5 * upper


def _jeffreys(estimate: float, spread: Uncertainty, confidence: float, prompts: int) -> tuple[float, float]:
    """Quantiles of Beta(k + ½, n − k + ½) with k / n the estimate and k (n − k) / n³ its variance."""
    estimate = min(max(estimate, 0.0), 1.0)
    binomial = estimate * (1.0 - estimate)
    count = float(prompts)
    if binomial > _NEGLIGIBLE:
        reach = replace(spread, tail=1.0).reach(1.0 - confidence)
        if reach == 0:
            return estimate, estimate  # the same share in every prompt, of tied predictions
        # As many prompts as would alone have that reach: few trainings know their variance less well.
        variance = (reach / _critical(1.0 - confidence, prompts - 1)) ** 2
        # The variance of P yes-or-no answers is unbiased with P − 1; Jeffreys' counts P of them.
        count = binomial / (variance * (prompts - 1) / prompts)
    successes = estimate * count
    tail = (1.0 - confidence) / 2
    lower = 0.0 if successes <= 0 else special.betaincinv(successes + 0.5, count - successes + 0.5, tail)
    upper = 1.0 if successes >= count else special.betaincinv(successes + 0.5, count - successes + 0.5, 1.0 - tail)
    return float(lower), float(upper)
