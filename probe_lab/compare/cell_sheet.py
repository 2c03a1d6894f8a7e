"""From a query to the sheet of cells."""

from __future__ import annotations

import functools
import math
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from probe_lab.compare.query import DEFAULT_METRIC, Query
from probe_lab.compare.sheet import Sheet
from probe_lab.compare.sheet_rows import SheetRow, in_order, rows_of
from probe_lab.config.choice import Choice, Operand
from probe_lab.errors import ReportError, nearest
from probe_lab.runs import FinishedCell, Measure, Runs
from probe_lab.runs.configs import differing
from probe_lab.sweep.normalise import answers_of_loss
from probe_lab.sweep.tap_patterns import TapNames

if TYPE_CHECKING:
    import pandas as pd

PARTS = ("", "/lower", "/upper")
_SPLITS = {"test": "test split (unseen prompts)", "val": "validation split"}


def compared(runs: Runs | Path, query: Query) -> Sheet:
    """The rows that a query asks for, of the finished cells of a runs folder or of several.

    All cells in a folder count, also those of earlier sweeps and of ``train``. A row that is the mean of several
    cells has the means of their estimates and of their bounds: such bounds say how wide the interval of one cell is.

    Raises:
        ReportError: no finished cell, none that ``where`` lets through, or a metric, evaluator, split or column that
            no cell has.
        ConfigError: ``where`` is no test, or ``group`` or ``best`` no key.
        SweepError, CaptureError: it cannot be told which taps a set is, that ``where`` names.
    """
    runs = Runs.of(runs)
    cells = chosen(runs.cells(query.cells), query, runs)
    measures = measures_of(cells, query, runs)
    chosen_by = Measure("val", measures[0].evaluator, measures[0].metric)
    if query.best and chosen_by not in measures:
        measures = [*measures, chosen_by]
    rows = _sorted(rows_of(cells, query, chosen_by), measures, query)
    kept = rows[: query.limit]
    keys = tuple(dict.fromkeys(key for row in kept for key in row.told))
    shown = [cell for row in kept for cell in row.cells]
    stopped, reduced = sum(bool(cell.stopped) for cell in shown), sum(bool(cell.reduced) for cell in shown)
    keys += ("stopped",) * bool(stopped) + ("reduced",) * bool(reduced)
    return Sheet(
        frame=_frame(kept, keys, measures),
        keys=keys,
        numbers=_headings(measures, query),
        title=_title(query, measures, chosen_by),
        notes=_notes(kept, len(rows), stopped, reduced),
    )


def chosen(cells: Sequence[FinishedCell], query: Query, runs: Runs) -> list[FinishedCell]:
    """The cells that ``where`` lets through, all for an empty one. ReportError when none is left."""
    choice = Choice.parse(query.where, differing([cell.config for cell in cells]), where="the filter")
    names_model = choice.names("probe.model")
    matching = [cell for cell in cells if choice.holds(functools.partial(_value, cell, query.sets, names_model))]
    if not matching:
        raise ReportError(f"none of the {len(cells)} finished cells in {runs} matches '{query.where}': loosen it")
    return matching


def _value(cell: FinishedCell, sets: TapNames | None, names_model: bool, key: str) -> Operand:
    value = cell.experiment if key == "name" else cell.config.get(key)
    if key == "probe.loss" and not answers_of_loss(cell.model, names_model):
        value = None
    content = list(value) if isinstance(value, tuple) else value
    return Operand(content, of_key=True) if sets is None else Operand(content, sets.called(key, content), of_key=True)


def measures_of(cells: Sequence[FinishedCell], query: Query, runs: Runs) -> list[Measure]:
    """The numbers that are asked for and that some cell has. ReportError for what none has."""
    held = dict.fromkeys(key for cell in cells for key in cell.entries)
    found = []
    for split in query.splits:
        there = [key for key in held if key[0] == split]
        if not there:
            raise ReportError(f"no cell in {runs} has the split '{split}': {nearest(split, {k[0] for k in held})}")
        for metric in query.metrics or (DEFAULT_METRIC,):
            of_metric = [key for key in there if key[2] == metric]
            if not of_metric:
                names = {key[2] for key in there}
                raise ReportError(f"no cell in {runs} has the metric '{metric}': {nearest(metric, names)}")
            evaluators = list(dict.fromkeys(key[1] for key in of_metric))
            for evaluator in query.evaluators or evaluators:
                if evaluator not in evaluators:
                    raise ReportError(
                        f"no cell in {runs} predicts the evaluator '{evaluator}': {nearest(evaluator, evaluators)}"
                    )
                found.append(Measure(split, evaluator, metric))
    return found


def _sorted(rows: list[SheetRow], measures: Sequence[Measure], query: Query) -> list[SheetRow]:
    """By a number the best first, by a key in its order; those that are equal in it by the first number."""
    if not query.best:
        rows = sorted(rows, key=lambda row: _best_first(row.number(measures[0])))
    if not query.sort:
        return rows
    by = next((m for m in measures if query.sort in (m.column, m.metric, m.evaluator)), None)
    if by is not None:
        return sorted(rows, key=lambda row: _best_first(row.number(by)))
    told = dict.fromkeys(key for row in rows for key in row.told)
    keys = [key for key in told if key == query.sort or key.endswith(f".{query.sort}")]
    if not keys:
        names = [*told, *(measure.column for measure in measures)]
        raise ReportError(f"the table has no column '{query.sort}' to sort by: {nearest(query.sort, names)}")
    return sorted(rows, key=lambda row: in_order(row.told.get(keys[0])))


def _best_first(value: float) -> float:
    return math.inf if math.isnan(value) else -value


def _frame(rows: Sequence[SheetRow], keys: Sequence[str], measures: Sequence[Measure]) -> pd.DataFrame:
    import pandas as pd

    told = [row.told | {"stopped": row.stopped, "reduced": row.reduced} for row in rows]
    frame = pd.DataFrame([{key: one.get(key) for key in keys} for one in told], columns=list(keys))
    numbers = {
        measure.column + part: [row.number(measure, part.strip("/") or "estimate") for row in rows]
        for measure in measures
        for part in PARTS
    }
    return pd.concat([frame, pd.DataFrame(numbers, dtype="float64")], axis=1)


def _headings(measures: Sequence[Measure], query: Query) -> dict[str, str]:
    """What differs between the columns; the title says the rest."""
    metrics, splits = {m.metric for m in measures}, {m.split for m in measures}
    found = {}
    for measure in measures:
        words = [
            measure.evaluator,
            measure.metric if len(metrics) > 1 else "",
            measure.split if len(splits) > 1 else "",
        ]
        found[measure.column] = "\n".join(word for word in words if word)
    return found


def _title(query: Query, measures: Sequence[Measure], chosen_by: Measure) -> str:
    metrics = ", ".join(dict.fromkeys(measure.metric for measure in measures))
    splits = " and ".join(_SPLITS.get(split, split) for split in query.splits)
    text = f"{metrics} on the {splits}, 95 % intervals over prompts"
    if query.group:
        return f"{text}; means over all settings per {', '.join(query.group)}"
    if query.best:
        by = f"{chosen_by.metric} of {chosen_by.evaluator}"
        return f"{text}; the best per {', '.join(query.best)} by {by} on the validation split"
    return f"{text}; means over training seeds" if query.seeds else text


def _notes(kept: Sequence[SheetRow], rows: int, stopped: int, reduced: int) -> tuple[str, ...]:
    notes = [f"{len(kept)} of {rows} rows: `--limit 0` shows all"] if len(kept) < rows else []
    if any(len(row.cells) > 1 for row in kept):
        notes.append("the bounds of a mean are the means of its cells' bounds")
    if stopped:
        notes.append(f"{stopped} of the cells were stopped before their last epoch (column stopped)")
    if reduced:
        notes.append(f"{reduced} of the cells were trained in smaller batches, as memory ran out (column reduced)")
    return tuple(notes)
