"""Which loss to train with: every loss on the same images, the recommended one chosen on validation prompts alone."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property, reduce
from typing import Literal

import numpy as np
from scipy.stats import rankdata

from probe_lab.metrics import Measured, MetricName, holm, measured_predictions
from probe_lab.metrics.bootstrap import Uncertainty, interval
from probe_lab.metrics.measured import mean_measured
from probe_lab.report.analysis.chosen import SELECTION_METRIC, extra_text, probes
from probe_lab.report.analysis.intervals import as_value, draws, measured_value
from probe_lab.report.analysis.origin import origin_names
from probe_lab.report.analysis.results import CONFIDENCE, ReportedSplit, Results, Value, Variant
from probe_lab.report.layout.style import loss_label, tap_label

Metric = Literal["srcc_within", "selection_gain"]
METRICS: tuple[Metric, ...] = ("srcc_within", "selection_gain")
SELECTION: Metric = "srcc_within"
_SPLITS: tuple[ReportedSplit, ...] = ("val", "test")

REFERENCES = {"listwise": "the ranking loss of Probe-Select", "mse": "the loss of Diffusion Probe"}
"""Losses of the literature that every other one is compared with, and whose they are."""

ALPHA = 1 - CONFIDENCE
"""Two losses are told apart where the p-value of their difference, adjusted for all that are compared, is below."""

MOST = 24
"""Losses that are compared; of more those that validate best."""


@dataclass(frozen=True)
class LossSetting:
    """A loss with the other swept keys that its cells differ in (JSON)."""

    loss: str
    extra: str

    @property
    def label(self) -> str:
        return loss_label(self.loss) + (f", {extra_text(self.extra)}" if self.extra != "{}" else "")


@dataclass(frozen=True)
class LossResult:
    """One loss on one backbone's images by one evaluator, training seeds averaged.

    ``values``: per metric on test prompts; ``single``: of every training seed.
    """

    validation: float
    values: Mapping[Metric, Measured]
    single: Mapping[Metric, tuple[float, ...]]


@dataclass(frozen=True, eq=False)
class LossesCompared:
    """All losses on the same images by the same scores. ``place`` says which step and taps the probes read."""

    origin: str
    evaluator: str
    place: str
    prompts: int
    outcomes: Mapping[LossSetting, LossResult]

    def value(self, objective: LossSetting, metric: Metric) -> Value:
        return measured_value(self.outcomes[objective].values[metric])

    def minus(self, objective: LossSetting, other: LossSetting, metric: Metric) -> Value:
        """Their paired difference."""
        ours, theirs = (self.outcomes[one].values[metric] for one in (objective, other))
        return measured_value(ours.minus(theirs))

    @cached_property
    def distinct(self) -> dict[tuple[LossSetting, LossSetting], float]:
        """p-value of the SRCC within prompts of every two losses being the same, by Holm over all that are asked here:
        each against every reference, and the best against each."""
        references = [one for one in self.outcomes if one.loss in REFERENCES]
        asked = [(one, other) for other in references for one in self.outcomes if one != other]
        asked += [(self.best, one) for one in self.outcomes if one != self.best]
        asked = list({frozenset(pair): pair for pair in asked}.values())
        adjusted = holm([self.minus(*pair, SELECTION).p for pair in asked]).tolist()
        found = dict(zip(asked, adjusted, strict=True))
        return found | {(other, one): p for (one, other), p in found.items()}

    @cached_property
    def best(self) -> LossSetting:
        """The highest within-prompt SRCC on test prompts, which no recommendation looks at."""
        return max(self.outcomes, key=lambda objective: self.outcomes[objective].values[SELECTION].estimate)

    def apart(self, objective: LossSetting) -> bool:
        """Whether the best one is ahead, many comparisons considered."""
        return objective != self.best and self.distinct[self.best, objective] < ALPHA

    @cached_property
    def ranks(self) -> dict[LossSetting, float]:
        """1 for the highest within-prompt SRCC on test prompts; equal ones share the mean of their ranks."""
        values = [-outcome.values[SELECTION].estimate for outcome in self.outcomes.values()]
        return dict(zip(self.outcomes, map(float, rankdata(values)), strict=True))


@dataclass(frozen=True)
class Study:
    """``objectives`` in order of their validation, the recommended one first; ``references`` by their loss;
    ``left_out``: labels of those that are not in every pair, or too many; ``seeds``: fewest and most training seeds."""

    objectives: tuple[LossSetting, ...]
    references: Mapping[str, LossSetting]
    pairs: tuple[LossesCompared, ...]
    left_out: tuple[str, ...]
    seeds: tuple[int, int]

    @property
    def recommended(self) -> LossSetting:
        return self.objectives[0]

    @property
    def origins(self) -> list[str]:
        return list(dict.fromkeys(pair.origin for pair in self.pairs))

    @property
    def evaluators(self) -> list[str]:
        return list(dict.fromkeys(pair.evaluator for pair in self.pairs))

    def validation(self, objective: LossSetting) -> float:
        """Mean over all pairs of the within-prompt SRCC on validation prompts: what decides."""
        return float(np.mean([pair.outcomes[objective].validation for pair in self.pairs]))

    def value(self, objective: LossSetting, metric: Metric) -> Value:
        """Mean over all pairs on test prompts."""
        return self._mean({pair: pair.outcomes[objective].values[metric] for pair in self.pairs})

    def minus(self, objective: LossSetting, other: LossSetting, metric: Metric) -> Value:
        """Mean over all pairs of the paired difference."""
        sides = {pair: [pair.outcomes[one].values[metric] for one in (objective, other)] for pair in self.pairs}
        return self._mean({pair: ours.minus(theirs) for pair, (ours, theirs) in sides.items()})

    @cached_property
    def distinct(self) -> dict[LossSetting, float]:
        """p-value of the recommended loss being as good on average as each other one, by Holm over all of them."""
        others = [one for one in self.objectives if one != self.recommended]
        values = [self.minus(self.recommended, one, SELECTION).p for one in others]
        return dict(zip(others, holm(values).tolist(), strict=True))

    def rank(self, objective: LossSetting) -> float:
        return float(np.mean([pair.ranks[objective] for pair in self.pairs]))

    def apart(self, objective: LossSetting) -> int:
        """In how many pairs it is apart from the best."""
        return sum(pair.apart(objective) for pair in self.pairs)

    def _mean(self, measured: Mapping[LossesCompared, Measured]) -> Value:
        of_origins = [[found for pair, found in measured.items() if pair.origin == name] for name in self.origins]
        return mean_over_origins(of_origins, sum(pair.prompts for pair in measured))


def mean_over_origins(of_origins: Sequence[Sequence[Measured]], prompts: int) -> Value:
    """The mean of all statistics with its interval: those of one origin share its prompts and trainings, those of
    another origin are independent. ``prompts`` is how many count in all."""
    count = sum(map(len, of_origins))
    spreads, estimate = [], 0.0
    for of_origin in of_origins:
        mean, weight = mean_measured(of_origin), len(of_origin) / count
        spreads.append(mean.spread(draws(len(mean.influence)), CONFIDENCE).scaled(weight))
        estimate += mean.estimate * weight
    return as_value(interval(estimate, reduce(Uncertainty.and_of, spreads), CONFIDENCE, prompts, 0))


def study(parts: Sequence[Results], evaluators: Sequence[str], step: int | None = None) -> Study | None:
    """Compare the losses of an experiment, whose origins are ``parts``; None where no two were trained alike.

    Of each origin the probes at the place (model, step and taps) with most losses are taken, of several such that at
    ``step``, then the one that validates best. Only losses that every origin has are compared (origins with less than
    two do not count), by the evaluators that all of them predict there.

    Raises DataError when cells of one place were not tested on the same images with the same scores.
    """
    names = origin_names([results.origin for results in parts])
    trained = {
        name: (results, place)
        for name, results in zip(names, parts, strict=True)
        if (place := _place(results, evaluators, step))
    }
    everything = list(dict.fromkeys(one for _, place in trained.values() for one in place))
    common = [one for one in everything if all(one in place for _, place in trained.values())]
    validated = {
        (name, evaluator): found
        for name, (results, place) in trained.items()
        for evaluator in evaluators
        if (found := _validation(results, {one: place[one] for one in common}, evaluator))
    }
    if len(common) < 2 or not validated:
        return None
    order = sorted(common, key=lambda one: -np.mean([found[one] for found in validated.values()]))
    references = {one.loss: one for one in reversed(order) if one.loss in REFERENCES}
    shown = [one for i, one in enumerate(order) if i < MOST or one in references.values()]
    pairs: list[LossesCompared] = []
    for name, (results, place) in trained.items():
        its = {evaluator: found for (origin, evaluator), found in validated.items() if origin == name}
        pairs += _pairs(results, name, {one: place[one] for one in shown}, its)
    counts = [len(results.seeds(place[one])) for results, place in trained.values() for one in shown]
    left_out = tuple(one.label for one in everything if one not in shown)
    ordered = {loss: references[loss] for loss in REFERENCES if loss in references}
    return Study(tuple(shown), ordered, tuple(pairs), left_out, (min(counts), max(counts)))


def verdict(found: Study) -> str:
    """What to train with, in one sentence, and what is as good in another."""
    best = found.recommended
    compared = [
        _compared(found.minus(best, one, SELECTION), found.distinct[one], one.label, REFERENCES[loss])
        for loss, one in found.references.items()
        if one != best
    ]
    whose = f" ({REFERENCES[best.loss]})" if best in found.references.values() else ""
    level = [one.label for one, p in found.distinct.items() if not p < ALPHA]
    apart = [one for one, p in found.distinct.items() if p < ALPHA]
    ahead = [one.label for one in apart if found.minus(best, one, SELECTION).estimate < 0]
    company = f"Not told apart from it on average: {_list(level)}." if level else "All others are told apart from it."
    company += f" On average {_list(ahead)} {'is' if len(ahead) == 1 else 'are'} ahead of it." if ahead else ""
    count = len(found.pairs)
    return (
        f"Train with {best.label}{whose}: of {len(found.objectives)} losses it ranks the seeds of validation prompts "
        f"best (mean over {_over(found)}); on test prompts its within-prompt SRCC is "
        f"{_bracketed(found.value(best, SELECTION))}{''.join(f', {text}' for text in compared)}, and it is apart from "
        f"the best there in {found.apart(best)} of {count} case{'s' * (count > 1)}. {company}"
    )


def _compared(difference: Value, p: float, other: str, whose: str) -> str:
    if p < ALPHA and difference.estimate > 0:
        return f"{_bracketed(difference)} more than {other} ({whose})"
    if p < ALPHA:
        less = Value(-difference.estimate, -difference.upper, -difference.lower)
        return f"{_bracketed(less)} less than {other} ({whose})"
    return f"not told apart from {other} ({whose}; difference {_bracketed(difference)})"


def _bracketed(value: Value) -> str:
    return f"{value.estimate:.3f} [{value.lower:.3f}, {value.upper:.3f}]".replace("-", "−")


def _over(found: Study) -> str:
    evaluators, origins = len(found.evaluators), len(found.origins)
    parts = [f"{evaluators} evaluator{'s' * (evaluators > 1)}"]
    return " and ".join(parts + [f"{origins} backbones"] * (origins > 1))


def _list(labels: Sequence[str]) -> str:
    return labels[0] if len(labels) == 1 else f"{', '.join(labels[:-1])} and {labels[-1]}"


def _place(results: Results, evaluators: Sequence[str], step: int | None) -> dict[LossSetting, Variant]:
    """The losses of the place with most of them, at the same other keys if all losses have such; empty where there are
    less than two."""
    models = probes(results)
    places: dict[tuple[str, int, str], dict[LossSetting, Variant]] = {}
    for variant in results.variants:
        if variant.model in models:
            key = (variant.model, variant.step, variant.taps)
            places.setdefault(key, {})[LossSetting(variant.loss, variant.extra)] = variant

    def worth(place: dict[LossSetting, Variant]) -> tuple[int, bool, float]:
        values = [results.estimate(one, evaluators[0], SELECTION_METRIC, "val") for one in place.values()]
        strongest = max((value for value in values if np.isfinite(value)), default=-np.inf)
        return len(_losses(place)), next(iter(place.values())).step == step, strongest

    found = max(places.values(), key=worth, default={})
    for extra in dict.fromkeys(one.extra for one in found):
        alike = {one: variant for one, variant in found.items() if one.extra == extra}
        if len(alike) == len(_losses(found)):
            found = alike
            break
    return found if len(_losses(found)) > 1 else {}


def _losses(place: Mapping[LossSetting, Variant]) -> set[str]:
    return {objective.loss for objective in place}


def _validation(results: Results, place: Mapping[LossSetting, Variant], evaluator: str) -> dict[LossSetting, float]:
    """Empty where a loss has no number by this evaluator, on validation or on test prompts."""
    found = {}
    for one, variant in place.items():
        values = [results.estimate(variant, evaluator, SELECTION_METRIC, split) for split in _SPLITS]
        known = [value for value in values if np.isfinite(value)]
        if len(known) < len(_SPLITS):
            return {}
        found[one] = known[0]
    return found


def _pairs(
    results: Results,
    origin: str,
    place: Mapping[LossSetting, Variant],
    validation: Mapping[str, Mapping[LossSetting, float]],
) -> list[LossesCompared]:
    tables = {one: results.tables(variant) for one, variant in place.items()}  # once: a cell's evaluators are one file
    names: list[MetricName] = [*METRICS]
    variant = next(iter(place.values()))
    where = f"step {variant.step}, {tap_label(variant.taps)}"
    found = []
    for evaluator, validated in validation.items():
        values = measured_predictions(tables, names, evaluator=evaluator)
        single = _single(results, place, evaluator)
        outcomes = {
            one: LossResult(validated[one], {metric: values[one][metric] for metric in METRICS}, single[one])
            for one in place
        }
        known = results.predictions(next(iter(results.seeds(variant).values())), evaluator)
        found.append(LossesCompared(origin, evaluator, where, known["prompt_id"].nunique(), outcomes))
    return found


def _single(
    results: Results, place: Mapping[LossSetting, Variant], evaluator: str
) -> dict[LossSetting, dict[Metric, tuple[float, ...]]]:
    rows = results.scores
    rows = rows[(rows["evaluator"] == evaluator) & (rows["split"] == "test") & rows["metric"].isin(METRICS)]
    known = dict(zip(zip(rows["cell"], rows["metric"], strict=True), rows["estimate"], strict=True))
    return {
        one: {
            metric: tuple(float(known[cell, metric]) for cell in results.seeds(variant).values()) for metric in METRICS
        }
        for one, variant in place.items()
    }
