"""Successive halving: after some epochs, the cells that lag behind the others are not trained on."""

from __future__ import annotations

import functools
import math
from collections import defaultdict
from collections.abc import Collection, Hashable, Iterable, Mapping, Sequence
from pathlib import Path

from probe_lab.config import Halving, known_keys
from probe_lab.errors import SweepError, nearest
from probe_lab.probes.kinds import kind_of
from probe_lab.runs import FinishedCell, is_finished
from probe_lab.sweep.grid import Cell


class Rungs:
    """Decides which cells go on: the stopping variant of ASHA (Li et al. 2018, arXiv 1810.05934).

    A cell comes by after ``first`` epochs, and each time ``factor`` times as many, with its best validation value so
    far. It goes on where that is among the best 1/``factor`` (rounded up) of those that came to this rung before it,
    itself included. Nobody waits, so which cells are stopped depends on the order in which they arrive; with one
    worker it does not. Only cells of one cache and split, with the same evaluators, epochs and values of ``by``,
    compete. A cell that comes again, because it is trained again, counts once.

    Raises:
        SweepError: ``by`` names no key.
    """

    def __init__(self, halving: Halving, cells: Sequence[Cell]) -> None:
        known = known_keys()
        for key in halving.by:
            if key not in known:
                raise SweepError(f"'halving.by' names '{key}', which is no key: {nearest(key, known)}")
        self._halving = halving
        self._league: Mapping[str, Hashable] = {cell.name: _league(cell, halving.by) for cell in cells}
        self._seen: dict[Hashable, dict[str, float]] = defaultdict(dict)

    def goes_on(self, cell: str, epoch: int, value: float) -> bool:
        """Whether a cell is trained on after ``epoch`` epochs; ``value``: higher is better."""
        if not self._is_rung(epoch):
            return True
        seen = self._seen[self._league[cell], epoch]
        seen[cell] = -math.inf if math.isnan(value) else value
        return value >= sorted(seen.values(), reverse=True)[math.ceil(len(seen) / self._halving.factor) - 1]

    def remember(self, cell: str, values: Iterable[float | None]) -> None:
        """A cell that was trained before: its validation value after each epoch. What comes now competes with it."""
        best = -math.inf
        for epoch, value in enumerate(values, start=1):
            best = best if value is None else max(best, value)
            if self._is_rung(epoch):
                self._seen[self._league[cell], epoch][cell] = best

    def _is_rung(self, epoch: int) -> bool:
        rung = self._halving.first
        while 0 < rung < epoch:
            rung *= self._halving.factor
        return rung == epoch


def rungs_of(halving: Halving, cells: Sequence[Cell], folder: Path, *, but: Collection[str] = ()) -> Rungs | None:
    """What decides for the cells of a sweep, those that are finished in ``folder`` included, ``but`` for those that are
    trained again; None where all are trained to their end."""
    if not halving.first:
        return None
    rungs = Rungs(halving, cells)
    for cell in cells:
        is_baseline = kind_of(cell.experiment.probe.model).is_baseline
        if not is_baseline and cell.name not in but and is_finished(folder / cell.name):
            history = FinishedCell.read(folder / cell.name).history
            rungs.remember(cell.name, (epoch["val_srcc_within"] for epoch in history))
    return rungs


def _league(cell: Cell, by: Sequence[str]) -> Hashable:
    values = [functools.reduce(getattr, key.split("."), cell.experiment) for key in by]
    experiment = cell.experiment
    place = (str(experiment.cache_folder), experiment.backbone.label, experiment.data.split)
    return (*place, tuple(experiment.probe_evaluators), experiment.trainer.max_epochs, repr(values))
