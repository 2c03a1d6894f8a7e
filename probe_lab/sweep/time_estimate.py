"""How long cells will take: by the rate of those that were trained before, else by a rough constant."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from statistics import median

from probe_lab.errors import ReportError
from probe_lab.probes.kinds import kind_of, recorded
from probe_lab.runs import FinishedCell, Runs
from probe_lab.sweep.grid import Cell

_EARLIER = 20
"""So many cells of earlier sweeps tell the rate, where none of this one has been trained."""


@dataclass(frozen=True)
class TrainingRate:
    """Seconds per sample and epoch. ``by_taps`` are of a model and its taps, ``by_model`` of a model; where neither is
    known, ``factor`` times the constant. ``basis`` says where that comes from."""

    by_taps: Mapping[tuple[str, str], float] = field(default_factory=dict)
    by_model: Mapping[str, float] = field(default_factory=dict)
    factor: float = 1.0
    basis: str = ""

    def seconds(self, cell: Cell, samples: int) -> float:
        """What training a cell on a cache of so many samples will take one worker."""
        probe = cell.experiment.probe
        rate = self.by_taps.get((probe.model, "+".join(probe.taps)))
        if rate is None:
            rate = self.by_model.get(probe.model, self.factor * kind_of(probe.model).seconds)
        return rate * samples * epochs_of(cell)


def epochs_of(cell: Cell) -> int:
    """How often a cell's training sees its samples."""
    probe = cell.experiment.probe
    kind = kind_of(probe.model)
    epochs = cell.experiment.trainer.max_epochs if kind.by_gradient else 1
    return epochs * (probe.shuffles if kind.shuffled else 1)


def rate_of(found: Mapping[str, FinishedCell], samples: Mapping[str, int], runs_folder: Path) -> TrainingRate:
    """The rate of finished cells, ``found`` by name with their ``samples``; else of the latest others in
    ``runs_folder``; else a constant."""
    told = f"the {len(found)} finished cells" if len(found) > 1 else "the one finished cell"
    measured = [(cell, samples[name]) for name, cell in found.items()]
    if not measured:
        measured = _earlier(runs_folder)
        told = f"{len(measured)} cell{'s' if len(measured) > 1 else ''} trained earlier in {runs_folder}"
    if not measured:
        rough = f"{kind_of('cnn').seconds * 1e3:g} ms per sample and epoch of a cnn"
        return TrainingRate(basis=f"a rough constant ({rough}): nothing is trained yet in {runs_folder}")
    return _summed_up(measured, f"the rate of {told}")


def _summed_up(measured: Sequence[tuple[FinishedCell, int]], basis: str) -> TrainingRate:
    by_taps: dict[tuple[str, str], list[float]] = {}
    by_model: dict[str, list[float]] = {}
    factors = []
    for cell, samples in measured:
        epochs = max(len(cell.history), 1) * cell.shuffles
        rate = cell.seconds / max(samples * epochs, 1)
        by_taps.setdefault((cell.model, cell.taps), []).append(rate)
        by_model.setdefault(cell.model, []).append(rate)
        factors.append(rate / recorded(cell.model).seconds)
    return TrainingRate(
        {key: median(rates) for key, rates in by_taps.items()},
        {key: median(rates) for key, rates in by_model.items()},
        median(factors),
        basis,
    )


def _earlier(runs_folder: Path) -> list[tuple[FinishedCell, int]]:
    """The latest cells of a runs folder, whatever they were trained for, and the samples that they ask for."""
    cells: list[tuple[FinishedCell, int]] = []
    for folder in Runs(runs_folder).latest(_EARLIER):
        try:
            cell = FinishedCell.read(folder)
            cells.append((cell, int(str(cell.written["prompts.count"])) * int(str(cell.written["prompts.seeds"]))))
        except (ReportError, LookupError, TypeError, ValueError):
            continue  # being written, or damaged: an estimate does without
    return cells
