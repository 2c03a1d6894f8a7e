"""Where the cells of a sweep stand before it: finished here, finished elsewhere, or to be trained."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from probe_lab.config import Experiment
from probe_lab.data.provenance import CachesNow
from probe_lab.errors import ReportError
from probe_lab.runs import FinishedCell, Runs
from probe_lab.runs.files import finished_names
from probe_lab.sweep.grid import Cell
from probe_lab.sweep.sibling_cells import adoptable

_SHOWN = 3


@dataclass(frozen=True)
class Standing:
    """By name: the cells that are ``found`` whole in the runs folder, of those among them that are
    ``kept`` as they are, and where others can be ``taken`` from. ``again`` says which finished cells are trained again,
    as their cache has changed or their files are not those that were written; "" where there is none. ``outdated`` are
    finished cells of earlier sweeps whose cache has changed: their numbers are of other images or scores."""

    found: Mapping[str, FinishedCell]
    kept: Mapping[str, FinishedCell]
    taken: Mapping[str, Path]
    again: str
    outdated: tuple[str, ...] = ()


def standing_of(experiment: Experiment, cells: Sequence[Cell]) -> Standing:
    """Of the ``cells`` in the runs folder of the experiment. What halving stopped is kept only where it halves."""
    folder, now = experiment.runs_folder, CachesNow()
    found, spoilt = Runs(folder).sound(cell.name for cell in cells)
    changed = {
        cell.name: told
        for cell in cells
        if cell.name in found and (told := now.outdated(cell.experiment.cache_folder, found[cell.name].content))
    }
    halves = experiment.halving.first > 0
    kept = {name: cell for name, cell in found.items() if name not in changed and (halves or not cell.halved)}
    taken = adoptable([cell for cell in cells if cell.name not in kept], folder, now)
    again = _told({name: told for name, told in changed.items() if name not in taken}, "the cache has changed since")
    spoilt = {name: wrong for name, wrong in spoilt.items() if name not in taken}
    lines = again, _told({name: [wrong] for name, wrong in spoilt.items()}, "files are not those that were written")
    again = "\n".join(line for line in lines if line)
    return Standing(found, kept, taken, again, _outdated(folder, {cell.name for cell in cells}, now))


def _outdated(folder: Path, planned: Collection[str], now: CachesNow) -> tuple[str, ...]:
    """The finished cells, those ``planned`` aside, whose cache holds others than they were trained on."""
    runs, names = Runs(folder), []
    for name in finished_names(folder):
        if name in planned:
            continue
        try:
            cell = runs.cell(name)
            place = f"{cell.config['cache.root']}/{cell.config['cache.name']}"
        except ReportError:  # damaged: who reads it says so
            continue
        if "${" not in place and now.outdated(Path(place), cell.content):
            names.append(name)
    return tuple(names)


def _told(changed: Mapping[str, Sequence[str]], why: str) -> str:
    if not changed:
        return ""
    what = list(dict.fromkeys(told for changes in changed.values() for told in changes))
    further = f" and {len(what) - _SHOWN} more" if len(what) > _SHOWN else ""
    cells = "1 finished cell is" if len(changed) == 1 else f"{len(changed)} finished cells are"
    return f"{cells} trained again, as {why}: {', '.join(what[:_SHOWN])}{further}"
