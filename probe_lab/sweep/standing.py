"""Where the cells of a sweep stand before it: finished here, finished elsewhere, or to be trained."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from probe_lab.config import Experiment
from probe_lab.data.inputs import CachesNow
from probe_lab.sweep.adopt import adoptable
from probe_lab.sweep.grid import Cell
from probe_lab.sweep.results import is_finished, read_metrics, was_stopped

Metrics = Mapping[str, Any]
_SHOWN = 3


@dataclass(frozen=True)
class Standing:
    """By name: the metrics of the cells that are ``found`` in the runs folder, of those among them that are ``kept``
    as they are, and where others can be ``taken`` from. ``again`` is one line about finished cells that are trained
    again, as their cache has changed; "" where there is none."""

    found: Mapping[str, Metrics]
    kept: Mapping[str, Metrics]
    taken: Mapping[str, Path]
    again: str


def standing_of(experiment: Experiment, cells: Sequence[Cell]) -> Standing:
    """Of the ``cells`` in the runs folder of the experiment. What halving stopped is kept only where it halves.

    Raises:
        ReportError: a finished cell whose files are damaged.
    """
    folder, now = experiment.runs_folder, CachesNow()
    found = {cell.name: read_metrics(folder / cell.name) for cell in cells if is_finished(folder / cell.name)}
    changed = {
        cell.name: told
        for cell in cells
        if cell.name in found and (told := now.outdated(cell.experiment.cache_folder, found[cell.name]))
    }
    halves = experiment.halving.first > 0
    kept = {
        name: metrics for name, metrics in found.items() if name not in changed and (halves or not was_stopped(metrics))
    }
    taken = adoptable([cell for cell in cells if cell.name not in kept], folder, now)
    again = _told({name: told for name, told in changed.items() if name not in taken})
    return Standing(found, kept, taken, again)


def _told(changed: Mapping[str, Sequence[str]]) -> str:
    if not changed:
        return ""
    what = list(dict.fromkeys(told for changes in changed.values() for told in changes))
    further = f" and {len(what) - _SHOWN} more" if len(what) > _SHOWN else ""
    cells = "1 finished cell is" if len(changed) == 1 else f"{len(changed)} finished cells are"
    return f"{cells} trained again, as the cache has changed since: {', '.join(what[:_SHOWN])}{further}"
