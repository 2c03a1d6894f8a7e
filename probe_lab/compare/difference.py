"""The paired difference of two cells, or of two settings with several training seeds each."""

from __future__ import annotations

import dataclasses
import math
import re
from collections.abc import Hashable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, cast

from probe_lab.compare.cell_sheet import PARTS, chosen
from probe_lab.compare.columns import EXPERIMENT, SEED, SHOWN, SeedCells, settings, shown
from probe_lab.compare.query import Query
from probe_lab.compare.sheet import Sheet
from probe_lab.errors import ConfigError, ReportError, nearest
from probe_lab.metrics import METRICS, Interval, MetricName, compare_predictions, holm
from probe_lab.probes.kinds import recorded
from probe_lab.runs import FinishedCell, Runs
from probe_lab.runs.configs import differing

if TYPE_CHECKING:
    import pandas as pd

RESAMPLES = 1000
_ALPHA = 0.05
_NAME = re.compile(r"([^/\s]+/)?[A-Za-z0-9._+-]+")
_KEYS = ("evaluator", "metric", "prompts", "p", "apart")
_NUMBERS = {"A": "A", "B": "B", "difference": "A − B"}


def difference(runs: Runs | Path, first: str, second: str, query: Query, *, resamples: int = RESAMPLES) -> Sheet:
    """A − B per evaluator and metric, on the first of the query's splits; of a query count also ``metrics``,
    ``evaluators``, and ``where`` and ``cells`` for both sides.

    ``first`` and ``second`` name cells: a whole name, its beginning or any part of it, with "experiment/" before it
    where there are several experiments; or an expression as in ``where``. Several cells are one side when they differ
    in nothing but their training seed: their mean is taken.
    Columns: evaluator, metric, ``prompts`` that the numbers rest on, ``p`` of the difference being 0 by Holm over all
    rows, ``apart`` ("yes" where that is below 0.05), and A, B and difference with their bounds.

    Raises:
        ConfigError: a filter that is none, or a metric that there is not.
        ReportError: a side that names no cell, or cells of several settings; an evaluator or metric that not both
            have.
        DataError: the two sides were not tested on the same images with the same scores.
    """
    sides = [_side(Runs.of(runs), wanted, query) for wanted in (first, second)]
    a, b = (setting[0] for setting in sides)
    split = query.splits[0]
    metrics = _metrics(query)
    ours, theirs = ([cell.predictions() for cell in setting] for setting in sides)
    compared: list[tuple[str, str, tuple[Interval, Interval, Interval]]] = []
    without_threshold = []
    for evaluator in _evaluators(a, b, query):
        threshold = _threshold(a, evaluator)
        if threshold is None or threshold != _threshold(b, evaluator):
            without_threshold.append(evaluator)
            threshold = None
        possible = [metric for metric in metrics if metric != "auc" or threshold is not None]
        found = compare_predictions(
            ours, theirs, possible, evaluator=evaluator, split=split, threshold=threshold, resamples=resamples
        )
        compared += [(evaluator, metric, three) for metric, three in found.items()]
    adjusted = holm([three[2].p for _, _, three in compared]).tolist()
    rows = [_row(evaluator, metric, three, p) for (evaluator, metric, three), p in zip(compared, adjusted, strict=True)]
    notes = [f"{letter}: {_told(setting)}" for letter, setting in zip("AB", sides, strict=True)]
    if "auc" in metrics and without_threshold:
        notes.append(f"no auc for {', '.join(without_threshold)}: the files do not hold one threshold for both")
    return Sheet(_frame(rows), _KEYS, _NUMBERS, _title(split), (*notes, *_covered(sides)))


def _title(split: str) -> str:
    return (
        f"A − B on the {split} split, paired over its prompts, 95 % intervals (p: of the difference being 0, by Holm "
        f"over all rows; apart: p < {_ALPHA})"
    )


def _covered(sides: Sequence[SeedCells]) -> tuple[str, ...]:
    """What the intervals are not about."""
    single = [letter for letter, setting in zip("AB", sides, strict=True) if _trained_by_seed(setting)]
    if not single:
        return ()
    verb = "has" if len(single) == 1 else "have"
    return (
        f"{' and '.join(single)} {verb} one training seed: how much another training would differ is not in the "
        "intervals; three seeds or more say it",
    )


def _trained_by_seed(setting: SeedCells) -> bool:
    """Whether it is a single training that another seed would change."""
    return len(setting) == 1 and recorded(setting[0].model).by_gradient


def _side(runs: Runs, wanted: str, query: Query) -> SeedCells:
    finished = runs.finished(query.cells)
    if _NAME.fullmatch(wanted):
        if query.where:
            finished = [cell.folder for cell in chosen(runs.read(finished), query, runs)]
        cells = runs.read(runs.called(wanted, finished))
    else:  # one test of both, so that each knows which keys the other names
        where = f"({query.where}) and ({wanted})" if query.where.strip() else wanted
        cells = chosen(runs.read(finished), dataclasses.replace(query, where=where), runs)
    found = settings(cells)
    if len(found) > 1:
        names = [name for name in SHOWN.values() if name != SEED]
        apart = [name for name in names if len({shown(cell)[name] for cell in cells}) > 1]
        apart += [EXPERIMENT] * (len({cell.experiment for cell in cells}) > 1)
        keys = [*apart, *differing([cell.config for cell in cells])] or ["the evaluators that they predict"]
        raise ReportError(
            f"'{wanted}' names {len(cells)} cells, which differ in {', '.join(keys)}: name more of one, such as the "
            "digits at its end, or write a filter; only training seeds are averaged"
        )
    return found[0]


def _metrics(query: Query) -> list[MetricName]:
    for metric in query.metrics:
        if metric not in METRICS:
            raise ConfigError(f"there is no metric '{metric}': {nearest(metric, METRICS)}")
    return [cast(MetricName, metric) for metric in query.metrics or METRICS]


def _evaluators(a: FinishedCell, b: FinishedCell, query: Query) -> list[str]:
    both = [name for name in a.evaluators if name in b.evaluators]
    if not both:
        raise ReportError(f"A predicts {', '.join(a.evaluators)} and B {', '.join(b.evaluators)}: nothing is common")
    for name in query.evaluators:
        if name not in both:
            raise ReportError(f"not both of A and B predict the evaluator '{name}': {nearest(name, both)}")
    return list(query.evaluators or both)


def _threshold(cell: FinishedCell, evaluator: str) -> float | None:
    """The score above which the cell's AUC counts an image as good, where its files say it."""
    threshold = cell.thresholds.get(evaluator, cell.config.get("metrics.auc_threshold"))
    return None if threshold is None else float(str(threshold))


def _row(evaluator: str, metric: str, three: tuple[Interval, Interval, Interval], p: float) -> dict[str, Hashable]:
    row: dict[str, Hashable] = {
        "evaluator": evaluator,
        "metric": metric,
        "prompts": three[2].prompts,
        "p": None if math.isnan(p) else float(f"{p:.2g}"),
        "apart": "yes" if p < _ALPHA else "no",
    }
    for name, value in zip(_NUMBERS, three, strict=True):
        row |= dict(zip((name + part for part in PARTS), (value.estimate, value.lower, value.upper), strict=True))
    return row


def _frame(rows: Sequence[dict[str, Hashable]]) -> pd.DataFrame:
    import pandas as pd

    return pd.DataFrame(rows, columns=[*_KEYS, *(name + part for name in _NUMBERS for part in PARTS)])


def _told(setting: SeedCells) -> str:
    ended, smaller = sum(bool(cell.stopped) for cell in setting), sum(bool(cell.reduced) for cell in setting)
    text = setting[0].name
    if len(setting) > 1:
        seeds = ", ".join(str(cell.seed) for cell in setting)
        text += f" and {len(setting) - 1} more: training seeds {seeds}, their mean"
    text += f" ({ended} of {len(setting)} stopped before the last epoch)" if ended else ""
    return text + (f" ({smaller} of {len(setting)} in smaller batches, as memory ran out)" if smaller else "")
