"""Intervals around predicted scores that hold as often as they say, and what may be decided by them."""

from __future__ import annotations

import math
from pathlib import Path

import numpy as np
import pandas as pd
import torch
from torch import Tensor

from probe_lab.cells import PREDICTIONS, read_predictions
from probe_lab.errors import SelectError


def half_width(prediction: Tensor, target: Tensor, level: float) -> float:
    """Half the width of the split-conformal interval ŷ ± q at ``level``, from held-out pairs [n].

    q is the ⌈(n + 1)·level⌉-th smallest |y − ŷ|: a new pair, exchangeable with these, lies within it with a probability
    of at least ``level`` (Vovk et al. 2005; Lei et al. 2018, arXiv 1604.04173). Infinite where n is too small for
    the level.
    """
    errors = (target - prediction).abs().sort().values
    place = math.ceil((len(errors) + 1) * level)
    return math.inf if place > len(errors) else float(errors[place - 1])


def half_widths(cell: Path, evaluators: tuple[str, ...], level: float) -> Tensor:
    """``half_width`` per evaluator, from the validation predictions of a trained cell, one candidate of each prompt:
    those of one prompt are not independent. float32 [E].

    Raises:
        SelectError: the folder holds no predictions of the validation split, or ``level`` is none.
    """
    if not 0 < level < 1:
        raise SelectError(f"the level of the intervals is {level}: give a probability, 0.9 for instance")
    path = cell / PREDICTIONS
    if not path.is_file():
        raise SelectError(f"there is no {path}: early acceptance needs a trained cell's folder, not a probe alone")
    table = read_predictions(cell)
    table = table[table["split"] == "val"]
    widths = []
    for evaluator in evaluators:
        rows = table[table["evaluator"] == evaluator]
        if rows.empty:
            raise SelectError(f"{path} has no validation predictions of {evaluator}: train the cell again")
        require_finite(rows, path)
        one = rows.groupby("prompt_id").sample(n=1, random_state=np.random.RandomState(0))
        prediction, target = (
            torch.tensor(one[name].to_numpy(), dtype=torch.float64) for name in ("prediction", "target")
        )
        widths.append(half_width(prediction, target, level))
    return torch.tensor(widths, dtype=torch.float32)


def require_finite(table: pd.DataFrame, path: Path) -> None:
    """SelectError for predictions or targets that are no numbers: nothing can be chosen by them."""
    broken = ~np.isfinite(table[["prediction", "target"]].to_numpy(dtype=np.float64)).all(axis=1)
    if broken.any():
        sample = table["sample_id"].to_numpy()[broken][0]
        raise SelectError(
            f"{path} has a prediction or target of sample {sample} that is not finite ({int(broken.sum())} such rows): "
            "train the cell again"
        )


def is_decided(scores: Tensor, width: float, keep: int) -> bool:
    """Whether the lower bounds of the ``keep`` best of ``scores`` [n] lie above the upper bounds of all others; one
    that is not finite is below all that are."""
    if len(scores) <= keep:
        return True
    best = torch.where(scores.isfinite(), scores, -torch.inf).sort(descending=True).values
    return bool(best[keep - 1] - width > best[keep] + width)
