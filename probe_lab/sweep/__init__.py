"""Grids to cells to results, trained by an engine and tracked."""

from probe_lab.sweep.compare import compare, comparison_table
from probe_lab.sweep.grid import Cell, cells, single_cell
from probe_lab.sweep.identity import cell_name
from probe_lab.sweep.local import local_engine
from probe_lab.sweep.results import Failure, collect, is_finished, read_results
from probe_lab.sweep.run import SweepSummary, run_sweep
from probe_lab.sweep.worker import CellTrainer, Outcome, ProbeTrainer

__all__ = [
    "Cell",
    "CellTrainer",
    "Failure",
    "Outcome",
    "ProbeTrainer",
    "SweepSummary",
    "cell_name",
    "cells",
    "collect",
    "compare",
    "comparison_table",
    "is_finished",
    "local_engine",
    "read_results",
    "run_sweep",
    "single_cell",
]
