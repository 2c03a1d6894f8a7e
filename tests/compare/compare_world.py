"""Finished cells with the numbers, predictions and names that a test of comparisons needs."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path

import numpy as np
import pandas as pd
from sweep_world import write_cell

from probe_lab.config import Experiment
from probe_lab.sweep import Cell, cells

PROMPTS, SEEDS = 10, 6
EVALUATORS = ("shapes_reward", "shapes_binding")


def write_runs(experiment: Experiment) -> list[Path]:
    """Folders of all cells of an experiment, in its order; every number of the i-th is i/100."""
    folders = []
    for number, cell in enumerate(cells(experiment)):
        folder = experiment.runs_folder / cell.name
        folder.mkdir(parents=True)
        write_cell(cell, folder, number / 100)
        entries = json.loads((folder / "metrics.json").read_text())["metrics"]
        gains = [entry | {"metric": "selection_gain"} for entry in entries if entry["metric"] == "srcc_within"]
        change(folder, metrics=[*entries, *gains])
        predictions(cell, number).to_parquet(folder / "predictions.parquet", index=False)
        folders.append(folder)
    return folders


def predictions(cell: Cell, number: int) -> pd.DataFrame:
    """Predictions that are worse the greater the number; val and test have other prompts."""
    parts = []
    for place, split in enumerate(("val", "test")):
        ids = np.arange(PROMPTS * SEEDS) + 1000 * place
        for evaluator in cell.experiment.probe_evaluators:
            target = np.random.default_rng(EVALUATORS.index(evaluator)).normal(size=len(ids)).round(1)
            noise = np.random.default_rng(100 + number).normal(size=len(ids))
            part = pd.DataFrame(
                {"sample_id": ids, "prompt_id": np.arange(len(ids)) // SEEDS + 100 * place, "seed": ids, "split": split}
            )
            parts.append(part.assign(evaluator=evaluator, target=target, prediction=target + (0.5 + number) * noise))
    return pd.concat(parts, ignore_index=True).astype({"target": "float32", "prediction": "float32"})


def change(folder: Path, **content: object) -> None:
    """Set keys of a cell's metrics.json."""
    path = folder / "metrics.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | content))


def set_estimate(folder: Path, split: str, estimate: float, metric: str = "srcc_within") -> None:
    """One metric of every evaluator on one split, its bounds 0.1 around it."""
    entries = json.loads((folder / "metrics.json").read_text())["metrics"]
    numbers: Mapping[str, float] = {"estimate": estimate, "lower": estimate - 0.1, "upper": estimate + 0.1}
    changed = [e | (numbers if (e["split"], e["metric"]) == (split, metric) else {}) for e in entries]
    change(folder, metrics=changed)
