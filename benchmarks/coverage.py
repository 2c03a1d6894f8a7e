"""How often the 95 % intervals of the project hold the truth, on made-up prompts whose truth is known.

`python -m benchmarks.coverage [--simulations N] [--json FILE]`. Two worlds: `gauss`, in which all prompts are alike,
and `shapes`, whose scores pile up at a ceiling, whose prompts differ in how much their seeds differ (lognormal) and in
how well the probe ranks them. Each world has a probe, a second one that shares half of what the first says, and
several trainings of both. The truth is the mean over many prompts (and trainings); each simulation draws new prompts,
and the function that the reports call makes the interval. Coverage should be 0.95; its own standard error is
√(0.95 · 0.05 / simulations), 0.005 for 2 000.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Literal

import numpy as np
import pandas as pd

from benchmarks.output import show
from probe_lab.metrics import Interval, agreements, paired_mean
from probe_lab.metrics.bootstrap import mean_over, resample
from probe_lab.metrics.correlation import Pooled
from probe_lab.metrics.evaluation import METRICS, MetricName, measured
from probe_lab.metrics.measured import Measured
from probe_lab.metrics.prompts import Floats, PromptTable
from probe_lab.metrics.selection import selection_gain_curve
from probe_lab.metrics.within import WITHIN_METRICS
from probe_lab.report.load import Value
from probe_lab.report.reliability import bins_of, calibration

Kind = Literal["gauss", "shapes"]
KINDS: tuple[Kind, ...] = ("gauss", "shapes")
PROMPTS = (20, 31, 60, 303)
SEEDS = 8
TRAININGS = (3, 5)
WITHIN: tuple[MetricName, ...] = tuple(WITHIN_METRICS)
GLOBAL: tuple[MetricName, ...] = tuple(name for name in METRICS if name not in WITHIN_METRICS)
Bounds = tuple[float, float]


@dataclass(frozen=True)
class World:
    """Scores ``target [P, M]``, and predictions ``[S, P, M]`` by S trainings of two probes."""

    target: Floats
    first: Floats
    second: Floats

    def part(self, start: int, prompts: int) -> World:
        """That of some of its prompts."""
        kept = slice(start, start + prompts)
        return World(self.target[kept], self.first[:, kept], self.second[:, kept])

    def tables(self, trainings: int = 1) -> tuple[list[PromptTable], list[PromptTable]]:
        """The first trainings of each probe, as the metrics read them."""
        present = np.ones_like(self.target, np.bool_)
        first, second = (
            [PromptTable(prediction, self.target, present) for prediction in probe[:trainings]]
            for probe in (self.first, self.second)
        )
        return first, second


def world(kind: Kind, prompts: int, rng: np.random.Generator, trainings: Floats | None = None) -> World:
    """``trainings`` [2, S] is how good each training of each probe happened to be, 0 on average (None: S = 1, 0)."""
    luck = np.zeros((2, 1)) if trainings is None else trainings
    own, noise = rng.standard_normal((2, prompts, SEEDS))
    if kind == "gauss":
        skill = np.full((prompts, 1), 0.45)
        easy = rng.standard_normal((prompts, 1))
        target = 0.8 * easy + 0.6 * own
        offset = 0.5 * rng.standard_normal((prompts, 1))
    else:
        skill = np.tanh(rng.normal(0.5, 0.6, (prompts, 1)))
        easy = rng.normal(0, 0.8, (prompts, 1))
        target = 1 - np.exp(-np.exp(0.8 * (easy + np.exp(rng.normal(-0.3, 0.9, (prompts, 1))) * own) + 0.8))
        offset = 0.4 * easy
    probes = []
    for share, of_probe in zip((1.0, 0.6), luck, strict=True):
        known = np.clip(skill * share + of_probe[:, None, None], -0.95, 0.95)
        blur = np.sqrt(0.5) * (noise + rng.standard_normal((len(of_probe), prompts, SEEDS)))
        probes.append(offset + known * own + np.sqrt(1 - known**2) * blur)
    return World(target, *probes)


def within(found: World, trainings: int = 1) -> Iterator[tuple[str, Measured]]:
    """Every metric within prompts of the first probe, and its paired difference to the second."""
    yield from _metrics(found, WITHIN, None, trainings)


def over_all(found: World, threshold: float, trainings: int = 1) -> Iterator[tuple[str, Measured]]:
    """The same for the metrics over all images."""
    yield from _metrics(found, GLOBAL, threshold, trainings)


def _metrics(
    found: World, names: Sequence[MetricName], threshold: float | None, trainings: int
) -> Iterator[tuple[str, Measured]]:
    first, second = (measured(tables, names, threshold) for tables in found.tables(trainings))
    for name in names:
        yield name, first[name]
        yield f"{name}, difference", first[name].minus(second[name])


def others(found: World) -> Iterator[tuple[str, Interval | Value]]:
    """What reports show besides: choosing among four, agreement, means of the trade-off and its paired differences."""
    prompts = len(found.target)
    prompt = np.repeat(np.arange(prompts), SEEDS)
    point = selection_gain_curve(found.first[0].ravel(), found.target.ravel(), prompt, [4])[4]
    yield "score of the choice among 4", point.score
    yield "selection gain among 4", point.gain
    pair = agreements({"a": found.target.ravel(), "b": found.first[0].ravel()}, prompt)["a", "b"]
    yield "agreement within prompts", pair.within
    yield "agreement over all images", pair.overall
    chosen = [
        np.take_along_axis(found.target, probe[0].argmax(axis=1)[:, None], 1)[:, 0]
        for probe in (found.first, found.second)
    ]
    draws = resample(prompts, 1000, 0)
    yield "trade-off, score", mean_over(chosen[0], np.zeros(prompts, np.bool_)).interval(draws, 0.95)
    yield "trade-off, difference of two probes", paired_mean(*chosen)
    yield "trade-off, difference to a random seed", paired_mean(chosen[0], found.target[:, 0])
    line = calibration(flat(found))
    yield "reliability, slope", line.slope
    yield "reliability, intercept", line.intercept


def flat(found: World) -> pd.DataFrame:
    """prompt_id, target and prediction of the first probe."""
    prompts = np.repeat(np.arange(len(found.target)), SEEDS)
    return pd.DataFrame({"prompt_id": prompts, "target": found.target.ravel(), "prediction": found.first[0].ravel()})


def bars(found: World, truth: Callable[[Floats], Floats]) -> float:
    """The share of the bars of a reliability diagram that hold ``truth(edges)``, the mean score between the edges of
    the groups."""
    table = flat(found)
    edges = np.quantile(table["prediction"], np.arange(1, 10) / 10)
    known = truth(np.concatenate([[-np.inf], edges, [np.inf]]))
    held = [value.lower <= mean <= value.upper for value, mean in zip(bins_of(table).target, known, strict=True)]
    return float(np.mean(held))


def simulate(kind: Kind, prompts: int, simulations: int, parts: Sequence[str], seed: int = 0) -> dict[str, float]:
    """Coverage by the name of the interval. ``parts``: "within", "over all", "others", "trainings"."""
    rng = np.random.default_rng([seed, prompts, KINDS.index(kind)])
    truth = Truth.of(kind)
    draws = resample(prompts, 1000, 0)
    hits: dict[str, list[float]] = {}

    def count(name: str, interval: Interval | Value) -> None:
        hits.setdefault(name, []).append(interval.lower <= truth.values[name] <= interval.upper)

    for _ in range(simulations):
        found = world(kind, prompts, rng)
        if "within" in parts:
            for name, statistic in within(found):
                count(name, statistic.interval(draws, 0.95))
        if "over all" in parts:
            for name, statistic in over_all(found, truth.threshold):
                count(name, statistic.interval(draws, 0.95))
        if "others" in parts:
            for name, interval in others(found):
                count(name, interval)
            hits.setdefault("reliability, bars", []).append(bars(found, truth.between))
        if "trainings" in parts:
            for trainings in TRAININGS:
                lucky = world(kind, prompts, rng, SPREAD * rng.standard_normal((2, trainings)))
                for name, statistic in within(lucky, trainings):
                    held = statistic.interval(draws, 0.95)
                    known = truth.lucky[name]
                    hits.setdefault(f"{name}, {trainings} trainings", []).append(held.lower <= known <= held.upper)
    return {name: float(np.mean(found)) for name, found in hits.items()}


def _estimates_over_all(found: World, threshold: float) -> Iterator[tuple[str, float]]:
    """The values of :func:`over_all` without the work for their intervals."""
    once = np.ones((1, len(found.target)))
    first, second = (Pooled(tables[0], threshold).statistics(once) for tables in found.tables())
    for name in GLOBAL:
        yield name, float(first[name][0])
        yield f"{name}, difference", float(first[name][0] - second[name][0])


SPREAD = 0.08
"""Standard deviation of a training's skill: about what seeds of the quick-start's probes differ by."""
_MANY, _BATCHES = 5_000, 40


@dataclass(frozen=True)
class Truth:
    """The values of many prompts by name, ``lucky`` those over all trainings too; ``threshold`` is the median score.

    ``prediction`` and ``target`` [n] are images in the order of their prediction.
    """

    values: Mapping[str, float]
    lucky: Mapping[str, float]
    threshold: float
    prediction: Floats
    target: Floats

    @staticmethod
    @cache
    def of(kind: Kind, batches: int = _BATCHES) -> Truth:
        """By ``batches`` of many prompts."""
        rng = np.random.default_rng(7)
        threshold = float(np.median(world(kind, 50_000, rng).target))
        sums: dict[str, list[float]] = {}
        lucky: dict[str, list[float]] = {}
        images = []
        for _ in range(batches):
            found = world(kind, _MANY, rng)
            for name, statistic in within(found):
                sums.setdefault(name, []).append(statistic.estimate)
            for name, estimate in _estimates_over_all(found.part(0, 400), threshold):
                sums.setdefault(name, []).append(estimate)
            for name, interval in others(found.part(0, 500)):
                sums.setdefault(name, []).append(interval.estimate)
            images.append(flat(found)[["prediction", "target"]].to_numpy())
            several = world(kind, _MANY // 10, rng, SPREAD * rng.standard_normal((2, 10)))
            for name, statistic in within(several, 10):
                lucky.setdefault(name, []).append(statistic.estimate)
        pooled = np.concatenate(images)
        pooled = pooled[np.argsort(pooled[:, 0])]
        means = {name: float(np.mean(found)) for name, found in sums.items()}
        return Truth(means, {n: float(np.mean(v)) for n, v in lucky.items()}, threshold, pooled[:, 0], pooled[:, 1])

    def between(self, edges: Floats) -> Floats:
        """Mean score of the images whose prediction lies between two neighbours of ``edges``."""
        at = np.searchsorted(self.prediction, edges)
        total = np.concatenate([[0.0], np.cumsum(self.target)])
        means: Floats = np.diff(total[at]) / np.diff(at)
        return means


def measure(simulations: int) -> dict[str, object]:
    """Coverage by world, prompts and interval; intervals over all images and of many prompts with a quarter."""
    found: dict[str, dict[str, dict[str, float]]] = {}
    for kind in KINDS:
        for prompts in PROMPTS:
            quarter = simulations // 4
            few = simulate(kind, prompts, quarter if prompts > 100 else simulations, ("over all", "others"))
            many = simulate(kind, prompts, simulations, ("within",))
            trained = simulate(kind, prompts, quarter if prompts > 100 else simulations // 2, ("trainings",))
            found.setdefault(kind, {})[str(prompts)] = many | few | trained
            print(f"{kind}, {prompts} prompts: {found[kind][str(prompts)]}", file=sys.stderr, flush=True)
    return {"benchmark": "coverage", "confidence": 0.95, "simulations": simulations, "coverage": found}


def table(result: dict[str, object]) -> str:
    coverage = result["coverage"]
    assert isinstance(coverage, dict)
    columns = [(kind, prompts) for kind, by_prompts in coverage.items() for prompts in by_prompts]
    lines = [
        f"| interval | {' | '.join(f'{kind}, {prompts}' for kind, prompts in columns)} |",
        f"|---|{'---:|' * len(columns)}",
    ]
    for name in coverage[columns[0][0]][columns[0][1]]:
        lines.append(f"| {name} | {' | '.join(f'{coverage[kind][at][name]:.3f}' for kind, at in columns)} |")
    return "\n".join(lines)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--simulations", type=int, default=2000)
    parser.add_argument("--json", type=Path, help="write the figures to this file too")
    arguments = parser.parse_args()
    show(measure(arguments.simulations), table, arguments.json)


if __name__ == "__main__":
    main()
