"""Cells to rows: alone, averaged over seeds, grouped, or the best of each value of a key."""

from __future__ import annotations

import math
from collections.abc import Callable, Hashable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import TypeVar

import numpy as np

from probe_lab.compare.columns import EXPERIMENT, SEED, SeedCells, keys_named, settings, shown, value_of
from probe_lab.compare.query import Query
from probe_lab.errors import ReportError
from probe_lab.runs import FinishedCell, Measure
from probe_lab.runs.configs import differing

_Member = TypeVar("_Member")


@dataclass(frozen=True)
class SheetRow:
    """A row before its numbers are looked up: what it is, and the settings that it is the mean of."""

    told: dict[str, Hashable]
    settings: tuple[SeedCells, ...]

    def number(self, measure: Measure, part: str = "estimate") -> float:
        """The mean over settings of the mean over their seeds; those without a value are left out."""
        return _mean([_mean([cell.number(measure, part) for cell in setting]) for setting in self.settings])

    @property
    def cells(self) -> list[FinishedCell]:
        return [cell for setting in self.settings for cell in setting]

    @property
    def stopped(self) -> str:
        """Which of its cells were not trained to the end."""
        return _marked([cell.stopped for cell in self.cells])

    @property
    def reduced(self) -> str:
        """Which of its cells were trained in smaller batches than asked for."""
        return _marked([cell.reduced for cell in self.cells])


def _marked(marks: Sequence[str]) -> str:
    """The mark of one cell, or how many cells have one."""
    if len(marks) == 1:
        return marks[0]
    return f"{sum(map(bool, marks))} of {len(marks)}" if any(marks) else ""


def rows_of(cells: Sequence[FinishedCell], query: Query, chosen_by: Measure) -> list[SheetRow]:
    """The rows of a query in the order of the cells, those of ``best`` in that of its values.

    ``chosen_by``, on the validation split, is what ``best`` looks at. ReportError for ``group`` with ``best``, and
    where no cell has the number to choose by; ConfigError for what is no key.
    """
    if query.group and query.best:
        raise ReportError(
            f"'group' ({', '.join(query.group)}) averages and 'best' ({', '.join(query.best)}) chooses: "
            "give one of them"
        )
    if query.group:
        return _grouped(cells, keys_named(query.group, cells))
    rows = _averaged(cells) if query.seeds else _single(cells)
    return _best(rows, keys_named(query.best, cells), chosen_by) if query.best else rows


def _single(cells: Sequence[FinishedCell]) -> list[SheetRow]:
    keys = differing([cell.config for cell in cells])
    several = len({cell.experiment for cell in cells}) > 1
    rows = []
    for cell in cells:
        told: dict[str, Hashable] = {EXPERIMENT: cell.experiment} if several else {}
        told |= {"cell": cell.name, **shown(cell), **{key: value_of(cell, key) for key in keys}}
        rows.append(SheetRow(told, ((cell,),)))
    return rows


def _averaged(cells: Sequence[FinishedCell]) -> list[SheetRow]:
    alike = settings(cells)
    rows = []
    for row, setting in zip(_single([setting[0] for setting in alike]), alike, strict=True):
        told = {name: value for name, value in row.told.items() if name not in ("cell", SEED)}
        rows.append(SheetRow(told | {"seeds": len(setting)}, (setting,)))
    return rows


def _grouped(cells: Sequence[FinishedCell], keys: Mapping[str, str]) -> list[SheetRow]:
    rows = []
    for values, members in _by_value(settings(cells), keys, lambda setting: setting[0]).items():
        told = dict(zip(keys.values(), values, strict=True))
        counts = {"settings": len(members), "cells": sum(len(setting) for setting in members)}
        rows.append(SheetRow(told | counts, tuple(members)))
    return rows


def _best(rows: Sequence[SheetRow], keys: Mapping[str, str], chosen_by: Measure) -> list[SheetRow]:
    found = []
    groups = _by_value(rows, keys, lambda row: row.cells[0])
    for values in sorted(groups, key=lambda values: [in_order(value) for value in values]):
        candidates = [row for row in groups[values] if not math.isnan(row.number(chosen_by))]
        if candidates:
            best = max(candidates, key=lambda row: row.number(chosen_by))  # the first of equal ones
            found.append(SheetRow(dict(zip(keys.values(), values, strict=True)) | best.told, best.settings))
    if not found:
        raise ReportError(
            f"no cell has {chosen_by.metric} of {chosen_by.evaluator} on the validation split, by which the best of "
            f"each {', '.join(keys.values())} is chosen: name another metric or evaluator"
        )
    return found


def _by_value(
    members: Sequence[_Member], keys: Iterable[str], cell_of: Callable[[_Member], FinishedCell]
) -> dict[tuple[Hashable, ...], list[_Member]]:
    found: dict[tuple[Hashable, ...], list[_Member]] = {}
    for member in members:
        cell = cell_of(member)
        found.setdefault(tuple(value_of(cell, key) for key in keys), []).append(member)
    return found


def in_order(value: object) -> tuple[int, float, str]:
    """A sort key for values of any kind: numbers, then words, then what is not there."""
    if isinstance(value, int | float):
        return (0, float(value), "")
    return (2, 0.0, "") if value is None else (1, 0.0, str(value))


def _mean(values: Sequence[float]) -> float:
    defined = [value for value in values if not math.isnan(value)]
    return float(np.mean(defined)) if defined else math.nan
