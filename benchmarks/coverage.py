"""How often the 95 % intervals of the project hold the truth, on made-up prompts whose truth is known.

`python -m benchmarks.coverage [--part NAME …] [--prompts N …] [--kind NAME …] [--json FILE]`; an hour of one core.
Every simulation draws new prompts (and trainings) of a world of ``benchmarks/coverage_worlds.py``, of the skewed one
unless another is named, and the functions that reports call make the intervals: metrics within prompts and over all
images, paired differences, curves over the number of candidates, agreement and spread of evaluators, means of the
trade-off, reliability, and, with 3 and 5 trainings, all that is about training seeds too. Coverage should be 0.95. Its
own standard error, √(0.95 · 0.05 / simulations), is 0.005, so of some hundred numbers a few lie 0.012 apart from the
truth by chance.
"""

from __future__ import annotations

import argparse
import sys
from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack
from functools import cache
from pathlib import Path
from typing import Literal, get_args
from unittest.mock import patch

import numpy as np
import pandas as pd

from benchmarks.coverage_worlds import KINDS, Kind, Truth, World, lucks, part_of, world
from benchmarks.output import show
from probe_lab.metrics import Interval, agreements, paired_mean, selection_gain_curve, spreads
from probe_lab.metrics.bootstrap import PromptRatio, mean_over, resample
from probe_lab.metrics.evaluation import METRICS, MetricName, measured
from probe_lab.metrics.measured import Measured
from probe_lab.metrics.within import WITHIN_METRICS, WithinMetric
from probe_lab.report.analysis.intervals import measured_value
from probe_lab.report.analysis.objectives import mean_over_origins
from probe_lab.report.analysis.results import Value
from probe_lab.report.sections.reliability import bins_of, calibration

Part = Literal["within", "over all", "others", "trainings", "over all, trainings"]
PARTS: tuple[Part, ...] = get_args(Part)
PROMPTS = (20, 31, 60, 303)
TRAININGS = (3, 5)
WITHIN: tuple[WithinMetric, ...] = tuple(WITHIN_METRICS)
MEANS: tuple[WithinMetric, ...] = ("srcc_within", "selection_gain")
"""Metrics of which reports show means over evaluators and backbones."""
GLOBAL: tuple[MetricName, ...] = tuple(name for name in METRICS if name not in WITHIN_METRICS)
LOWEST, HIGHEST = 0.93, 0.97
Named = tuple[str, Interval | Value, float]
"""The name of an interval, the interval, and the truth."""
Ratios = Mapping[str, tuple[Sequence[PromptRatio], ...]]
"""By metric within prompts, its value for every training of the two probes."""

SIMULATIONS = 2000
"""Data sets for each number."""
_BLOCK = 100
"""Simulations whose prompts are drawn together: metrics within prompts are computed for all of them at once."""


def within(ratios: Ratios, truth: Mapping[str, float], trainings: int) -> Iterator[Named]:
    """Every metric within prompts of the first probe, and its paired difference to the second."""
    for name, sides in ratios.items():
        first, second = (Measured.of_ratios(side[:trainings]) for side in sides)
        yield name, measured_value(first), truth[name]
        yield f"{name}, difference", measured_value(first.minus(second)), truth[f"{name}, difference"]


def over_all(found: World, truth: Mapping[str, float], threshold: float, trainings: int = 1) -> Iterator[Named]:
    """The same for the metrics over all images."""
    first, second = (measured(tables, GLOBAL, threshold) for tables in found.tables(trainings))
    for name in GLOBAL:
        yield name, measured_value(first[name]), truth[name]
        yield f"{name}, difference", measured_value(first[name].minus(second[name])), truth[f"{name}, difference"]


def others(found: World, truth: Truth) -> Iterator[Named]:
    """What reports show besides of one training: choosing among four, agreement and spread of evaluators, means of the
    trade-off and its paired differences, reliability."""
    yield from among_four(found, truth.values, 1)
    pair = agreements({"a": found.target.ravel(), "b": found.first[0].ravel()}, found.prompts)["a", "b"]
    yield "agreement within prompts", pair.within, truth.values["srcc_within"]
    yield "agreement over all images", pair.overall, truth.values["srcc"]
    spread = spreads({"a": found.target.ravel()}, found.prompts)["a"]
    yield "spread, deviation within prompts", spread.within, truth.values["deviation"]
    yield "spread, range within prompts", spread.range, truth.values["range"]
    first, second = found.chosen()
    mean = Measured.of_ratios([mean_over(first, np.zeros(len(first), np.bool_))])
    yield "trade-off, score", measured_value(mean), truth.values["chosen"]
    yield "trade-off, difference of two probes", paired_mean(first, second), truth.values["chosen, difference"]
    to_random = paired_mean(first, found.target[:, 0])
    yield "trade-off, difference to a random seed", to_random, truth.values["chosen, to random"]
    yield from reliability(found, truth.values, 1)


def among_four(found: World, truth: Mapping[str, float], trainings: int) -> Iterator[Named]:
    """A point of the curves over the number of candidates."""
    predictions = found.first[:trainings].reshape(trainings, -1)
    point = selection_gain_curve(predictions, found.target.ravel(), found.prompts, [4])[4]
    yield "curve, score of the choice among 4", point.score, truth["score among 4"]
    yield "curve, selection gain among 4", point.gain, truth["gain among 4"]
    if trainings == 1:
        yield "curve, best of 4", point.oracle, truth["oracle among 4"]
        yield "curve, any of 4", point.random, truth["random among 4"]


def reliability(found: World, truth: Mapping[str, float], trainings: int) -> Iterator[Named]:
    line = calibration(*(images(found, training) for training in range(trainings)))
    yield "reliability, slope", line.slope, truth["slope"]
    yield "reliability, intercept", line.intercept, truth["intercept"]


def of_trainings(found: World, truth: Truth, trainings: int) -> Iterator[Named]:
    """What reports show of several trainings besides their metrics."""
    yield from among_four(found, truth.lucky, trainings)
    yield from reliability(found, truth.lucky, trainings)


def means(several_ratios: Sequence[Ratios], truth: Mapping[str, float], trainings: int) -> Iterator[Named]:
    """Means over evaluators and backbones: ``several_ratios`` are those of two evaluators, then of the same two with
    other images."""
    for name in MEANS:
        sides = [[Measured.of_ratios(side[:trainings]) for side in ratios[name]] for ratios in several_ratios]
        for label, mark, several in (
            (name, "", [first for first, _ in sides]),
            (f"{name}, difference", ", difference", [first.minus(second) for first, second in sides]),
        ):
            known = float(np.mean([truth[f"{name}{second}{mark}"] for second in ("", "'")]))
            prompts = sum(one.prompts for one in several)
            yield f"{label}, mean of 2 evaluators", mean_over_origins([several[:2]], prompts // 2), known
            both = mean_over_origins([several[:2], several[2:]], prompts)
            yield f"{label}, mean of 2 backbones and 2 evaluators", both, known


def images(found: World, training: int = 0) -> pd.DataFrame:
    """prompt_id, target and prediction of the first probe."""
    prediction = found.first[training].ravel()
    return pd.DataFrame({"prompt_id": found.prompts, "target": found.target.ravel(), "prediction": prediction})


def bars(found: World, truth: Truth) -> float:
    """The share of the bars of a reliability diagram that hold the mean score between the edges of their groups."""
    table = images(found)
    edges = np.quantile(table["prediction"], np.arange(1, 10) / 10)
    known = truth.between(np.concatenate([[-np.inf], edges, [np.inf]]))
    held = [value.lower <= mean <= value.upper for value, mean in zip(bins_of(table).target, known, strict=True)]
    return float(np.mean(held))


def simulate(kind: Kind, prompts: int, part: Part, count: int, seed: int = 0) -> dict[str, float]:
    """Coverage by the name of the interval, of ``count`` simulated data sets."""
    rng = np.random.default_rng([seed, prompts, KINDS.index(kind), PARTS.index(part)])
    truth = Truth.of(kind)
    hits: dict[str, list[float]] = defaultdict(list)
    for start in range(0, count, _BLOCK):
        block = min(_BLOCK, count - start)
        for name, held in _block(kind, prompts, part, block, truth, rng):
            hits[name].append(held)
    return {name: float(np.mean(held)) for name, held in hits.items()}


def _block(
    kind: Kind, prompts: int, part: Part, count: int, truth: Truth, rng: np.random.Generator
) -> Iterator[tuple[str, float]]:
    """Whether each interval of ``count`` simulations holds the truth."""
    trained = part in ("trainings", "over all, trainings")
    luck = [lucks(count, max(TRAININGS), prompts, rng) for _ in range(2)] if trained else [None]
    several = [world(kind, count * prompts, rng, one) for one in luck]  # the images of two backbones
    found = several[0]
    whole = [_ratios(found, WITHIN)] if part in ("within", "trainings") else []
    if part == "trainings":
        whole += [_ratios(found, MEANS, of_second=True), _ratios(several[1], MEANS)]
        whole += [_ratios(several[1], MEANS, of_second=True)]
    for start in range(0, count * prompts, prompts):
        here = found.part(start, prompts)
        ratios = [_part_of(one, start, prompts) for one in whole]
        if part == "within":
            yield from _held(within(ratios[0], truth.values, 1))
        elif part == "over all":
            yield from _held(over_all(here, truth.values, truth.threshold))
        elif part == "others":
            yield from _held(others(here, truth))
            yield "reliability, bars", bars(here, truth)
        elif part == "over all, trainings":
            yield from _held(over_all(here, truth.lucky, truth.threshold, TRAININGS[0]), TRAININGS[0])
        else:
            for trainings in TRAININGS:
                yield from _held(within(ratios[0], truth.lucky, trainings), trainings)
            yield from _held(of_trainings(here, truth, TRAININGS[0]), TRAININGS[0])
            yield from _held(means(ratios, truth.lucky, TRAININGS[0]), TRAININGS[0])


def _ratios(found: World, names: Sequence[WithinMetric], *, of_second: bool = False) -> Ratios:
    first, second = found.tables(len(found.first), of_second=of_second)
    return {name: tuple([WITHIN_METRICS[name](one) for one in side] for side in (first, second)) for name in names}


def _part_of(ratios: Ratios, start: int, prompts: int) -> Ratios:
    return {
        name: tuple([part_of(one, start, prompts) for one in side] for side in sides) for name, sides in ratios.items()
    }


def _held(intervals: Iterator[Named], trainings: int = 1) -> Iterator[tuple[str, float]]:
    for name, interval, known in intervals:
        label = f"{name}, {trainings} trainings" if trainings > 1 else name
        yield label, float(interval.lower <= known <= interval.upper)


def measure(kinds: Sequence[Kind], prompts: Sequence[int], parts: Sequence[Part]) -> dict[str, object]:
    """Coverage by world, prompts and interval."""
    found: dict[str, dict[str, dict[str, float]]] = {kind: {str(count): {} for count in prompts} for kind in kinds}
    with ExitStack() as stack:
        shared = cache(resample)  # the functions draw the same prompts anew each time, from the same seed
        for module in ("metrics.agreement", "metrics.paired", "metrics.gain", "report.analysis.intervals"):
            stack.enter_context(patch(f"probe_lab.{module}.resample", shared))
        for part in parts:
            for kind in kinds:
                for count in prompts:
                    new = simulate(kind, count, part, SIMULATIONS)
                    found[kind][str(count)] |= new
                    print(f"{part}, {kind}, {count} prompts: {new}", file=sys.stderr, flush=True)
    return {
        "benchmark": "coverage",
        "confidence": 0.95,
        "asked": [LOWEST, HIGHEST],
        "simulations": SIMULATIONS,
        "outside": outside(found),
        "coverage": found,
    }


def outside(coverage: Mapping[str, Mapping[str, Mapping[str, float]]]) -> list[str]:
    """The intervals that hold the truth less or more often than is asked."""
    return [
        f"{name} ({kind}, {prompts} prompts): {held:.3f}"
        for kind, by_prompts in coverage.items()
        for prompts, by_name in by_prompts.items()
        for name, held in by_name.items()
        if not LOWEST <= held <= HIGHEST
    ]


def table(result: dict[str, object]) -> str:
    coverage, missed = result["coverage"], result["outside"]
    assert isinstance(coverage, dict)
    assert isinstance(missed, list)
    columns = [(kind, prompts) for kind, by_prompts in coverage.items() for prompts in by_prompts]
    lines = [
        f"| interval | {' | '.join(f'{kind}, {prompts}' for kind, prompts in columns)} |",
        f"|---|{'---:|' * len(columns)}",
    ]
    for name in coverage[columns[0][0]][columns[0][1]]:
        lines.append(f"| {name} | {' | '.join(f'{coverage[kind][at][name]:.3f}' for kind, at in columns)} |")
    lines += ["", f"outside of {LOWEST} … {HIGHEST}: {len(missed)}", *missed]
    return "\n".join(lines)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--part", choices=PARTS, action="append", help="repeatable; default: all")
    parser.add_argument("--prompts", type=int, action="append", help=f"repeatable; default: {PROMPTS}")
    parser.add_argument("--kind", choices=KINDS, action="append", help="repeatable; default: shapes")
    parser.add_argument("--json", type=Path, help="write the figures to this file too")
    arguments = parser.parse_args()
    result = measure(arguments.kind or ("shapes",), arguments.prompts or PROMPTS, arguments.part or PARTS)
    show(result, table, arguments.json)


if __name__ == "__main__":
    main()
