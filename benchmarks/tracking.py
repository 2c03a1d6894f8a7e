"""What tracking costs a sweep: processor time and time on the clock, against the same sweep without.

`python -m benchmarks.tracking [--cells 30 300] [--repeats N] [--json FILE]` logs finished cells of the usual size
(two evaluators, 12 epochs, 240 samples) through a sweep's tracker into an SQLite file, each time in a new process, so
that the import of MLflow counts. Three cases: the file does not exist, it does, and everything has been logged before.

A sweep's cells come seconds apart; here they come all at once, so the time on the clock is the longest that a sweep can
be kept waiting at its end. While cells are trained, tracking costs them what processor time it takes: `share` is that
over the time that the sweep keeps two cores busy.
"""

from __future__ import annotations

import argparse
import dataclasses
import json
import multiprocessing
import statistics
import tempfile
import time
from collections.abc import Mapping
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pandas as pd

from benchmarks.output import show
from probe_lab.config import Experiment, load_experiment, with_changes
from probe_lab.sweep import Cell, cells
from probe_lab.tracking import track

CELL_SECONDS, CORES = 4.0, 2
"""What a cell of the quick-start grid takes, and of how many cores."""
AT_MOST = 0.05
METRICS = [*(f"{name}{within}" for name in ("srcc", "ktc", "pcc", "auc") for within in ("", "_within"))]
METRICS += ["top1", "top2", "selection_gain", "ndcg", "rmse", "mae", "spread"]
EPOCHS, SAMPLES = 12, 240
CASES = ("new database", "database", "rerun")


@dataclass(frozen=True)
class Cost:
    """Seconds: on the clock, and of the processor in all threads."""

    wall: float
    cpu: float


def experiment_of(root: Path, count: int, uri: str, name: str) -> Experiment:
    """``count`` cells of one experiment in ``root``."""
    changes = {"name": name, "runs": str(root / "runs"), "tracking.uri": uri}
    experiment = with_changes(load_experiment("quickstart"), changes)
    return dataclasses.replace(experiment, sweep=({"trainer.seed": tuple(range(count))},))


def write_cell(cell: Cell, folder: Path) -> None:
    """Files as a training leaves them, with made-up numbers."""
    rng = np.random.default_rng(cell.experiment.trainer.seed)
    evaluators = cell.experiment.probe_evaluators
    entries = [
        {"evaluator": evaluator, "split": split, "metric": metric, "prompts": 30, "tied": 0}
        | dict(zip(("estimate", "lower", "upper"), rng.random(3).tolist(), strict=True))
        for evaluator in evaluators
        for split in ("val", "test")
        for metric in METRICS
    ]
    history = [
        dict(zip(("train_loss", "val_srcc_within", "val_selection_gain"), rng.random(3).tolist(), strict=True))
        | {"epoch": epoch}
        for epoch in range(EPOCHS)
    ]
    content = {"cell": cell.name, "seconds": CELL_SECONDS, "metrics": entries, "history": history}
    folder.mkdir(parents=True)
    (folder / "metrics.json").write_text(json.dumps(content))
    (folder / "config.yaml").write_text(cell.experiment.to_yaml())
    rows = {"sample_id": np.arange(SAMPLES), "target": rng.random(SAMPLES), "prediction": rng.random(SAMPLES)}
    pd.DataFrame(rows).to_parquet(folder / "predictions.parquet")


def logged(experiment: Experiment) -> Cost:
    """A sweep whose cells are all finished at once, in a process that has not logged anything yet."""
    plan = cells(experiment)
    wall, cpu = time.perf_counter(), time.process_time()
    with track(experiment, plan):
        pass
    return Cost(time.perf_counter() - wall, time.process_time() - cpu)


def alone(experiment: Experiment) -> Cost:
    """The same in a new process."""
    with ProcessPoolExecutor(1, mp_context=multiprocessing.get_context("spawn")) as pool:
        return pool.submit(logged, experiment).result()


def costs(count: int) -> dict[str, Cost]:
    """Each case once, and a sweep without tracking."""
    with tempfile.TemporaryDirectory(prefix="probe_lab_tracking_") as name:
        root = Path(name)
        uri = f"sqlite:///{root}/mlflow.db"
        first, second = (experiment_of(root, count, uri, name) for name in ("first", "second"))
        for experiment in (first, second):
            for cell in cells(experiment):
                write_cell(cell, experiment.runs_folder / cell.name)
        without = alone(experiment_of(root, count, "", "first"))
        found = {"new database": alone(first), "database": alone(second), "rerun": alone(second)}
    return {"without": without, **found}


def measure(counts: list[int], repeats: int) -> dict[str, object]:
    """Medians as `--json` writes them."""
    rows = []
    for count in counts:
        turns = [costs(count) for _ in range(repeats)]
        for case in CASES:
            cpu = [turn[case].cpu - turn["without"].cpu for turn in turns]
            wall = [turn[case].wall - turn["without"].wall for turn in turns]
            rows.append(
                {
                    "cells": count,
                    "case": case,
                    "cpu_seconds": cpu,
                    "wall_seconds": wall,
                    "cpu_seconds_per_cell": statistics.median(cpu) / count,
                    "share": statistics.median(cpu) / (count * CELL_SECONDS * CORES),
                }
            )
    return {
        "benchmark": "tracking",
        "cell_seconds": CELL_SECONDS,
        "cores": CORES,
        "repeats": repeats,
        "target": AT_MOST,
        "rows": rows,
    }


def table(result: Mapping[str, object]) -> str:
    lines = [f"{'cells':>6}  {'case':<14}{'processor s':>12}{'ms per cell':>13}{'clock s':>9}{'share':>8}"]
    rows = result["rows"]
    assert isinstance(rows, list)
    for row in rows:
        cpu, wall = statistics.median(row["cpu_seconds"]), statistics.median(row["wall_seconds"])
        lines.append(
            f"{row['cells']:>6}  {row['case']:<14}{cpu:>12.2f}{row['cpu_seconds_per_cell'] * 1e3:>13.1f}{wall:>9.2f}"
            f"{row['share']:>8.2%}"
        )
    lines.append(f"share of a sweep whose cells take {CELL_SECONDS:.0f} s of {CORES} cores, at most {AT_MOST:.0%}")
    return "\n".join(lines)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--cells", type=int, nargs="+", default=[30, 300])
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--json", type=Path, help="write the figures to this file too")
    arguments = parser.parse_args()
    show(measure(arguments.cells, arguments.repeats), table, arguments.json)


if __name__ == "__main__":
    main()
