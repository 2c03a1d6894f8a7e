"""Successive halving: after some epochs, the cells that lag behind the others are not trained on."""

from __future__ import annotations

import functools
import math
from collections import defaultdict
from collections.abc import Hashable, Mapping, Sequence

from probe_lab.config import Halving, known_keys
from probe_lab.errors import SweepError, nearest
from probe_lab.sweep.grid import Cell


class Rungs:
    """Decides which cells go on: the stopping variant of ASHA (Li et al. 2018, arXiv 1810.05934).

    A cell comes by after ``first`` epochs, and each time ``factor`` times as many, with its best validation value so
    far. It goes on where that is among the best 1/``factor`` (rounded up) of those that came to this rung before it,
    itself included. Nobody waits, so which cells are stopped depends on the order in which they arrive; with one
    worker it does not. Only cells with the same evaluators, epochs and values of ``by`` compete.

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
        self._seen: dict[Hashable, list[float]] = defaultdict(list)

    def goes_on(self, cell: str, epoch: int, value: float) -> bool:
        """Whether a cell is trained on after ``epoch`` epochs; ``value``: higher is better."""
        if not self._is_rung(epoch):
            return True
        seen = self._seen[self._league[cell], epoch]
        seen.append(-math.inf if math.isnan(value) else value)
        return value >= sorted(seen, reverse=True)[math.ceil(len(seen) / self._halving.factor) - 1]

    def _is_rung(self, epoch: int) -> bool:
        rung = self._halving.first
        while 0 < rung < epoch:
            rung *= self._halving.factor
        return rung == epoch


def rungs_of(halving: Halving, cells: Sequence[Cell]) -> Rungs | None:
    """What decides for the cells of a sweep; None where all are trained to their end."""
    return Rungs(halving, cells) if halving.first else None


def _league(cell: Cell, by: Sequence[str]) -> Hashable:
    values = [functools.reduce(getattr, key.split("."), cell.experiment) for key in by]
    return (tuple(cell.experiment.probe_evaluators), cell.experiment.trainer.max_epochs, repr(values))
