"""Cells that another experiment of the same runs folder has trained need no second training."""

from __future__ import annotations

import os
import shutil
from collections.abc import Mapping, Sequence
from pathlib import Path

from probe_lab.sweep.grid import Cell
from probe_lab.sweep.results import is_finished, was_stopped
from probe_lab.sweep.worker import PARTIAL


def adoptable(cells: Sequence[Cell], folder: Path) -> dict[str, Path]:
    """Those of ``cells`` that lie finished in a folder beside ``folder``, by name, and where.

    A cell's name says everything that decides its result, its cache included (see ``identity``), so the same name is
    the same cell. One that successive halving stopped is not taken.
    """
    if not folder.parent.is_dir():
        return {}
    neighbours = [path for path in sorted(folder.parent.iterdir()) if path.is_dir() and path != folder]
    places = {cell.name: [path / cell.name for path in neighbours] for cell in cells}
    usable = {name: [path for path in found if _is_whole(path)] for name, found in places.items()}
    return {name: found[0] for name, found in usable.items() if found}


def _is_whole(cell_folder: Path) -> bool:
    return is_finished(cell_folder) and not was_stopped(cell_folder)


def adopt(found: Mapping[str, Path], folder: Path) -> None:
    """Copy finished cells into ``folder``, each whole or not at all."""
    for name, path in found.items():
        aside = folder / PARTIAL / name
        shutil.rmtree(aside, ignore_errors=True)
        shutil.copytree(path, aside)
        os.replace(aside, folder / name)
