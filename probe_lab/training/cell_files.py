"""What a trained cell predicts and how good that is, as its files hold it."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt
import pandas as pd

from probe_lab.metrics import evaluate


def predictions_table(
    parts: Sequence[tuple[str, npt.NDArray[np.int64], npt.NDArray[np.float32], npt.NDArray[np.float32]]],
    evaluators: Sequence[str],
    samples: pd.DataFrame,
) -> pd.DataFrame:
    """One row per sample and evaluator from (split, sample_id [n], target [n, E], prediction [n, E])."""
    rows = []
    for split, sample_id, target, prediction in parts:
        known = samples.iloc[sample_id]
        for index, evaluator in enumerate(evaluators):
            rows.append(
                pd.DataFrame(
                    {
                        "sample_id": sample_id,
                        "prompt_id": known["prompt_id"].to_numpy(),
                        "seed": known["seed"].to_numpy(),
                        "split": split,
                        "evaluator": evaluator,
                        "target": target[:, index],
                        "prediction": prediction[:, index],
                    }
                )
            )
    return pd.concat(rows, ignore_index=True)


def metric_entries(predictions: pd.DataFrame, thresholds: Mapping[str, float]) -> list[dict[str, Any]]:
    """All metrics of each evaluator and split, as metrics.json holds them; a value that is undefined is
    None."""
    entries: list[dict[str, Any]] = []
    for (evaluator, split), part in predictions.groupby(["evaluator", "split"], sort=False):
        found = evaluate(part["prediction"], part["target"], part["prompt_id"], threshold=thresholds[str(evaluator)])
        for metric, value in found.items():
            numbers = {"estimate": value.estimate, "lower": value.lower, "upper": value.upper}
            entries.append(
                {"evaluator": evaluator, "split": split, "metric": metric}
                | {name: number if math.isfinite(number) else None for name, number in numbers.items()}
                | {"prompts": value.prompts, "tied": value.tied}
            )
    return entries


def over_shuffles(entries: Sequence[list[dict[str, Any]]]) -> list[dict[str, Any]]:
    """The entries of a cell that was trained several times on shuffled labels: the mean as ``estimate``, the lowest and
    the highest value as ``lower`` and ``upper``. Those of a single training as they are."""
    if len(entries) == 1:
        return entries[0]
    found = []
    for same in zip(*entries, strict=True):
        values = [entry["estimate"] for entry in same if entry["estimate"] is not None]
        numbers: dict[str, float | None] = {"estimate": None, "lower": None, "upper": None}
        if values:
            numbers = {"estimate": float(np.mean(values)), "lower": min(values), "upper": max(values)}
        found.append(same[0] | numbers)
    return found
