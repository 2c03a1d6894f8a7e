"""Cells that another experiment of the same runs folder has trained need no second training."""

from __future__ import annotations

import os
import shutil
from collections.abc import Mapping, Sequence
from pathlib import Path

from probe_lab.data.provenance import CachesNow
from probe_lab.errors import ReportError
from probe_lab.runs import FinishedCell, is_finished
from probe_lab.runs.configs import Flat
from probe_lab.runs.failures import cannot_write
from probe_lab.runs.files import objection
from probe_lab.sweep.grid import Cell
from probe_lab.sweep.worker import PARTIAL


def adoptable(cells: Sequence[Cell], folder: Path, now: CachesNow) -> dict[str, Path]:
    """Those of ``cells`` that lie finished in a folder beside ``folder``, by name, and where.

    A cell's name says everything that decides its result but where its cache lies (see ``identity``), so the same name
    and the same cache are the same cell. One that successive halving stopped is not taken, nor one that was trained on
    other samples or scores than the cache holds ``now``.
    """
    if not folder.parent.is_dir():
        return {}
    neighbours = [path for path in sorted(folder.parent.iterdir()) if path.is_dir() and path != folder]
    found = {
        cell.name: next((path for path in neighbours if _is_it(path / cell.name, cell, now)), None) for cell in cells
    }
    return {name: path / name for name, path in found.items() if path is not None}


def _is_it(cell_folder: Path, cell: Cell, now: CachesNow) -> bool:
    """Whether there is the cell, whole, and of the very same cache: its name says no more than the cache's name."""
    if not is_finished(cell_folder) or objection(cell_folder):
        return False
    try:
        finished = FinishedCell.read(cell_folder)
        return (
            _same_cache(finished.config, cell)
            and not finished.halved
            and not now.outdated(cell.experiment.cache_folder, finished.content)
        )
    except (ReportError, ValueError, KeyError, TypeError):  # its own sweep will say so
        return False


def _same_cache(config: Flat, cell: Cell) -> bool:
    """Whether a stored configuration names the cell's cache; a place from the environment by the same text."""
    root, name = (str(config[key]) for key in ("cache.root", "cache.name"))
    own = cell.experiment.stored()
    if "${" in f"{root}{name}":
        return (root, name) == (own["cache"]["root"], own["cache"]["name"] or own["name"])
    return (Path(root) / name).resolve() == cell.experiment.cache_folder.resolve()


def adopt(found: Mapping[str, Path], folder: Path) -> None:
    """Copy finished cells into ``folder``, each whole or not at all.

    Raises:
        SweepError: the folder cannot be written.
    """
    try:
        for name, path in found.items():
            aside = folder / PARTIAL / name
            shutil.rmtree(aside, ignore_errors=True)
            shutil.copytree(path, aside)
            shutil.rmtree(folder / name, ignore_errors=True)  # without metrics, stopped by halving, or of another cache
            os.replace(aside, folder / name)
    except OSError as error:
        raise cannot_write(folder, error) from error
