"""Made-up prompts whose truth is known, for ``benchmarks/coverage.py``.

``gauss``: all prompts are alike. ``shapes``: scores pile up at a ceiling, prompts differ in how much their seeds differ
(lognormal) and in how well the probe ranks them. Each world has two evaluators, a probe, a second one that shares half
of what the first says, and several trainings of both.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import cache
from typing import Literal

import numpy as np
import numpy.typing as npt
from scipy import stats

from probe_lab.metrics.bootstrap import Interval, PromptRatio, minus
from probe_lab.metrics.gain import selection_gain_curve
from probe_lab.metrics.per_prompt import Floats, PromptTable
from probe_lab.metrics.within import WITHIN_METRICS

Kind = Literal["gauss", "shapes"]
KINDS: tuple[Kind, ...] = ("gauss", "shapes")
SEEDS = 8
SPREAD = 0.08
"""Standard deviation of a training's skill: about what seeds of the quick-start's probes differ by."""

_BATCHES, _MANY = 60, 5_000
"""Of prompts, for the truth."""


@dataclass(frozen=True)
class World:
    """Scores ``target [P, M]`` of two evaluators, and predictions ``[S, P, M]`` by S trainings of two probes."""

    target: Floats
    second_target: Floats
    first: Floats
    second: Floats

    def part(self, start: int, prompts: int) -> World:
        """That of some of its prompts."""
        kept = slice(start, start + prompts)
        return World(self.target[kept], self.second_target[kept], self.first[:, kept], self.second[:, kept])

    def tables(self, trainings: int = 1, *, of_second: bool = False) -> tuple[list[PromptTable], list[PromptTable]]:
        """The first trainings of each probe, as the metrics read them, with the scores of one of the evaluators."""
        target = self.second_target if of_second else self.target
        present = np.ones_like(target, np.bool_)
        first, second = (
            [PromptTable(prediction, target, present) for prediction in probe[:trainings]]
            for probe in (self.first, self.second)
        )
        return first, second

    @property
    def prompts(self) -> npt.NDArray[np.int64]:
        """``[P · M]``: the number of each image's prompt."""
        return np.repeat(np.arange(len(self.target)), SEEDS)

    def chosen(self) -> tuple[Floats, Floats]:
        """``[P]``: the score of the candidate that each probe's first training ranks highest."""
        first, second = (
            np.take_along_axis(self.target, probe[0].argmax(axis=1)[:, None], 1)[:, 0]
            for probe in (self.first, self.second)
        )
        return first, second


def world(kind: Kind, prompts: int, rng: np.random.Generator, luck: Floats | None = None) -> World:
    """``luck`` [2, S, prompts or 1] is how good each training of each probe happened to be, 0 on average (None: S = 1,
    0)."""
    luck = np.zeros((2, 1, 1)) if luck is None else luck
    own, noise, other = rng.standard_normal((3, prompts, SEEDS))
    if kind == "gauss":
        skill = np.full((prompts, 1), 0.45)
        easy = rng.standard_normal((prompts, 1))
        target, second_target = (0.8 * easy + 0.6 * part for part in (own, 0.8 * own + 0.6 * other))
        offset = 0.5 * rng.standard_normal((prompts, 1))
    else:
        skill = np.tanh(rng.normal(0.5, 0.6, (prompts, 1)))
        easy = rng.normal(0, 0.8, (prompts, 1))
        extent = np.exp(rng.normal(-0.3, 0.9, (prompts, 1)))
        target, second_target = (
            1 - np.exp(-np.exp(0.8 * (easy + extent * part) + 0.8)) for part in (own, 0.8 * own + 0.6 * other)
        )
        offset = 0.4 * easy
    probes = []
    for share, of_probe in zip((1.0, 0.6), luck, strict=True):
        known = np.clip(skill * share + of_probe[:, :, None], -0.95, 0.95)
        blur = np.sqrt(0.5) * (noise + rng.standard_normal((len(of_probe), prompts, SEEDS)))
        probes.append(offset + known * own + np.sqrt(1 - known**2) * blur)
    return World(target, second_target, *probes)


def lucks(simulations: int, trainings: int, prompts: int, rng: np.random.Generator) -> Floats:
    """``[2, trainings, simulations · prompts]``: every simulation has its own, the same for all its prompts."""
    return np.repeat(SPREAD * rng.standard_normal((2, trainings, simulations)), prompts, axis=2)


@dataclass(frozen=True)
class Truth:
    """The values of many prompts and, in ``lucky``, of many trainings, by name; those of the second evaluator end with
    "'". ``threshold`` is the median score; ``prediction`` and ``target`` [n] are images in the order of their
    prediction.

    Metrics over all images are scipy's and NumPy's.
    """

    values: Mapping[str, float]
    lucky: Mapping[str, float]
    threshold: float
    prediction: Floats
    target: Floats

    @staticmethod
    @cache
    def of(kind: Kind) -> Truth:
        """Means over batches of many prompts; the luck of trainings is stratified."""
        rng = np.random.default_rng(7)
        threshold = float(np.median(world(kind, 50_000, rng).target))
        strata = SPREAD * stats.norm.ppf((np.arange(_BATCHES) + 0.5) / _BATCHES)
        luck = np.stack([rng.permutation(strata), rng.permutation(strata)])
        plain: dict[str, list[float]] = {}
        lucky: dict[str, list[float]] = {}
        images = []
        for batch in range(_BATCHES):
            found = world(kind, _MANY, rng)
            images.append(np.stack([found.first[0].ravel(), found.target.ravel()], axis=1))
            # Metrics within prompts are linear in what a prompt adds, so that each may have a training of its own.
            trained = world(kind, _MANY, rng, SPREAD * rng.standard_normal((2, 1, _MANY)))
            at_once = world(kind, _MANY, rng, luck[:, None, batch : batch + 1])
            for into, values in (
                (plain, [*_within(found), *_over_all(found, threshold), *_others(found)]),
                (lucky, [*_within(trained), *_over_all(at_once, threshold), *_among_four(trained)]),
            ):
                for name, value in values:
                    into.setdefault(name, []).append(value)
        pooled = np.concatenate(images)
        pooled = pooled[np.argsort(pooled[:, 0])]
        known, of_trainings = (
            {name: float(np.mean(values)) for name, values in batches.items()} for batches in (plain, lucky)
        )
        return Truth(known, of_trainings, threshold, pooled[:, 0], pooled[:, 1])

    def between(self, edges: Floats) -> Floats:
        """Mean score of the images whose prediction lies between two neighbours of ``edges``."""
        at = np.searchsorted(self.prediction, edges)
        total = np.concatenate([[0.0], np.cumsum(self.target)])
        means: Floats = np.diff(total[at]) / np.diff(at)
        return means


def part_of(ratio: PromptRatio, start: int, prompts: int) -> PromptRatio:
    """The same statistic of some of its prompts."""
    kept = slice(start, start + prompts)
    return PromptRatio(ratio.numerator[kept], ratio.denominator[kept], ratio.left_out[kept], ratio.scale)


def _within(found: World) -> Iterator[tuple[str, float]]:
    for of_second in (False, True):
        (first,), (second,) = found.tables(of_second=of_second)
        mark = "'" if of_second else ""
        for name, metric in WITHIN_METRICS.items():
            one, other = metric(first), metric(second)
            yield f"{name}{mark}", one.estimate()
            yield f"{name}{mark}, difference", minus(one, other).estimate()


def _over_all(found: World, threshold: float) -> Iterator[tuple[str, float]]:
    target = found.target.ravel()
    first, second = (_pooled(probe[0].ravel(), target, threshold) for probe in (found.first, found.second))
    for name, value in first.items():
        yield name, value
        yield f"{name}, difference", value - second[name]


def _pooled(prediction: Floats, target: Floats, threshold: float) -> dict[str, float]:
    high = target > threshold
    slope, intercept = np.polyfit(prediction, target, 1)
    above = stats.mannwhitneyu(prediction[high], prediction[~high]).statistic
    return {
        "srcc": float(stats.spearmanr(prediction, target).statistic),
        "ktc": float(stats.kendalltau(prediction, target).statistic),
        "pcc": float(stats.pearsonr(prediction, target).statistic),
        "auc": float(above / high.sum() / (~high).sum()),
        "slope": float(slope),
        "intercept": float(intercept),
    }


def _among_four(found: World) -> Iterator[tuple[str, float]]:
    point = selection_gain_curve(found.first[0].ravel(), found.target.ravel(), found.prompts, [4], resamples=2)[4]
    for name in ("score", "gain", "oracle", "random"):
        interval: Interval = getattr(point, name)
        yield f"{name} among 4", interval.estimate


def _others(found: World) -> Iterator[tuple[str, float]]:
    yield from _among_four(found)
    first, second = found.chosen()
    yield "chosen", float(first.mean())
    yield "chosen, difference", float((first - second).mean())
    yield "chosen, to random", float((first - found.target[:, 0]).mean())
    yield "deviation", float(found.target.std(axis=1, ddof=1).mean())
    yield "range", float(np.ptp(found.target, axis=1).mean())
