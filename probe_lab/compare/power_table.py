"""How large an experiment has to be for which difference, from its finished cells or from stated assumptions."""

from __future__ import annotations

import itertools
import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from rich.table import Table

from probe_lab.compare.columns import settings
from probe_lab.errors import DataError
from probe_lab.metrics import measured_predictions
from probe_lab.metrics.power import (
    LEVEL,
    LIKENESS,
    POWER,
    SKILL,
    STABILITY,
    TRAINING_SD,
    DifferenceVariance,
    assumed,
    difference_variance,
    prompts_needed,
    with_candidates,
)
from probe_lab.metrics.within import WithinMetric
from probe_lab.probes.kinds import recorded
from probe_lab.runs import Runs
from probe_lab.runs.files import finished_names

if TYPE_CHECKING:
    from probe_lab.compare.columns import SeedCells

METRICS: dict[WithinMetric, str] = {"srcc_within": "SRCC within prompts", "selection_gain": "selection gain"}
DIFFERENCES = (0.02, 0.05, 0.1)
CANDIDATES = (4, 8, 16)
TRAININGS = (1, 2, 4, 8)
_SETTINGS = 8
"""So many settings, the best on validation, are paired: their pairs are what is compared, and take a moment each."""


@dataclass(frozen=True)
class PowerBasis:
    """What the numbers rest on: components by metric, of prompts with ``candidates`` seeds, and their origin."""

    variances: dict[WithinMetric, DifferenceVariance]
    candidates: int
    text: str


def basis_of(folder: Path, evaluator: str) -> PowerBasis:
    """From the finished cells in a runs folder: medians over the pairs of its settings; assumptions where there are
    fewer than two settings that were tested alike.

    ReportError where a cell is damaged.
    """
    cells = Runs(folder).cells() if finished_names(folder) else []
    rankers = [
        cell
        for cell in cells
        if recorded(cell.model).ranks and not recorded(cell.model).shuffled and evaluator in cell.evaluators
    ]
    best = sorted(settings(rankers), key=lambda cells: _validation(cells, evaluator), reverse=True)[:_SETTINGS]
    pairs = list(itertools.combinations(best, 2))
    found: dict[WithinMetric, list[DifferenceVariance]] = {metric: [] for metric in METRICS}
    candidates = 0
    for first, second in pairs:
        tables = {side: [cell.predictions() for cell in cells] for side, cells in enumerate((first, second))}
        try:
            measured = measured_predictions(tables, list(METRICS), evaluator=evaluator)
        except DataError:  # not tested on the same images
            continue
        for metric in METRICS:
            found[metric].append(difference_variance(measured[0][metric], measured[1][metric]))
        own = tables[0][0]
        own = own[(own["split"] == "test") & (own["evaluator"] == evaluator)]
        candidates = int(own.groupby("prompt_id").size().median())
    if not found["srcc_within"]:
        return assumed_basis()
    known = any(math.isfinite(one.training) for one in found["srcc_within"])
    number = len(found["srcc_within"])
    text = f"from {number} pair{'s' if number > 1 else ''} of settings in {folder}, medians"
    if not known:
        text += f"; none has several training seeds, whose standard deviation is assumed to be {TRAINING_SD:g}"
    return PowerBasis({metric: _median(values) for metric, values in found.items()}, candidates, text)


def assumed_basis() -> PowerBasis:
    """Before there is a cell."""
    return PowerBasis(
        {metric: assumed(metric, 8) for metric in METRICS},
        8,
        f"assumed, since nothing is trained yet: both probes correlate {SKILL:g} with the score within prompts, what "
        f"they get wrong {LIKENESS:g} with each other and {STABILITY:g} between two trainings, whose standard "
        f"deviation is {TRAINING_SD:g}",
    )


def power_tables(basis: PowerBasis, differences: Sequence[float] = ()) -> list[Table]:
    """One table per metric: the test prompts for each difference and number of seeds per prompt, by training seeds."""
    tables = []
    for metric, label in METRICS.items():
        table = Table(
            title=f"Test prompts for a difference in {label} ({POWER:.0%} power, two-sided {LEVEL:.0%})",
            title_justify="left",
            box=None,
            pad_edge=False,
        )
        table.add_column("difference", justify="right")
        table.add_column("seeds per prompt", justify="right")
        for trainings in TRAININGS:
            table.add_column(f"{trainings} training seed{'s' if trainings > 1 else ''}", justify="right")
        for difference in differences or DIFFERENCES:
            for candidates in CANDIDATES:
                variance = with_candidates(basis.variances[metric], metric, basis.candidates, candidates)
                needed = [prompts_needed(variance, difference, trainings) for trainings in TRAININGS]
                numbers = [f"{count:,}" if count else "never" for count in needed]
                table.add_row(f"{difference:g}", str(candidates), *numbers)
        tables.append(table)
    return tables


def power_lines(basis: PowerBasis) -> list[str]:
    """What has to be known beside the tables."""
    texts = []
    for metric, label in METRICS.items():
        variance = basis.variances[metric]
        prompt, training = math.sqrt(variance.prompt + variance.both), math.sqrt(variance.training / 2)
        texts.append(f"{label} {prompt:.3f} per prompt and {training:.3f} per training")
    return [
        f"Standard deviations of a paired difference and of a training: {', '.join(texts)} ({basis.candidates} seeds "
        f"per prompt; {basis.text}).",
        "With one training seed each, the two trainings at hand are compared: other trainings may differ by more. "
        '"never": trainings differ so much that no number of prompts helps, only more of them.',
    ]


def _validation(cells: SeedCells, evaluator: str) -> float:
    entries = [cell.entries.get(("val", evaluator, "srcc_within"), {}).get("estimate") for cell in cells]
    values = [float(value) for value in entries if value is not None]
    return float(np.mean(values)) if values else -math.inf


def _median(found: Sequence[DifferenceVariance]) -> DifferenceVariance:
    trainings = [one.training for one in found if math.isfinite(one.training)]
    return DifferenceVariance(
        prompt=float(np.median([one.prompt for one in found])),
        training=float(np.median(trainings)) if trainings else 2 * TRAINING_SD**2,
        both=float(np.median([one.both for one in found])),
    )
