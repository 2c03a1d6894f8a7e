"""Grids to cells: every point of an experiment's sweep as an experiment of its own, with a stable name."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from probe_lab.config import Choice, Experiment, Operand, ProbeConfig
from probe_lab.errors import ConfigError, SweepError
from probe_lab.probes.kinds import kind_of, models_that
from probe_lab.runs.identity import cell_name, changes_no_result, identity, other_images
from probe_lab.sweep.axes import AxisSettings, GridPoints, value_at, values_of
from probe_lab.sweep.normalise import answers_of_loss, normalised
from probe_lab.sweep.tap_patterns import TapNames

_SHOWN = 8


@dataclass(frozen=True)
class Cell:
    """One point of a sweep. ``name`` is also its folder; ``axes`` holds the value of every swept key here: of taps
    that are a named set, the name."""

    name: str
    experiment: Experiment
    axes: Mapping[str, Any]

    @property
    def arrays(self) -> tuple[str, ...]:
        """Cache keys that the cell reads, "<step>/<tap>"."""
        probe = self.experiment.probe
        return tuple(f"{step}/{tap}" for step in probe.trained_steps for tap in probe.taps)


@dataclass(frozen=True)
class CellGrid:
    """The cells of a sweep, and how many of its grids' cells ``sweep.select`` leaves out."""

    cells: tuple[Cell, ...]
    left_out: int


def cells(experiment: Experiment) -> tuple[Cell, ...]:
    """The cells of ``lay_out``."""
    return lay_out(experiment).cells


def lay_out(experiment: Experiment) -> CellGrid:
    """The union of the grids' points that ``sweep.select`` chooses, in the order of the file; without grids the
    experiment itself.

    Taps may be named by patterns and sets, see ``TapNames``. What a model or loss does not read is normalised first
    (see ``normalised``), and cells with the same identity are merged, so a grid over models does not train one thing
    twice. A cell that reads attention has nothing to read without an attention tap and is left out.

    Raises:
        ConfigError: a value is of a wrong type or impossible, alone or together with the other axes.
        SweepError: an axis that cannot change a result or names nothing, cells of different images in one cache, two
            cells with one name, or no cell is left.
    """
    if not experiment.sweep:
        _require_read(experiment.probe)
    swept = tuple(dict.fromkeys(key for grid in experiment.sweep for key in grid))
    for key in swept:
        if changes_no_result(key):
            raise SweepError(f"the sweep over '{key}' gives one result many times: sweep probe, trainer or data keys")
    names = TapNames(experiment)
    taps = names.joined(experiment.probe.taps)
    probe = dataclasses.replace(experiment.probe, taps=taps)
    plain = dataclasses.replace(single_cell(experiment), sets={}, probe=probe)
    points = GridPoints(plain, names)
    found: dict[str, Cell] = {}
    for grid in experiment.sweep or ({},):
        for point, settings in points.of(grid):
            cell = _cell(normalised(point, plain), settings, swept)
            if kind_of(cell.experiment.probe.model).reads == "attention" and not cell.arrays:
                continue
            _require_same(cell, found.setdefault(cell.name, cell))
    if not found:
        raise SweepError("there is no cell to train: attention_entropy reads attention taps, and probe.taps has none")
    _require_own_caches(cell.experiment for cell in found.values())
    chosen = _chosen(experiment.only, found.values(), swept, names)
    return CellGrid(chosen, len(found) - len(chosen))


def _require_read(probe: ProbeConfig) -> None:
    """ConfigError for keys of a model that does not read them. In a sweep they are of its other models."""
    kind = kind_of(probe.model)
    if probe.scalars and not kind.reads_scalars:
        raise ConfigError(
            f"'probe.scalars' is [{', '.join(probe.scalars)}] and 'probe.model' {probe.model}: only "
            f"{' and '.join(models_that(lambda kind: kind.reads_scalars))} read scalars, so empty them "
            "(probe.scalars=[])"
        )
    if probe.judge and not kind.reads_scalars:
        raise ConfigError(
            f"'probe.judge' is true and 'probe.model' {probe.model}: only "
            f"{' and '.join(models_that(lambda kind: kind.reads_scalars))} have a picture judge beside them, so set "
            "probe.judge=false"
        )
    if len(probe.steps) > 1 and not kind.on_steps:
        raise ConfigError(
            f"'probe.steps' is [{', '.join(map(str, probe.steps))}] and 'probe.model' {probe.model}: only "
            f"{', '.join(models_that(lambda kind: kind.on_steps))} are trained on several steps, so empty them "
            "(probe.steps=[])"
        )


def single_cell(experiment: Experiment) -> Experiment:
    """The experiment without its sweep: one cell, the one that its ``probe`` section describes."""
    return dataclasses.replace(experiment, sweep=(), only="")


def group_by_arrays(found: Sequence[Cell]) -> dict[tuple[str, ...], list[Cell]]:
    """Cells that read the same arrays of the same cache, in order: one resident copy serves them all."""
    groups: dict[tuple[str, ...], list[Cell]] = {}
    for cell in found:
        groups.setdefault((str(cell.experiment.cache_folder), *cell.arrays), []).append(cell)
    return groups


def _cell(point: Experiment, settings: AxisSettings, swept: Iterable[str]) -> Cell:
    axes = {key: value_at(point, key) for key in swept}
    labels = {key: setting.label for key, setting in settings.items() if setting.label and setting.value == axes[key]}
    return Cell(cell_name(point), point, axes | labels)


def _require_same(cell: Cell, first: Cell) -> None:
    """The hash in a name has 32 bits: two different cells with the same one would share a folder."""
    if cell is first or cell.experiment == first.experiment:
        return
    one, other = identity(first.experiment), identity(cell.experiment)
    if one != other:
        keys = sorted(key for key in one.keys() | other.keys() if one.get(key) != other.get(key))
        raise SweepError(
            f"two cells that differ in {', '.join(keys)} are both called {cell.name}: change one of their values a "
            "little, or run them under two names (name=NAME)"
        )


def _require_own_caches(found: Iterable[Experiment]) -> None:
    """A cache holds the images of one backbone, one set of prompts, ...: over others in it, a cell would only be given
    another name."""
    first: dict[Path, Experiment] = {}
    seen: set[str] = set()
    for experiment in found:
        folder = experiment.cache_folder
        parts = repr((experiment.backbone, experiment.seed, experiment.prompts, experiment.sampling, experiment.cache))
        if parts in seen:
            continue
        seen.add(parts)
        different = other_images(first.setdefault(folder, experiment), experiment)
        if different:
            told = " and ".join(f"'{key}' ({one}, {other})" for key, (one, other) in different.items())
            raise SweepError(
                f"cells of the sweep differ in {told} and read one cache, {folder}, which holds the images of one "
                "value: give each value a grid with a cache.name of its own"
            )


def _chosen(select: str, found: Iterable[Cell], swept: Iterable[str], names: TapNames) -> tuple[Cell, ...]:
    choice = Choice.parse(select, swept, where="'sweep.select'")
    everything = tuple(found)
    names_model = choice.names("probe.model")
    chosen = tuple(cell for cell in everything if choice.holds(_values_of(cell, names, names_model)))
    if not chosen:
        here = "; ".join(f"{name} is {_among(everything, key)}" for name, key in choice.keys.items())
        raise SweepError(f"sweep.select='{select}' leaves none of {len(everything)} cells, where {here}: change it")
    return chosen


def _values_of(cell: Cell, names: TapNames, names_model: bool) -> Callable[[str], Operand]:
    return values_of(cell.experiment, names, loss=answers_of_loss(cell.experiment.probe.model, names_model))


def _among(found: Sequence[Cell], key: str) -> str:
    values = (cell.axes.get(key, value_at(cell.experiment, key)) for cell in found)
    told = dict.fromkeys("+".join(map(str, value)) if isinstance(value, list) else str(value) for value in values)
    shown = list(told)[:_SHOWN]
    return ", ".join(shown) + (f" and {len(told) - _SHOWN} more" if len(told) > _SHOWN else "")
