"""The tap to use: the cheapest one that validates as well as the best, or none where validation cannot tell."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pandas as pd
from safetensors import SafetensorError, safe_open

from probe_lab.config.schema import Select
from probe_lab.metrics import Measured, holm
from probe_lab.metrics.bootstrap import mean_over
from probe_lab.metrics.per_prompt import Floats
from probe_lab.report.analysis.chosen import SELECTION_METRIC, best_on_validation, probes
from probe_lab.report.analysis.intervals import by_prompt, measured_value
from probe_lab.report.analysis.reads import Reads, reads_of
from probe_lab.report.analysis.results import CONFIDENCE, Results, Value, Variant
from probe_lab.report.layout.material import Material
from probe_lab.runs import WEIGHTS


@dataclass(frozen=True)
class CandidateCost:
    """What a candidate costs, in the order in which it counts; None where it is not known. ``calls`` of the denoiser
    and runs of ``evaluators`` are those for every seed, ``selection`` are the calls of choosing and finishing."""

    calls: int
    evaluators: int
    size: int | None
    parameters: int | None
    selection: int | None = None

    @property
    def key(self) -> tuple[int, int, int, int, int]:
        return self.selection or 0, self.calls, self.evaluators, self.size or 0, self.parameters or 0


@dataclass(frozen=True)
class SelectionCalls:
    """What the experiment's ``select`` begins and finishes: ``keep`` of ``candidates``, of ``steps`` each."""

    candidates: int
    keep: int
    steps: int

    def calls(self, step: int, ahead: int) -> int:
        """Denoiser calls for one prompt: all to ``step`` with their lookaheads, then those that are kept to the end."""
        return self.candidates * (step + ahead) + self.keep * (self.steps - step)


@dataclass(frozen=True)
class ReadingPlace:
    """A step with what is read there: ``behind`` is the best one's metric minus its own.

    ``as_good``: that may be 0, and the metric itself may not (with few prompts, everything is near everything).
    """

    variant: Variant
    reads: Reads
    cost: CandidateCost
    validation: Value
    behind: Value

    @property
    def as_good(self) -> bool:
        return self.behind.lower <= 0 < self.validation.lower


@dataclass(frozen=True)
class Guide:
    """``candidates`` in order of cost; ``pick`` is the cheapest as good as ``best`` on ``prompts`` of validation.

    ``pick`` is None where no candidate is known to rank better than chance: ``p``, the lowest by Holm of those whose
    SRCC is above 0, is not below 0.05. Each stands for all trainings at its place, so its p is multiplied by their
    number first. ``seeds``: the fewest training seeds of a candidate.
    """

    candidates: tuple[ReadingPlace, ...]
    best: ReadingPlace
    pick: ReadingPlace | None
    prompts: int
    p: float = math.nan
    seeds: int = 1


def guides(material: Material) -> dict[str, Guide]:
    """The decision for every evaluator that a probe predicts, from validation alone."""
    results = material.results
    chosen = {name: candidates_of(results, name) for name in material.choice.evaluators}
    wanted: dict[str, list[str]] = {}
    for evaluator, candidates in chosen.items():
        for variant in candidates:
            for cell in results.seeds(variant).values():
                wanted.setdefault(cell, []).append(evaluator)
    # Cell by cell: the predictions of a cell are one file for all evaluators.
    scores = {(cell, name): per_prompt(results, cell, name) for cell, names in wanted.items() for name in names}
    found = {}
    for evaluator, candidates in chosen.items():
        trainings = {
            variant: [scores[cell, evaluator] for cell in results.seeds(variant).values()] for variant in candidates
        }
        columns = {(i, j): column for i, own in enumerate(trainings.values()) for j, column in enumerate(own)}
        table = pd.DataFrame(columns).dropna()
        if len(table):
            values = [table[i].to_numpy(float).T for i in range(len(trainings))]
            tried = [len(trained_at(results, variant, evaluator)) for variant in candidates]
            found[evaluator] = decided(material, candidates, values, tried)
    return found


def decided(material: Material, chosen: Sequence[Variant], values: Sequence[Floats], tried: Sequence[int]) -> Guide:
    """``values`` [S, prompts] of each candidate: SRCC of every training seed in every prompt. ``tried``: of how many
    trainings each is the best."""
    nobody = np.zeros(values[0].shape[1], np.bool_)
    measured = [Measured.of_ratios([mean_over(row, nobody, "signed") for row in own]) for own in values]
    best = max(range(len(measured)), key=lambda i: measured[i].estimate)
    found = [
        ReadingPlace(
            variant,
            reads_of(material.results, variant),
            cost_of(material, variant),
            measured_value(own),
            Value(0.0, 0.0, 0.0) if own is measured[best] else measured_value(measured[best].minus(own)),
        )
        for variant, own in zip(chosen, measured, strict=True)
    ]
    ordered = sorted(found, key=lambda candidate: candidate.cost.key)
    adjusted = holm([min(1.0, own.validation.p * number) for own, number in zip(found, tried, strict=True)])
    above = [value for value, own in zip(adjusted, found, strict=True) if own.validation.estimate > 0]
    p = float(np.nanmin([1.0, *above]))
    pick = next((candidate for candidate in ordered if candidate.as_good), None) if p < 1 - CONFIDENCE else None
    return Guide(tuple(ordered), found[best], pick, len(nobody), p, min(len(own) for own in values))


def candidates_of(results: Results, evaluator: str) -> list[Variant]:
    """Of every step, tap set and set of scalars, the probe that validates best by this evaluator (mean over training
    seeds)."""
    models = probes(results)
    places = {(v.step, v.taps, results.scalars(v)): None for v in results.variants if v.model in models}
    found = []
    for step, taps, scalars in places:
        variant = best_on_validation(results, models, step, evaluator, taps, scalars)
        if variant and math.isfinite(results.estimate(variant, evaluator, SELECTION_METRIC, "val")):
            found.append(variant)
    return found


def trained_at(results: Results, variant: Variant, evaluator: str) -> list[Variant]:
    """The probes at the place of this one that were validated by the evaluator: it is the best of them."""
    place = variant.step, variant.taps, results.scalars(variant)
    models = probes(results)
    return [
        other
        for other in results.variants
        if other.model in models
        and (other.step, other.taps, results.scalars(other)) == place
        and math.isfinite(results.estimate(other, evaluator, SELECTION_METRIC, "val"))
    ]


def per_prompt(results: Results, cell: str, evaluator: str) -> pd.Series[float]:
    """prompt_id -> SRCC within the prompt on validation, without the prompts whose seeds tie."""
    prompts, ratio = by_prompt(results.predictions(cell, evaluator, "val"), "srcc_within")
    return pd.Series(ratio.numerator, index=prompts)[~ratio.left_out]


def cost_of(material: Material, variant: Variant) -> CandidateCost:
    """Calls up to its step and for its lookahead, evaluators of what it decodes, bytes of its arrays per image in the
    cache, trained parameters of its first training seed."""
    size, reads = None, reads_of(material.results, variant)
    if material.cache:
        manifest = material.cache.manifest
        taps = [tap for tap in variant.taps.split("+") if tap in manifest.taps]
        size = sum(math.prod(manifest.taps[tap]) for tap in taps) * manifest.array_dtype.itemsize
    cell = next(iter(material.results.seeds(variant).values()))
    finished = material.results.trained[cell]
    finished.require(WEIGHTS)
    trained = parameters(finished.folder / WEIGHTS)
    selection = selection_of(material)
    return CandidateCost(
        variant.step + reads.looks_ahead,
        len(reads.scores),
        size,
        trained,
        None if selection is None else selection.calls(variant.step, reads.looks_ahead),
    )


def selection_of(material: Material) -> SelectionCalls | None:
    """By the configuration of the best probe's first cell; None where it does not say the steps of an image."""
    cell = next(iter(material.results.seeds(material.choice.best).values()))
    written, default = material.results.written(cell), Select()
    steps = material.cache.manifest.steps if material.cache else written.get("sampling.steps")
    if not steps:
        return None
    candidates = written.get("select.candidates", default.candidates)
    keep = written.get("select.keep", default.keep)
    return SelectionCalls(*(int(str(count)) for count in (candidates, keep, steps)))


def parameters(path: Path) -> int | None:
    """Numbers that training sets, statistics of the data left out; None where there is no such file."""
    try:
        with safe_open(path, framework="numpy") as file:
            shapes = {name: file.get_slice(name).get_shape() for name in file.keys()}
    except (OSError, SafetensorError):
        return None
    trained = [name for name in shapes if not name.startswith("target_") and ".standardise." not in f".{name}"]
    return sum(math.prod(shapes[name]) for name in trained)
