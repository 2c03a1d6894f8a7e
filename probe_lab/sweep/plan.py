"""What a sweep will do, before it does it: its cells, what they read, and how long they will take."""

from __future__ import annotations

import math
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Literal

from probe_lab.cache import Manifest
from probe_lab.cache.manifest import manifest_path
from probe_lab.config import Experiment
from probe_lab.errors import ProbeLabError
from probe_lab.sweep.cell_pool import at_once_of
from probe_lab.sweep.cell_states import Standing, standing_of
from probe_lab.sweep.equivalent_cells import recognised
from probe_lab.sweep.grid import Cell, group_by_arrays, lay_out
from probe_lab.sweep.needs import require_all, require_arrays
from probe_lab.sweep.time_estimate import rate_of

State = Literal["pending", "finished", "stopped", "elsewhere"]
"""A ``pending`` cell will be trained, one that is finished ``elsewhere`` copied; ``stopped`` by successive halving."""


@dataclass(frozen=True)
class Group:
    """Cells that read the same arrays of one cache, which is loaded once. ``bytes`` of all samples is None before
    there is a cache; ``seconds`` are what one worker needs for those that are pending."""

    cache: Path
    arrays: tuple[str, ...]
    bytes: int | None
    cells: tuple[Cell, ...]
    seconds: float


@dataclass(frozen=True)
class SweepPlan:
    """The cells of a sweep in the order of the file, with their states by name, and in groups by what they read.

    ``seconds`` pass on the clock, by ``basis``; ``left_out`` cells of the grids are not chosen by ``sweep.select``;
    ``bytes`` are of the distinct arrays; ``workers`` train at the same time; ``missing`` is why the sweep would be
    refused as things are, empty where it would not; ``again`` says which finished cells are trained again, and why.
    """

    cells: tuple[Cell, ...]
    states: Mapping[str, State]
    groups: tuple[Group, ...]
    bytes: int | None
    workers: int
    seconds: float
    basis: str
    left_out: int
    missing: str = ""
    again: str = ""

    def count(self, state: State) -> int:
        """How many cells are in a state."""
        return sum(found == state for found in self.states.values())


def plan_sweep(experiment: Experiment) -> SweepPlan:
    """Lay out a sweep and look at what is there; nothing is trained or written.

    Raises:
        ConfigError, SweepError: as in ``lay_out``.
        CacheError: the cache is there and lacks a step or a tap, see ``require_arrays``. What else is missing, scores
            for instance, is said in the plan.
        ReportError: a finished cell whose files are damaged.
    """
    folder, layout = experiment.runs_folder, lay_out(experiment)
    layout = replace(layout, cells=recognised(layout.cells, folder))
    caches = {str(cell.experiment.cache_folder): cell.experiment.cache_folder for cell in layout.cells}
    manifests = {place: Manifest.load(path) for place, path in caches.items() if manifest_path(path).exists()}
    readable = [cell for cell in layout.cells if str(cell.experiment.cache_folder) in manifests]
    require_arrays(readable)
    standing = standing_of(experiment, layout.cells)
    states = {cell.name: _state(cell.name, standing) for cell in layout.cells}
    samples = {cell.name: _samples(cell, manifests) for cell in layout.cells}
    rate = rate_of(standing.found, samples, folder)
    groups = []
    for (place, *arrays), cells in group_by_arrays(layout.cells).items():
        seconds = sum(rate.seconds(cell, samples[cell.name]) for cell in cells if states[cell.name] == "pending")
        size = _bytes(manifests[place], arrays) if place in manifests else None
        groups.append(Group(caches[place], tuple(arrays), size, tuple(cells), seconds))
    distinct = {(str(group.cache), key) for group in groups for key in group.arrays}
    pending = [cell for cell in layout.cells if states[cell.name] == "pending"]
    workers = max(1, at_once_of(pending, experiment.engine, experiment.workers))
    return SweepPlan(
        cells=layout.cells,
        states=states,
        groups=tuple(groups),
        bytes=sum(_bytes(manifests[place], [key]) for place, key in distinct if place in manifests) or None,
        workers=workers,
        seconds=sum(group.seconds for group in groups) / workers,
        basis=rate.basis,
        left_out=layout.left_out,
        missing=_missing([cell for cell in readable if states[cell.name] == "pending"]),
        again=standing.again,
    )


def _state(name: str, standing: Standing) -> State:
    if name in standing.kept:
        return "stopped" if standing.kept[name].halved else "finished"
    return "elsewhere" if name in standing.taken else "pending"


def _missing(cells: Sequence[Cell]) -> str:
    try:
        require_all(cells)
    except ProbeLabError as error:
        return str(error)
    return ""


def _samples(cell: Cell, manifests: Mapping[str, Manifest]) -> int:
    """Of the cache; of a cell with ``data.train_prompts``, those of a cache with so many prompts to train on."""
    manifest, prompts = manifests.get(str(cell.experiment.cache_folder)), cell.experiment.prompts
    samples = prompts.count * prompts.seeds if manifest is None else manifest.count
    data, seeds = cell.experiment.data, prompts.seeds if manifest is None else manifest.seeds
    return min(samples, round(data.train_prompts * seeds / data.split.train)) if data.train_prompts else samples


def _bytes(manifest: Manifest, arrays: Collection[str]) -> int:
    values = sum(math.prod(manifest.shape(key)) for key in arrays)
    return values * manifest.count * manifest.array_dtype.itemsize
