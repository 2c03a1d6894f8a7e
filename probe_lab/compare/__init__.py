"""The finished cells of an experiment side by side: what ``probe-lab compare`` prints and MLflow shows."""

from __future__ import annotations

from collections.abc import Collection
from pathlib import Path
from typing import TYPE_CHECKING

from probe_lab.compare.cell_sheet import compared
from probe_lab.compare.query import Query, words
from probe_lab.compare.sheet import Sheet
from probe_lab.runs import Runs

if TYPE_CHECKING:
    import pandas as pd

    from probe_lab.terminal_tables import FittingTable

__all__ = ["Query", "Sheet", "compare", "compared", "comparison_table", "words"]


def compare(runs: Runs | Path, query: Query | None = None) -> pd.DataFrame:
    """One row per finished cell of a runs folder or several, or as ``query`` says, the best by the first number at the
    top.

    Columns: experiment where there are several, cell, model, step, taps (joined by "+"), loss, seed, then every config
    key in which the cells differ, then the numbers: ``<evaluator>/<metric>``, ``…/lower`` and ``…/upper``, on the
    validation split with ``val/`` before (NaN where a cell has none). Instead of cell and seed, rows of means have
    ``seeds``, or ``settings`` and ``cells``: how many they are the mean of. ``stopped`` says which cells were not
    trained to the end, ``reduced`` which in smaller batches than asked for, where there is such a cell.

    Raises ReportError as :func:`compared` does.
    """
    return compared(runs, query or Query()).frame


def comparison_table(
    runs_folder: Path, query: Query | None = None, *, cells: Collection[str] | None = None
) -> FittingTable:
    """``compare`` for a terminal; ``cells``: only these."""
    from probe_lab.compare.terminal import sheet_table

    return sheet_table(compared(runs_folder, query or Query(cells=cells)))
