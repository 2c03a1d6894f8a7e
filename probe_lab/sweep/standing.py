"""Where the cells of a sweep stand before it: finished here, finished elsewhere, or to be trained."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from probe_lab.cells import objection, read_metrics
from probe_lab.config import Experiment
from probe_lab.data.inputs import CachesNow
from probe_lab.sweep.adopt import adoptable
from probe_lab.sweep.grid import Cell
from probe_lab.sweep.results import is_finished, was_stopped

Metrics = Mapping[str, Any]
_SHOWN = 3


@dataclass(frozen=True)
class Standing:
    """By name: the metrics of the cells that are ``found`` whole in the runs folder, of those among them that are
    ``kept`` as they are, and where others can be ``taken`` from. ``again`` says which finished cells are trained again,
    as their cache has changed or their files are not those that were written; "" where there is none."""

    found: Mapping[str, Metrics]
    kept: Mapping[str, Metrics]
    taken: Mapping[str, Path]
    again: str


def standing_of(experiment: Experiment, cells: Sequence[Cell]) -> Standing:
    """Of the ``cells`` in the runs folder of the experiment. What halving stopped is kept only where it halves."""
    folder, now = experiment.runs_folder, CachesNow()
    finished = [cell.name for cell in cells if is_finished(folder / cell.name)]
    spoilt = {name: [wrong] for name in finished if (wrong := objection(folder / name))}
    found = {name: read_metrics(folder / name) for name in finished if name not in spoilt}
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
    again = _told({name: told for name, told in changed.items() if name not in taken}, "the cache has changed since")
    spoilt = {name: wrong for name, wrong in spoilt.items() if name not in taken}
    lines = again, _told(spoilt, "files are not those that were written")
    again = "\n".join(line for line in lines if line)
    return Standing(found, kept, taken, again)


def _told(changed: Mapping[str, Sequence[str]], why: str) -> str:
    if not changed:
        return ""
    what = list(dict.fromkeys(told for changes in changed.values() for told in changes))
    further = f" and {len(what) - _SHOWN} more" if len(what) > _SHOWN else ""
    cells = "1 finished cell is" if len(changed) == 1 else f"{len(changed)} finished cells are"
    return f"{cells} trained again, as {why}: {', '.join(what[:_SHOWN])}{further}"
