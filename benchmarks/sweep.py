"""What a sweep saves over training its cells one by one, and where its time goes.

`python -m benchmarks.sweep [--experiment quickstart] [--cells N] [--json FILE]`

The experiment's cells are trained four ways, each by commands of its own into an empty folder, tracking included:
`sweep`, one `probe-lab sweep`; `again`, the same command once more; `fits`, one process that calls Lightning's
`Trainer.fit` for one cell after another with all cores, and evaluates and writes as the others do; `train`, one
`probe-lab train` for each cell. `--cells` draws that many cells, spread over the sweep, for `fits` and `train`, whose
times are then multiplied. Two last sweeps, not part of the comparison, have a clock in their workers: the share of all
workers' time, from the start of the command to its end, that is forward and backward passes of probes; one of the same
experiment, and one of four cells of shapes_full, whose trainings are as long as a study's.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import wraps
from pathlib import Path
from typing import TYPE_CHECKING, Any

from benchmarks.output import show
from probe_lab.config import load_experiment
from probe_lab.sweep import Cell, ProbeTrainer, cells, run_sweep

if TYPE_CHECKING:
    from probe_lab.data import ResidentArrays
    from probe_lab.sweep.worker import GoOn

STUDY = 'step == 5 and model == "cnn" and loss in ["mse", "listwise", "pairwise", "listwise+infonce"]'
TARGETS = {"train": 4.0, "fits": 1.5, "passes": 0.8, "again": 5.0}


def measure(name: str, drawn: int, rounds: int) -> dict[str, object]:
    """Seconds of each way, and the share of passes."""
    plan = cells(load_experiment(name))
    chosen = plan[:: max(1, len(plan) // drawn)][:drawn] if drawn else plan
    times: dict[str, list[float]] = {"sweep": [], "again": [], "fits": [], "train": []}
    for _ in range(rounds):
        with tempfile.TemporaryDirectory(prefix="probe_lab_sweep_") as folder:
            places = _places(Path(folder))
            times["sweep"].append(_seconds(["probe_lab", "sweep", name, *places]))
            times["again"].append(_seconds(["probe_lab", "sweep", name, *places]))
        with tempfile.TemporaryDirectory(prefix="probe_lab_fits_") as folder:
            names = [cell.name for cell in chosen]
            (Path(folder) / "cells.json").write_text(json.dumps(names))
            times["fits"].append(_seconds(["benchmarks.sweep", "--fit-in", folder, "--experiment", name]))
    with tempfile.TemporaryDirectory(prefix="probe_lab_train_") as folder:
        times["train"].append(
            sum(_seconds(["probe_lab", "train", name, *_point(cell), *_places(Path(folder))]) for cell in chosen)
        )
    clock = [_clocked(name, []), _clocked("shapes_full", [f"sweep.select={STUDY}"])]
    return {
        "benchmark": "sweep",
        "experiment": name,
        "cells": len(plan),
        "cells_one_by_one": len(chosen),
        "cores": len(os.sched_getaffinity(0)),
        "seconds": times,
        "clock": clock,
        "targets": TARGETS,
    }


def _places(folder: Path) -> list[str]:
    return [f"runs={folder}/runs", f"tracking.uri=sqlite:///{folder}/mlflow.db"]


def _point(cell: Cell) -> list[str]:
    """The overrides that make the experiment this cell."""
    return [f"{key}={json.dumps(value)}" for key, value in cell.axes.items()]


def _seconds(words: Sequence[str]) -> float:
    began = time.perf_counter()
    subprocess.run([sys.executable, "-m", *words], check=True, stdout=subprocess.DEVNULL, env=os.environ)
    return time.perf_counter() - began


def fit_one_after_another(name: str, folder: Path) -> None:
    """The rival: a script with a loop, as one would write it around Lightning."""
    from probe_lab.cache import Cache
    from probe_lab.training.fit_cell import train_cell

    wanted = set(json.loads((folder / "cells.json").read_text()))
    trainer = ProbeTrainer()
    for cell in cells(load_experiment(name)):
        if cell.name in wanted:
            cache = Cache(cell.experiment.cache_folder)
            preview = trainer._preview(cell.experiment) if cell.experiment.probe.model == "x0_preview" else None
            train_cell(cell.experiment, cache, folder / cell.name, preview=preview, with_trainer=True)


@dataclass(frozen=True)
class Clocked(ProbeTrainer):
    """Trains probes and notes, beside the runs, how long each cell's passes took."""

    notes: Path = Path()

    def train(self, cell: Cell, folder: Path, shared: ResidentArrays | None, go_on: GoOn | None) -> None:
        from torch import Tensor

        from probe_lab.probes.probe import Probe
        from probe_lab.training.lightning_module import ProbeModule

        spent = {"forward": 0.0, "backward": 0.0}
        kept = [(ProbeModule, "training_step"), (Probe, "predict"), (Tensor, "backward")]
        plain = [getattr(owner, name) for owner, name in kept]
        try:
            for owner, name in kept:
                setattr(owner, name, _timed(getattr(owner, name), spent, "backward" if owner is Tensor else "forward"))
            super().train(cell, folder, shared, go_on)
        finally:
            for (owner, name), function in zip(kept, plain, strict=True):
                setattr(owner, name, function)
        (self.notes / f"{cell.name}.json").write_text(json.dumps(spent))


def _timed(function: Callable[..., Any], spent: dict[str, float], kind: str) -> Callable[..., Any]:
    @wraps(function)
    def timed(*arguments: Any, **named: Any) -> Any:
        began = time.perf_counter()
        try:
            return function(*arguments, **named)
        finally:
            spent[kind] += time.perf_counter() - began

    return timed


def _clocked(name: str, overrides: Sequence[str]) -> dict[str, Any]:
    """Of one sweep: seconds of passes in all workers, and of the wall."""
    with tempfile.TemporaryDirectory(prefix="probe_lab_clock_") as place:
        folder = Path(place)
        (folder / "notes").mkdir()
        command = [sys.executable, "-m", "benchmarks.sweep", "--clock-in", place, "--experiment", name, *overrides]
        began = time.perf_counter()
        subprocess.run(command, check=True, stdout=subprocess.DEVNULL)
        wall = time.perf_counter() - began
        notes = [json.loads(path.read_text()) for path in (folder / "notes").iterdir()]
    passes = {kind: sum(note[kind] for note in notes) for kind in ("forward", "backward")}
    workers = load_experiment(name).workers
    share = sum(passes.values()) / (wall * workers)
    return passes | {"experiment": name, "cells": len(notes), "wall": wall, "workers": workers, "share": share}


def sweep_with_a_clock(name: str, folder: Path, overrides: list[str]) -> None:
    experiment = load_experiment(name, [*_places(folder), *overrides])
    run_sweep(experiment, trainer=Clocked(notes=folder / "notes"))


def table(result: dict[str, Any]) -> str:
    seconds = {way: sorted(values) for way, values in result["seconds"].items()}
    scale = result["cells"] / result["cells_one_by_one"]
    sweep = _median(seconds["sweep"])
    lines = [f"{result['experiment']}: {result['cells']} cells, {result['cores']} cores"]
    for way, values in seconds.items():
        share = scale if way in ("fits", "train") else 1.0
        ratio = f"  {_median(values) * share / sweep:6.2f} × sweep" if way in ("fits", "train") else ""
        spread = " ".join(f"{value * share:.1f}" for value in values)
        lines.append(f"  {way:6} {_median(values) * share:8.1f} s{ratio}   ({spread})")
    for clock in result["clock"]:
        lines.append(f"  forward and backward, {clock['experiment']}, {clock['cells']} cells: {clock['share']:.3f}")
    return "\n".join(lines)


def _median(values: Sequence[float]) -> float:
    return sorted(values)[len(values) // 2]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--experiment", default="quickstart")
    parser.add_argument("--cells", type=int, default=0, help="how many cells `fits` and `train` do (0: all)")
    parser.add_argument("--rounds", type=int, default=1)
    parser.add_argument("--json", type=Path, help="write the figures to this file too")
    parser.add_argument("--fit-in", type=Path, help=argparse.SUPPRESS)
    parser.add_argument("--clock-in", type=Path, help=argparse.SUPPRESS)
    parser.add_argument("overrides", nargs="*", help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.fit_in:
        fit_one_after_another(arguments.experiment, arguments.fit_in)
    elif arguments.clock_in:
        sweep_with_a_clock(arguments.experiment, arguments.clock_in, arguments.overrides)
    else:
        show(measure(arguments.experiment, arguments.cells, arguments.rounds), table, arguments.json)


if __name__ == "__main__":
    main()
