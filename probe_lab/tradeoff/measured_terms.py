"""What ``breakeven`` asks for, read off what was measured: a trade-off, or the cells of a sweep."""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import numpy as np
from scipy.optimize import nnls

from probe_lab.probes.kinds import recorded
from probe_lab.runs import FinishedCell, Runs
from probe_lab.runs.cell import Measure
from probe_lab.runs.files import finished_names
from probe_lab.tradeoff.breakeven import Chooser, Priced, expected_best
from probe_lab.tradeoff.records import ROWS, Tradeoff, TradeoffRow

Unit = Literal["seconds", "operations", "calls"]
_MEASURED: tuple[Chooser, ...] = ("probe", "preview", "lookahead")
_COUNTED: tuple[Priced, ...] = ("call", "decode", "evaluator", "probe")


@dataclass(frozen=True)
class MeasuredTerms:
    """Prices in ``unit``, skills, and losses by fewer steps, with the sentence that says where they come from."""

    prices: dict[Priced, float]
    skills: dict[Chooser, float]
    fewer: dict[int, float]
    unit: Unit
    text: str


def terms_of(folder: Path, evaluator: str, step: int, steps: int) -> MeasuredTerms:
    """Of the trade-off in a runs folder where that is by ``evaluator`` with its cut at ``step`` of ``steps``; else of
    its cells at that step. With nothing there all is empty.

    ReportError for damaged files.
    """
    made = Tradeoff.load(folder)
    if made is not None and (made.about.evaluator, _cut(made.rows)) == (evaluator, (step, steps)):
        return of_tradeoff(made.rows, f"{folder}/{ROWS}")
    cells = Runs(folder).cells() if finished_names(folder) else []
    alike = [
        cell
        for cell in cells
        if cell.step == step and evaluator in cell.evaluators and cell.written.get("sampling.steps", steps) == steps
    ]
    skills = _of_cells(alike, evaluator)
    where = f"at step {step} of {steps} by {evaluator} in {folder}"
    text = f"selection gain of the cells {where}" if skills else f"no cell {where}"
    if made is not None:
        cut = "step {} of {}".format(*_cut(made.rows))
        text += f"; {ROWS} there is of {cut} by {made.about.evaluator}, and is not used"
    return MeasuredTerms({"call": 1.0}, skills, {}, "calls", text)


def _cut(rows: Sequence[TradeoffRow]) -> tuple[int, int]:
    """The step of the single cut, and the number of steps; 0 of 0 where no way has it."""
    return next(((int(row.schedule.partition(":")[0]), row.steps) for row in rows if row.way in _MEASURED), (0, 0))


def of_tradeoff(rows: Sequence[TradeoffRow], source: str) -> MeasuredTerms:
    """A way's skill is the part that it wins of what the best of as many wins, averaged over the numbers of candidates;
    what a finished image loses by fewer steps is told likewise. Prices are those that least squares finds for the
    measured times (else the operations), none below 0."""
    base = next(row.score for row in rows if row.way == "random")
    best = {row.candidates: row.score - base for row in rows if row.way == "best_of_n" and row.score > base}
    skills: dict[Chooser, list[float]] = defaultdict(list)
    fewer: dict[int, list[float]] = defaultdict(list)
    for row in rows:
        if row.candidates not in best:
            continue
        share = (row.score - base) / best[row.candidates]
        if row.way == "fewer_steps":
            fewer[row.steps].append(expected_best(row.candidates) * (1.0 - share))
        for chooser in _MEASURED:
            if row.way == chooser:
                skills[chooser].append(share)
    prices, unit = _prices(rows)
    return MeasuredTerms(
        prices,
        {chooser: float(np.clip(np.mean(shares), -1.0, 1.0)) for chooser, shares in skills.items()},
        {steps: float(np.mean(losses)) for steps, losses in sorted(fewer.items())},
        unit,
        source,
    )


def _prices(rows: Sequence[TradeoffRow]) -> tuple[dict[Priced, float], Unit]:
    timed = [row for row in rows if math.isfinite(row.seconds) and row.way in _PARTS]
    counted = [row for row in rows if math.isfinite(row.flops) and row.way in _PARTS]
    if len(timed or counted) < len(_COUNTED):
        return {"call": 1.0}, "calls"
    used = timed or counted
    amounts = np.array([[row.calls, *_PARTS[row.way](row.candidates), 1.0] for row in used])  # and the text encoder
    costs = np.array([row.seconds if timed else row.flops for row in used])
    prices, _ = nnls(amounts / costs[:, None], np.ones(len(used)))  # relative errors: a large N shall not decide all
    if not prices[0] > 0:
        return {"call": 1.0}, "calls"
    return dict(zip(_COUNTED, prices.tolist(), strict=False)), "seconds" if timed else "operations"


_PARTS = {
    "random": lambda candidates: (1, 0, 0),
    "best_of_n": lambda candidates: (candidates, candidates, 0),
    "fewer_steps": lambda candidates: (candidates, candidates, 0),
    "preview": lambda candidates: (candidates + 1, candidates, 0),
    "lookahead": lambda candidates: (candidates + 1, candidates, 0),
    "probe": lambda candidates: (1, 0, candidates),
}
"""Images decoded, evaluations, and candidates that the probe sees, of a way with so many candidates."""


def _of_cells(cells: Sequence[FinishedCell], evaluator: str) -> dict[Chooser, float]:
    """The selection gain on test prompts of the probe that validates best, and of previews."""
    gain, validation = (Measure(split, evaluator, metric) for split, metric in _MEASURES)
    probes = [cell for cell in cells if not recorded(cell.model).is_baseline and not cell.halved]
    shown: dict[Chooser, FinishedCell] = {}
    if probes:
        shown["probe"] = max(probes, key=lambda cell: _or_lowest(cell.number(validation, "estimate")))
    models: dict[str, Chooser] = {"x0_preview": "preview", "tiny_preview": "tiny_preview"}
    shown |= {models[cell.model]: cell for cell in cells if cell.model in models}
    numbers = {chooser: cell.number(gain, "estimate") for chooser, cell in shown.items()}
    return {chooser: number for chooser, number in numbers.items() if math.isfinite(number)}


_MEASURES = (("test", "selection_gain"), ("val", "srcc_within"))


def _or_lowest(value: float) -> float:
    return value if math.isfinite(value) else -math.inf
