"""A metric of one or several trainings on the same prompts, and differences and means of such.

Prompts and trainings are both samples: other prompts, and other training seeds, would give another number. The mean
over S trainings of a statistic over P prompts has, with crossed random effects of prompts, trainings and both,

    variance = σ²_prompt / P + σ²_training / S + σ²_both / (P S)

The first and the last are the variance over prompts of what each adds to the mean over trainings. The second is what
the trainings' own values differ by, beyond what their errors on single prompts explain: (MS_training − MS_both) / (P S)
of the analysis of variance (Owen, *The pigeonhole bootstrap*, 2007, compares the resampling of both). With one
training it cannot be known, and the interval is about other prompts alone.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import reduce

import numpy as np

from probe_lab.metrics.bootstrap import (
    Interval,
    PromptRatio,
    Scale,
    Uncertainty,
    interval,
    mean_of,
    mean_variance,
    minus,
)
from probe_lab.metrics.per_prompt import Floats

MOST_DELETED = 1000
"""Groups of prompts that the jackknife leaves out in turn, where there are more prompts than that."""


@dataclass(frozen=True)
class Trainings:
    """One setting: the value of every training ``[S]``, and what each prompt adds to it, ``[S, P]``."""

    values: Floats
    influence: Floats

    def same(self, other: Trainings) -> bool:
        """Whether they are the same trainings."""
        return np.array_equal(self.values, other.values) and np.array_equal(self.influence, other.influence)

    def cancelled(self) -> Trainings:
        """What is left of them in a difference whose other side they are too: nothing."""
        return Trainings(np.zeros_like(self.values), np.zeros_like(self.influence))

    def spread(self, prompts: int) -> Uncertainty:
        """What they add to the uncertainty of their mean: MS_training / (P S), and the part of it that prompts explain,
        MS_both / (P S). Nothing of a single training."""
        count = len(self.values)
        if count < 2 or prompts < 2:
            return Uncertainty(0.0, math.inf)
        between = float(self.values.var(ddof=1)) / count
        both = self.influence - self.influence.mean(axis=0)
        explained = sum(mean_variance(row, prompts) for row in both) / (count - 1) / count
        return Uncertainty(0.0, math.inf, between=between, training_degrees=count - 1, explained=explained)


@dataclass(frozen=True)
class Measured:
    """A statistic with what is needed for its interval.

    ``influence [P]`` is what each prompt adds to it (times P), ``sides`` the trainings whose mean or difference it is,
    ``ratios`` the statistics whose resamples say how heavy its tails are (none: as Student's). Of P prompts,
    ``prompts`` count and ``tied`` are left out.
    """

    estimate: float
    influence: Floats
    prompts: int
    tied: int
    scale: Scale
    sides: tuple[Trainings, ...]
    ratios: tuple[PromptRatio, ...] = ()

    @staticmethod
    def of_ratios(trainings: Sequence[PromptRatio]) -> Measured:
        """The mean over trainings of a ratio of sums over prompts; all have the same denominators."""
        mean = mean_of(trainings)
        side = Trainings(
            np.array([ratio.estimate() for ratio in trainings]), np.stack([ratio.influence() for ratio in trainings])
        )
        return Measured(
            mean.estimate(),
            mean.influence(),
            mean.prompts,
            int(mean.left_out.sum()),
            mean.scale,
            (side,),
            (mean,),
        )

    @staticmethod
    def of_jackknife(values: Floats, deleted: Floats, prompts: int, scale: Scale) -> Measured:
        """The mean over trainings of any statistic: ``values [S]``, and ``deleted [S, G]`` without each group of
        prompts (see :func:`left_out_in_turn`)."""
        groups = deleted.shape[1]
        mean = deleted.sum(axis=1, keepdims=True) / max(groups, 1)
        influence = (groups - 1) * (mean - deleted)
        side = Trainings(values, influence)
        return Measured(float(values.mean()), influence.mean(axis=0), prompts, 0, scale, (side,))

    def minus(self, other: Measured) -> Measured:
        """The paired difference on the same prompts: what a prompt adds to both cancels, and what they share of
        trainings. The sides of both stay in their places, so that differences by several evaluators can be averaged,
        also where both say the same for one evaluator (two losses that collapsed, for instance) and not for another."""
        ours, theirs = _without_shared(self.sides, other.sides), _without_shared(other.sides, self.sides)
        return Measured(
            self.estimate - other.estimate,
            self.influence - other.influence,
            self.prompts,
            self.tied,
            "difference",
            (*ours, *theirs),
            tuple(minus(one, another) for one, another in zip(self.ratios, other.ratios, strict=True)),
        )

    def spread(self, draws: Floats, confidence: float) -> Uncertainty:
        """Over prompts, with the tails of the samples ``draws [R, P]``, and over trainings where there are several."""
        count = min(self.prompts, len(self.influence))
        tail = max((ratio.tail(draws, confidence) for ratio in self.ratios), default=1.0)
        prompts = Uncertainty(mean_variance(self.influence, count), count - 1, tail)
        sides = [side.spread(count) for side in self.sides]
        return reduce(Uncertainty.and_of, sides, prompts)

    def interval(self, draws: Floats, confidence: float) -> Interval:
        """The estimate with its interval and p-value."""
        spread = self.spread(draws, confidence)
        return interval(self.estimate, spread, confidence, self.prompts, self.tied, self.scale)


def _without_shared(sides: Sequence[Trainings], others: Sequence[Trainings]) -> list[Trainings]:
    return [side.cancelled() if any(side.same(another) for another in others) else side for side in sides]


def mean_measured(several: Sequence[Measured]) -> Measured:
    """The mean of statistics of the same trainings on the same prompts, by several evaluators for instance."""
    first = several[0]
    sides = tuple(
        Trainings(np.mean([side.values for side in like], axis=0), np.mean([side.influence for side in like], axis=0))
        for like in zip(*(one.sides for one in several), strict=True)
    )
    return replace(
        first,
        estimate=float(np.mean([one.estimate for one in several])),
        influence=np.mean([one.influence for one in several], axis=0),
        prompts=max(one.prompts for one in several),
        tied=min(one.tied for one in several),
        sides=sides,
        ratios=tuple(ratio for one in several for ratio in one.ratios),
    )


def left_out_in_turn(prompts: int) -> Floats:
    """``[G, P]`` weights of prompts: each without one of them, or one of ``MOST_DELETED`` groups of equal size."""
    groups = min(prompts, MOST_DELETED)
    weights = np.ones((groups, prompts))
    weights[np.arange(prompts) % groups, np.arange(prompts)] = 0.0
    return weights
