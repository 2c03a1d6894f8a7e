"""What one worker of a sweep does: load the arrays of a group once, train its cells one after the other."""

from __future__ import annotations

import os
import secrets
import shutil
import time
import traceback
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

from probe_lab.config import Experiment
from probe_lab.engines import Site
from probe_lab.probes.kinds import kind_of
from probe_lab.resource_errors import one_line
from probe_lab.runs import METRICS, is_finished
from probe_lab.sweep.grid import Cell
from probe_lab.sweep.needs import require_all

if TYPE_CHECKING:
    from probe_lab.data import ResidentArrays
    from probe_lab.previews.decoding import Previewer

PARTIAL = ".partial"
"""Folder, beside the cells, of those in training: a cell appears under its own name only when it is
complete."""


GoOn = Callable[[str, int, float], bool]
"""(cell, epochs done, best validation value) -> whether the cell is trained on: successive halving."""


class CellTrainer(Protocol):
    """How an engine trains cells. Pickled to every worker."""

    def check(self, cells: Sequence[Cell]) -> None:
        """Refuse, in the parent and before any work, cells that cannot be trained."""

    def load(self, cell: Cell, workers: int) -> Any:
        """What cells with the same cache and arrays share in one process, of ``workers`` on this machine."""

    def train(self, cell: Cell, folder: Path, shared: Any, go_on: GoOn | None) -> None:
        """Train one cell and write its files into an existing, empty folder; ``go_on`` is asked after each epoch."""


@dataclass(frozen=True)
class ProbeTrainer:
    """Trains probes on the cells' cache. ``preview_factory`` makes the scorer of cells that decode, in
    the worker. ``with_trainer`` trains through Lightning's ``Trainer``, which a single probe can afford."""

    preview_factory: Callable[[Experiment], Previewer] | None = None
    with_trainer: bool = False

    def check(self, cells: Sequence[Cell]) -> None:
        """Errors as in ``require_all``."""
        import probe_lab.training.fit_cell  # noqa: F401  # here, so that workers that are forked have it

        require_all(cells)

    def load(self, cell: Cell, workers: int) -> ResidentArrays | None:
        """The cell's arrays, or None where they are to be streamed, or each process of a training loads its own.

        ``auto`` is decided here, for all cells that would share them: ``train`` streams what was not loaded.
        """
        from probe_lab.cache import Cache
        from probe_lab.data import load_resident
        from probe_lab.data.resident import fits_in_memory

        cache, residency = Cache(cell.experiment.cache_folder), cell.experiment.data.residency
        if not cell.arrays or residency == "stream" or cell.experiment.trainer.devices > 1:
            return None
        if residency == "auto" and not fits_in_memory(cache, cell.arrays, workers):
            return None
        return load_resident(cache, cell.arrays)

    def train(self, cell: Cell, folder: Path, shared: ResidentArrays | None, go_on: GoOn | None) -> None:
        from probe_lab.cache import Cache
        from probe_lab.data.scalar_table import stored_previews
        from probe_lab.training.fit_cell import train_cell
        from probe_lab.training.out_of_memory import Reduction, within_memory

        cache, experiment = Cache(cell.experiment.cache_folder), cell.experiment
        kind, probe = kind_of(experiment.probe.model), experiment.probe
        decodes = kind.decodes and (
            stored_previews(cache, probe.step, experiment.probe_evaluators, kind.preview) is None
        )
        preview = self._preview(experiment) if decodes else None

        def train(reduction: Reduction) -> None:
            train_cell(
                cell.experiment,
                cache,
                folder,
                resident=shared,
                stream=shared is None and bool(cell.arrays),
                preview=preview,
                with_trainer=self.with_trainer,
                go_on=None if go_on is None else partial(go_on, cell.name),
                reduction=reduction,
            )

        within_memory(cell.experiment, train)

    def _preview(self, experiment: Experiment) -> Previewer:
        if self.preview_factory is not None:
            return self.preview_factory(experiment)
        from probe_lab.previews.decoding import preview_scorer

        return preview_scorer(experiment)


@dataclass(frozen=True)
class Outcome:
    """How training one cell ended. ``error`` is empty when it is done; ``trace`` is the traceback of a
    failure."""

    cell: str
    seconds: float
    error: str = ""
    trace: str = ""


class CellWorker:
    """Trains cells one after the other; those with the same arrays share one copy."""

    def __init__(self, trainer: CellTrainer, folder: Path, site: Site) -> None:
        self._trainer, self._folder, self._site = trainer, folder, site
        self._loaded: tuple[Path, tuple[str, ...]] | None = None
        self._shared: Any = None

    def do(self, task: Cell) -> Outcome:
        """The outcome of training one cell, whatever goes wrong in it."""
        started = time.monotonic()
        error = trace = ""
        try:
            self._load(task)
            self._train(task)
        except Exception as failure:  # whatever it is, the other cells go on
            error, trace = one_line(failure), traceback.format_exc()
        return Outcome(task.name, time.monotonic() - started, error, trace)

    def _load(self, cell: Cell) -> None:
        wanted = (cell.experiment.cache_folder, cell.arrays)
        if wanted != self._loaded:
            self._loaded = self._shared = None  # freed before the next group is loaded
            self._shared = self._trainer.load(cell, self._site.beside)
            self._loaded = wanted

    def _train(self, cell: Cell) -> None:
        """In a folder of this attempt alone (a node that was taken for lost may still be at the same cell), which gets
        the cell's name once it is complete."""
        attempt = self._folder / PARTIAL / secrets.token_hex(4)
        aside, final = attempt / cell.name, self._folder / cell.name
        aside.mkdir(parents=True)
        try:
            self._trainer.train(cell, aside, self._shared, self._site.ask)
            if not is_finished(aside):
                raise RuntimeError(f"training {cell.name} wrote no {METRICS}")
            shutil.rmtree(final, ignore_errors=True)  # without metrics, stopped by halving, or of a cache that changed
            os.replace(aside, final)
        finally:
            shutil.rmtree(attempt, ignore_errors=True)
