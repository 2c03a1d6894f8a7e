"""What an exhibit is drawn from, and the few things that all of them need."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cache
from typing import Any

import numpy as np
import numpy.typing as npt
import yaml

from probe_lab.report.analysis.chosen import best_on_validation, probes, steps_of
from probe_lab.report.analysis.intervals import as_value
from probe_lab.report.analysis.reads import reads_of
from probe_lab.report.analysis.results import Results, Value, Variant
from probe_lab.report.layout.material import Material, Section
from probe_lab.report.layout.style import evaluator_label
from probe_lab.report.layout.table_forms import Field, Table
from probe_lab.report.sections.paper import PUBLISHED
from probe_lab.report.sections.selection import of_trainings

CAUTION = (
    "For orientation, not comparable: the papers have other models, prompts and evaluators, and their correlations are "
    "over all images at once, much of which is prompt difficulty."
)
TEST = "Ours: test split, unseen prompts; brackets: 95 % interval over prompts."
OF = 5
"""Candidates per prompt that Probe-Select chooses from."""


@dataclass(frozen=True)
class Shown:
    """One swept experiment as an exhibit shows it: ``model`` is its backbone's name, ``steps`` the denoiser calls of
    a whole image."""

    material: Material
    model: str
    steps: int

    @property
    def results(self) -> Results:
        return self.material.results

    @property
    def evaluators(self) -> tuple[str, ...]:
        return self.material.choice.evaluators

    @property
    def probed(self) -> list[int]:
        """The steps at which a probe was trained."""
        return steps_of(self.results, probes(self.results))

    def probe(self, step: int | None = None) -> Variant:
        """The probe that validates best at a step, by default at that of the experiment."""
        if step is None:
            return self.material.choice.best
        found = best_on_validation(self.results, probes(self.results), step, self.evaluators[0])
        assert found is not None  # ``probed`` has only steps of probes
        return found

    def share(self, step: int) -> float:
        """The step as a share of the trajectory: η, or t in Probe-Select."""
        return step / self.steps

    def ahead(self, variant: Variant) -> float:
        """The share of a trajectory that the lookahead of a probe takes, 0 where it reads none."""
        return reads_of(self.results, variant).looks_ahead / self.steps

    def value(self, variant: Variant, evaluator: str, metric: str) -> Value | None:
        """None too where the metric is undefined."""
        found = self.results.value(variant, evaluator, metric)
        return found if found and np.isfinite(found.estimate) else None


Exhibit = Callable[[Shown], Section]


@dataclass(frozen=True)
class Picked:
    """Mean of something over test prompts, of one image per prompt: any one, the one with the highest prediction, and
    the one where it is highest."""

    random: Value
    chosen: Value
    best: Value


@cache
def published() -> dict[str, Any]:
    """The papers' numbers."""
    content: dict[str, Any] = yaml.safe_load(PUBLISHED.read_text(encoding="utf-8"))
    return content


def candidates(shown: Shown) -> int:
    """Candidates of the median test prompt."""
    table = shown.results.predictions(_cells(shown, shown.probe())[0], shown.evaluators[0])
    return int(table.groupby("prompt_id").size().median())


def picked(
    shown: Shown,
    variant: Variant,
    by: str,
    count: int,
    measure: Callable[[npt.NDArray[np.float64]], npt.NDArray[np.float64]] = lambda scores: scores,
    of: str = "",
) -> Picked:
    """One of ``count`` candidates, chosen by the prediction of the evaluator ``by``, measured by the true scores of
    ``of`` (empty: the same evaluator). Exact over all subsets of that size; mean over training seeds."""
    tables = []
    for cell in _cells(shown, variant):
        predicted = shown.results.predictions(cell, by)
        scored = shown.results.predictions(cell, of or by)[["sample_id", "target"]]
        table = predicted.drop(columns="target").merge(scored, on="sample_id")
        tables.append(table.assign(target=measure(table["target"].to_numpy(float))))
    point = of_trainings(tables, [count])[count]
    return Picked(as_value(point.random), as_value(point.score), as_value(point.oracle))


def gain(shown: Shown, variant: Variant, evaluator: str, counts: Sequence[int]) -> list[Value]:
    """Selection gain of the choice among N, 0 = random, 1 = oracle, for every N of ``counts`` (from 2)."""
    tables = [shown.results.predictions(cell, evaluator) for cell in _cells(shown, variant)]
    curve = of_trainings(tables, counts)
    return [as_value(curve[count].gain) for count in counts]


def spread(shown: Shown, variant: Variant, evaluator: str) -> float:
    """Standard deviation of the true scores of all test images."""
    return float(shown.results.predictions(_cells(shown, variant)[0], evaluator)["target"].std())


def paper_table(name: str, title: str, caption: str, columns: Sequence[str], rows: Sequence[Sequence[Field]]) -> Table:
    """The published half of an exhibit."""
    return Table(f"{name}_published", title, caption, tuple(columns), tuple(map(tuple, rows)), digits=2)


def our_table(
    name: str, title: str, caption: str, columns: Sequence[str], rows: Sequence[Sequence[Field]], digits: int = 2
) -> Table:
    """Our half, in the same layout."""
    return Table(name, title, f"{TEST} {caption}".strip(), tuple(columns), tuple(map(tuple, rows)), digits=digits)


def labels(evaluators: Sequence[str]) -> list[str]:
    return [evaluator_label(name) for name in evaluators]


def cost(share: float, keep: int, count: int, ahead: float = 0.0) -> float:
    """η + (1 − η) K/N: what the early choice costs, over that of finishing all N. ``ahead`` is the share of the
    trajectory that a lookahead takes of every candidate besides."""
    return share + ahead + (1 - share) * keep / count


def _cells(shown: Shown, variant: Variant) -> list[str]:
    return list(shown.results.seeds(variant).values())
