"""A world for tracking: experiments with finished cells, a sweep that trains nothing, and what MLflow has of it."""

from __future__ import annotations

import re
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from probe_lab.config import Experiment
from probe_lab.runs import is_finished
from probe_lab.runs.failures import Failure, write_failures
from probe_lab.sweep import cells
from probe_lab.tracking import Tracker, track, tracking_uri

sys.path.insert(0, str(Path(__file__).parents[1] / "sweep"))

from sweep_world import make_experiment, write_cell

SEEDS = {"trainer.seed": [0, 1, 2]}


def experiment_in(root: Path, uri: str, name: str = "tiny", seeds: Mapping[str, object] = SEEDS) -> Experiment:
    """Three cells, seeds 0 to 2, in ``root``, tracked at ``uri``."""
    return make_experiment(root, seeds, name=re.sub(r"\W", "_", name), tracking={"uri": uri})


def finish(experiment: Experiment, *seeds: int) -> None:
    """Write the files of finished cells."""
    for cell in cells(experiment):
        folder = experiment.runs_folder / cell.name
        if cell.experiment.trainer.seed in seeds:
            folder.mkdir(parents=True, exist_ok=True)
            write_cell(cell, folder, cell.experiment.trainer.seed / 10)


def play(experiment: Experiment, behaviour: Mapping[int, BaseException | str] | None = None) -> Tracker:
    """A sweep: a cell's seed says if it fails (a string), if an exception comes, or else if it is finished."""
    plan, folder = cells(experiment), experiment.runs_folder
    folder.mkdir(parents=True, exist_ok=True)
    pending = [cell for cell in plan if not is_finished(folder / cell.name)]
    failures: list[Failure] = []
    with track(experiment, plan, {cell.name for cell in pending}) as tracker:
        tracker.start()
        try:
            for cell in pending:
                what = (behaviour or {}).get(seed := cell.experiment.trainer.seed, "")
                if isinstance(what, BaseException):
                    raise what
                if what:
                    failures.append(Failure(cell.name, what))
                else:
                    finish(experiment, seed)
                    tracker.cell_finished()
        finally:
            write_failures(folder, failures)
    return tracker


def write_report(experiment: Experiment) -> Path:
    """The folder of a report with a page and a figure."""
    folder = experiment.report_folder
    (folder / "figures").mkdir(parents=True)
    (folder / "index.html").write_text("<html>")
    (folder / "figures" / "step.png").write_bytes(b"png")
    return folder


def runs_of(experiment: Experiment, uri: str = "") -> tuple[list[Any], list[Any]]:
    """(parents, children) of the experiment in its store, the one started last first."""
    import mlflow

    client = mlflow.MlflowClient(uri or tracking_uri(experiment))
    found = client.get_experiment_by_name(experiment.name)
    runs = list(client.search_runs([found.experiment_id])) if found else []
    parents = [run for run in runs if "mlflow.parentRunId" not in run.data.tags]
    return parents, [run for run in runs if run not in parents]


def statuses(experiment: Experiment, uri: str = "") -> tuple[list[str], dict[str, str]]:
    """How the parents and the runs of seeds ended; more than one run of a seed is an error."""
    parents, children = runs_of(experiment, uri)
    seeds = [run.data.tags["seed"] for run in children]
    assert len(set(seeds)) == len(seeds), seeds
    return [run.info.status for run in parents], {run.data.tags["seed"]: run.info.status for run in children}


FINISHED = {"0": "FINISHED", "1": "FINISHED", "2": "FINISHED"}
