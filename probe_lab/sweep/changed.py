"""Finished cells whose cache is no longer what they were trained on: they are trained again."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping, Sequence
from typing import Any

from probe_lab.data.inputs import CachesNow
from probe_lab.sweep.grid import Cell
from probe_lab.sweep.results import was_stopped

Metrics = Mapping[str, Any]
_SHOWN = 3


def changed_cells(cells: Iterable[Cell], found: Mapping[str, Metrics], now: CachesNow) -> dict[str, Sequence[str]]:
    """By name those of ``cells`` with metrics in ``found`` that recorded other samples or scores, and what changed."""
    finished = [cell for cell in cells if cell.name in found]
    changes = {
        cell.name: now.changes(cell.experiment.cache_folder, found[cell.name].get("inputs")) for cell in finished
    }
    return {name: told for name, told in changes.items() if told}


def still_finished(found: Mapping[str, Metrics], changed: Collection[str], *, halves: bool) -> dict[str, Metrics]:
    """Those of the ``found`` cells that a sweep need not train; what halving stopped it trains unless it ``halves``."""
    return {
        name: metrics for name, metrics in found.items() if name not in changed and (halves or not was_stopped(metrics))
    }


def told_changes(changed: Mapping[str, Sequence[str]]) -> str:
    """One line about them; "" where there is none."""
    if not changed:
        return ""
    what = list(dict.fromkeys(told for changes in changed.values() for told in changes))
    further = f" and {len(what) - _SHOWN} more" if len(what) > _SHOWN else ""
    cells = "1 finished cell is" if len(changed) == 1 else f"{len(changed)} finished cells are"
    return f"{cells} trained again, as the cache has changed since: {', '.join(what[:_SHOWN])}{further}"
