"""A schedule for a budget from what trained cells predicted of their validation prompts."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from probe_lab.errors import SelectError
from probe_lab.probes import Probe, load_probe
from probe_lab.runs import PREDICTIONS
from probe_lab.runs.files import read_predictions
from probe_lab.selection.budget import Judged, best_plan
from probe_lab.selection.ranking import By, check_by

_KEYS = ["prompt_id", "sample_id"]


def plan_for(cells: Mapping[int, Path], by: By, *, candidates: int, keep: int, steps: int, budget: int) -> Judged:
    """The best schedule of at most ``budget`` denoiser calls per prompt, with the probes of ``cells`` (by step).

    Weights of several evaluators are applied to standardised scores, predicted and true.

    Raises:
        SelectError: ``by`` is ``pareto``, which is no number; no schedule is that cheap; or fewer seeds in the data
            than ``candidates``.
    """
    if by == "pareto":
        raise SelectError(f"budget={budget} is spent on one number and by is pareto: name an evaluator or weights")
    usable = {step: cell for step, cell in sorted(cells.items()) if step < steps}
    columns = [_values(cell, by) for cell in usable.values()]
    table = pd.concat([part["prediction"] for part in columns], axis=1, join="inner", keys=list(usable))
    table["target"] = columns[0]["target"]
    seeds = table.groupby("prompt_id")["target"].transform("size")
    table = table[seeds == seeds.max()]  # a sample whose image is broken has no score
    arrays = {name: _by_prompt(table[name], int(seeds.max())) for name in table}
    target = arrays.pop("target")
    ahead = looking_ahead(usable)
    return best_plan(arrays, target, candidates=candidates, keep=keep, steps=steps, budget=budget, ahead=ahead)


def looking_ahead(cells: Mapping[int, Path]) -> frozenset[int]:
    """The steps at which the probe of a cell takes one more denoiser call for each candidate."""
    return frozenset(step for step, cell in cells.items() if load_probe(cell).spec.looks_ahead)


def _by_prompt(column: pd.Series[float], seeds: int) -> NDArray[np.float64]:
    return np.asarray(column, dtype=np.float64).reshape(-1, seeds)


def _values(cell: Path, by: By) -> pd.DataFrame:
    """``prediction`` and ``target`` of a cell's validation samples, as the one number that ``by`` makes of them."""
    path = cell / PREDICTIONS
    if not path.is_file():
        raise SelectError(f"there is no {path}: a budget needs finished cells, run `probe-lab sweep`")
    probe = load_probe(cell)
    check_by(by, probe)
    table = read_predictions(cell)
    table = table[table["split"] == "val"]
    _require_finite(table, path)
    parts = [weight * _standardised(table, name, probe) for name, weight in _weights(by).items()]
    return sum(parts[1:], parts[0]).sort_index()


def _require_finite(table: pd.DataFrame, path: Path) -> None:
    """SelectError for predictions or targets that are no numbers: nothing can be chosen by them."""
    broken = ~np.isfinite(table[["prediction", "target"]].to_numpy(dtype=np.float64)).all(axis=1)
    if broken.any():
        sample = table["sample_id"].to_numpy()[broken][0]
        raise SelectError(
            f"{path} has a prediction or target of sample {sample} that is not finite ({int(broken.sum())} such rows): "
            "train the cell again"
        )


def _weights(by: By) -> Mapping[str, float]:
    return {by: 1.0} if isinstance(by, str) else by


def _standardised(table: pd.DataFrame, evaluator: str, probe: Probe) -> pd.DataFrame:
    place = probe.spec.evaluators.index(evaluator)
    rows = table[table["evaluator"] == evaluator].set_index(_KEYS)[["prediction", "target"]]
    return (rows - float(probe.target_mean[place])) / float(probe.target_std[place])
