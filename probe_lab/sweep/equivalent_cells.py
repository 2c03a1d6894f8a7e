"""Finished cells that differ from planned ones in nothing that their model reads: they are the same result."""

from __future__ import annotations

import dataclasses
from collections import defaultdict
from collections.abc import Collection, Hashable, Sequence
from pathlib import Path

from probe_lab.errors import ReportError
from probe_lab.runs import FinishedCell, Runs, is_finished
from probe_lab.runs.configs import Configs, Flat, differing, flat
from probe_lab.runs.files import finished_names
from probe_lab.runs.identity import plain
from probe_lab.sweep.grid import Cell
from probe_lab.sweep.normalise import seeds_decide, unread_keys

_PLACE = ("probe.model", "probe.step", "probe.taps")
Place = tuple[Hashable, ...]
"""Model, step and taps, which cells that are alike have in common."""


def recognised(cells: Sequence[Cell], folder: Path) -> tuple[Cell, ...]:
    """The cells, with the names of finished ones in ``folder`` that are the same result under another name.

    A ridge regression is trained by no epochs: after ``trainer.max_epochs=20`` its cell would have another name, and is
    the one of before.
    """
    missing = [cell for cell in cells if not is_finished(folder / cell.name)]
    others = _others(folder, {cell.name for cell in cells}) if missing else {}
    configs, names = Configs(), {}
    for cell in missing:
        probe = cell.experiment.probe
        candidates = others.get((probe.model, probe.step, tuple(probe.taps)), [])
        own = configs.complete(dict(flat(plain(cell.experiment)))) if candidates else {}
        same = next((finished for finished in candidates if _is_same(cell, own, finished)), None)
        if same is not None:
            candidates.remove(same)
            names[cell.name] = same.name
    return tuple(dataclasses.replace(cell, name=names.get(cell.name, cell.name)) for cell in cells)


def _others(folder: Path, planned: Collection[str]) -> dict[Place, list[FinishedCell]]:
    """The finished cells that are not planned, by their place; damaged ones are left out: who needs them says so."""
    runs, others = Runs(folder), defaultdict(list)
    for name in finished_names(folder):
        if name not in planned:
            try:
                cell = runs.cell(name)
                others[tuple(cell.config[key] for key in _PLACE)].append(cell)
            except ReportError:
                continue
    return others


def _is_same(cell: Cell, own: Flat, finished: FinishedCell) -> bool:
    """Whether a cell with the configuration ``own`` differs from one of its place only in keys that their model does
    not read."""
    probe = cell.experiment.probe
    unread, other = unread_keys(probe.model, probe.loss), finished.config
    if seeds_decide(cell.experiment):
        unread -= {"trainer.seed"}
    return (
        all(own[key] == other[key] for key in ("probe.loss", "trainer.seed") if key not in unread)
        and tuple(cell.experiment.probe_evaluators) == finished.evaluators
        and unread.issuperset(differing([own, other]))
    )
