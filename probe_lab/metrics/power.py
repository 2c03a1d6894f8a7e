"""How many prompts, and training seeds, it takes to see a difference between two probes.

The difference of the means over S trainings of each, on P prompts that both are tested on, has the variance

    σ²_prompt / P + σ²_training / S + σ²_both / (P S)

(see :mod:`~probe_lab.metrics.measured`), and is tested at a two-sided level with Student's t of the degrees of freedom
that Satterthwaite gives the sum. Prompts alone do not help where the second term is too large: then no number of them
is enough.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from functools import cache

import numpy as np
from scipy import special

from probe_lab.metrics.measured import Measured, Trainings
from probe_lab.metrics.per_prompt import Floats, PromptTable
from probe_lab.metrics.within import WITHIN_METRICS, WithinMetric

POWER, LEVEL = 0.8, 0.05
MOST_PROMPTS = 1_000_000
SKILL, LIKENESS, STABILITY, TRAINING_SD = 0.45, 0.7, 0.9, 0.02
"""What is assumed before anything was measured, see :func:`assumed`."""
_SIMULATED = 4000


@dataclass(frozen=True)
class DifferenceVariance:
    """Variances of the difference of two probes with one training each: between prompts, between trainings (the sum of
    both probes'), and of prompts and trainings together."""

    prompt: float
    training: float
    both: float


def difference_variance(a: Measured, b: Measured) -> DifferenceVariance:
    """The components as two settings show them, tested on the same prompts.

    ``prompt`` and ``both`` are per test prompt, those that tie included: an influence is times the number of all of
    them. ``training`` is nan where both have a single training. ``prompt`` and ``both``
    cannot be told apart then, and all is in ``prompt``.
    """
    sides = (*a.sides, *b.sides)
    both = [_both(side) for side in sides]
    mixed = sum(value / len(side.values) for value, side in zip(both, sides, strict=True))
    several = [side for side in sides if len(side.values) > 1]
    excess = [
        max(float(side.values.var(ddof=1)) - value / len(a.influence), 0.0)
        for side, value in zip(sides, both, strict=True)
        if len(side.values) > 1
    ]
    return DifferenceVariance(
        prompt=max(float((a.influence - b.influence).var(ddof=1)) - mixed, 0.0),
        training=sum(excess) * len(sides) / len(several) if several else math.nan,
        both=sum(both),
    )


def _both(side: Trainings) -> float:
    count = len(side.values)
    if count < 2:
        return 0.0
    apart = side.influence - side.influence.mean(axis=0)
    return float((apart.var(axis=1, ddof=1)).sum() / (count - 1))


@cache
def assumed(metric: WithinMetric, candidates: int) -> DifferenceVariance:
    """The components of two probes of which nothing is known yet, by simulation of normal scores, the same every time.

    Both correlate ``SKILL`` with the score within prompts; what they get wrong correlates ``LIKENESS`` between them,
    and ``STABILITY`` between two trainings of one. Trainings differ by ``TRAINING_SD`` in the metric itself.
    """
    rng = np.random.default_rng(0)
    shape = (_SIMULATED, candidates)
    target, common, *own = (rng.normal(size=shape) for _ in range(4))
    present = np.ones(shape, dtype=np.bool_)

    def trainings(its: Floats) -> Measured:
        error = math.sqrt(LIKENESS) * common + math.sqrt(STABILITY - LIKENESS) * its
        ratios = []
        for _ in range(2):
            noise = error + math.sqrt(1.0 - STABILITY) * rng.normal(size=shape)
            prediction = SKILL * target + math.sqrt(1.0 - SKILL**2) * noise
            ratios.append(WITHIN_METRICS[metric](PromptTable(prediction, target, present)))
        return Measured.of_ratios(ratios)

    variance = difference_variance(trainings(own[0]), trainings(own[1]))
    return replace(variance, training=2 * TRAINING_SD**2)


def with_candidates(variance: DifferenceVariance, metric: WithinMetric, before: int, after: int) -> DifferenceVariance:
    """The components for another number of candidates per prompt, in proportion to what is :func:`assumed` of both."""
    if before == after:
        return variance
    old, new = assumed(metric, before), assumed(metric, after)
    return replace(variance, prompt=variance.prompt * new.prompt / old.prompt, both=variance.both * new.both / old.both)


def power_of(variance: DifferenceVariance, difference: float, prompts: int, trainings: int) -> float:
    """The chance that a true ``difference`` is told from 0 on so many prompts, with so many trainings of each probe.

    With one training of each, the difference of these two trainings is meant, whatever others would be: how trainings
    differ cannot be known from one.
    """
    by_prompt = (variance.prompt + variance.both / trainings) / prompts
    by_training = variance.training / trainings if trainings > 1 else 0.0
    total = by_prompt + by_training
    terms = by_prompt**2 / (prompts - 1) + (by_training**2 / (2 * (trainings - 1)) if trainings > 1 else 0.0)
    if not total > 0:
        return 1.0
    degrees = total**2 / terms
    critical = -float(special.stdtrit(degrees, LEVEL / 2))
    shift = abs(difference) / math.sqrt(total)
    return float(1.0 - special.nctdtr(degrees, shift, critical) + special.nctdtr(degrees, shift, -critical))


def prompts_needed(variance: DifferenceVariance, difference: float, trainings: int, power: float = POWER) -> int | None:
    """The fewest prompts that tell a true ``difference`` from 0 with this power; None where no number of them does."""
    low, high = 2, 4
    while power_of(variance, difference, high, trainings) < power:
        low, high = high, 2 * high
        if high > MOST_PROMPTS:
            return None
    while high - low > 1:
        middle = (low + high) // 2
        if power_of(variance, difference, middle, trainings) < power:
            low = middle
        else:
            high = middle
    return high
