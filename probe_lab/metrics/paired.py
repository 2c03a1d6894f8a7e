"""The difference of two probes on the same candidates: what both share cancels, easy and hard prompts above all.

With m the metric and S_a, S_b trainings (seeds) of a and b on the same P prompts,

    Δ = 1/S_a Σ_s m(a_s) − 1/S_b Σ_s m(b_s)

and the interval is about other prompts and, for each side with two trainings or more, about other trainings (see
:mod:`~probe_lab.metrics.measured`). Of a side with a single training it is not known how much another would differ:
the interval then speaks of the training at hand. It can exclude 0 where the two separate intervals overlap.
"""

from __future__ import annotations

from collections.abc import Hashable, Mapping, Sequence
from typing import TYPE_CHECKING, TypeVar

import numpy as np
import numpy.typing as npt

from probe_lab.errors import ConfigError, DataError, nearest
from probe_lab.metrics.bootstrap import Interval, mean_over, resample
from probe_lab.metrics.evaluation import METRICS, MetricName, measured
from probe_lab.metrics.measured import Measured
from probe_lab.metrics.per_prompt import Floats, prompt_table

if TYPE_CHECKING:
    import pandas as pd

_Name = TypeVar("_Name", bound=Hashable)


def paired_mean(
    first: npt.ArrayLike,
    second: npt.ArrayLike,
    *,
    resamples: int = 1000,
    seed: int = 0,
    confidence: float = 0.95,
) -> Interval:
    """Mean over prompts of ``first`` − ``second``, both ``[P]`` of the same prompts in the same order, with the
    interval and p-value that all comparisons of the project have.

    Raises :class:`~probe_lab.errors.DataError` for arrays that are empty, not flat, not equally long or not finite.
    """
    one, other = np.asarray(first, np.float64), np.asarray(second, np.float64)
    if one.shape != other.shape or one.ndim != 1 or not one.size or not np.isfinite(one - other).all():
        raise DataError(
            f"the values of the two sides have the shapes {one.shape} and {other.shape}: "
            "pass two arrays [P] of finite numbers, one per prompt"
        )
    draws = resample(len(one), resamples, seed)
    return mean_over(one - other, np.zeros(len(one), np.bool_), "difference").interval(draws, confidence)


def paired_difference(
    prediction_a: npt.ArrayLike,
    prediction_b: npt.ArrayLike,
    target: npt.ArrayLike,
    prompt: npt.ArrayLike,
    metric: MetricName,
    *,
    threshold: float | None = None,
    resamples: int = 1000,
    seed: int = 0,
    confidence: float = 0.95,
) -> Interval:
    """Metric of a minus metric of b on the same candidates, paired over prompts.

    ``target`` and ``prompt`` are ``[n]`` as in :func:`~probe_lab.metrics.evaluate`; ``prediction_a`` and
    ``prediction_b`` are ``[n]``, or ``[S, n]`` for S trainings, of which the mean is taken (S may differ). A
    ``seed`` draws the prompts that ``evaluate`` draws from it. One training against itself is 0, from 0 to 0.

    Raises what :func:`paired_differences` raises.
    """
    found = paired_differences(
        prediction_a,
        prediction_b,
        target,
        prompt,
        [metric],
        threshold=threshold,
        resamples=resamples,
        seed=seed,
        confidence=confidence,
    )
    return found[metric][2]


def paired_differences(
    prediction_a: npt.ArrayLike,
    prediction_b: npt.ArrayLike,
    target: npt.ArrayLike,
    prompt: npt.ArrayLike,
    metrics: Sequence[MetricName],
    *,
    threshold: float | None = None,
    resamples: int = 1000,
    seed: int = 0,
    confidence: float = 0.95,
) -> dict[MetricName, tuple[Interval, Interval, Interval]]:
    """Per metric a, b and a − b, all three on the same prompts; arguments as in :func:`paired_difference`.

    Raises :class:`~probe_lab.errors.ConfigError` for a metric that is none, and for ``auc`` without its
    ``threshold``; :class:`~probe_lab.errors.DataError` and :class:`~probe_lab.errors.ScoreError` as ``evaluate`` does.
    """
    _require_possible(metrics, threshold)
    sides = [
        [prompt_table(row, target, prompt) for row in np.atleast_2d(np.asarray(predictions, np.float64))]
        for predictions in (prediction_a, prediction_b)
    ]
    if not all(sides):
        raise DataError("a side of the difference has no predictions: pass arrays [n], or [S, n] with S ≥ 1")
    draws = resample(len(sides[0][0].size), resamples, seed)
    a, b = (measured(tables, metrics, threshold) for tables in sides)
    return {
        name: (
            a[name].interval(draws, confidence),
            b[name].interval(draws, confidence),
            a[name].minus(b[name]).interval(draws, confidence),
        )
        for name in metrics
    }


def compare_predictions(
    a: Sequence[pd.DataFrame],
    b: Sequence[pd.DataFrame],
    metrics: Sequence[MetricName],
    *,
    evaluator: str,
    split: str = "test",
    threshold: float | None = None,
    resamples: int = 1000,
    seed: int = 0,
    confidence: float = 0.95,
) -> dict[MetricName, tuple[Interval, Interval, Interval]]:
    """:func:`paired_differences` of cells, whose ``predictions.parquet`` are given as tables.

    ``a`` and ``b`` hold one table per training seed, with the columns sample_id, prompt_id, split, evaluator, target
    and prediction; rows may be in any order.

    Raises :class:`~probe_lab.errors.DataError` when two of the tables were not tested on the same images with the
    same scores, or one lacks the evaluator.
    """
    if not a or not b:
        raise DataError("a side of the difference has no cell: pass at least one table of predictions on each")
    first, predictions = _aligned([*a, *b], evaluator, split)
    return paired_differences(
        predictions[: len(a)],
        predictions[len(a) :],
        first["target"].to_numpy(),
        first["prompt_id"].to_numpy(),
        metrics,
        threshold=threshold,
        resamples=resamples,
        seed=seed,
        confidence=confidence,
    )


def measured_predictions(
    settings: Mapping[_Name, Sequence[pd.DataFrame]],
    metrics: Sequence[MetricName],
    *,
    evaluator: str,
    split: str = "test",
    threshold: float | None = None,
) -> dict[_Name, dict[MetricName, Measured]]:
    """Several settings at once, for whoever needs all their differences: setting -> metric -> :class:`Measured`.

    ``settings`` holds tables as in :func:`compare_predictions`, whose intervals are those of ``a.interval`` and
    ``a.minus(b).interval`` over the same resamples.

    Raises what :func:`compare_predictions` raises.
    """
    _require_possible(metrics, threshold)
    tables = [table for side in settings.values() for table in side]
    if not all(settings.values()) or not tables:
        raise DataError("a setting has no cell: pass at least one table of predictions for each")
    first, predictions = _aligned(tables, evaluator, split)
    target, prompt = first["target"].to_numpy(), first["prompt_id"].to_numpy()
    rows = iter(predictions)
    sides = {name: [prompt_table(next(rows), target, prompt) for _ in side] for name, side in settings.items()}
    return {name: measured(side, metrics, threshold) for name, side in sides.items()}


def _require_possible(metrics: Sequence[MetricName], threshold: float | None) -> None:
    for name in metrics:
        if name not in METRICS:
            raise ConfigError(f"there is no metric '{name}': {nearest(name, METRICS)}")
    if "auc" in metrics and threshold is None:
        raise ConfigError("the metric 'auc' needs the score above which a target is positive: pass threshold=")


def _aligned(tables: Sequence[pd.DataFrame], evaluator: str, split: str) -> tuple[pd.DataFrame, Floats]:
    """The rows of the first table in order of their samples, and the predictions ``[T, n]`` of all."""
    parts = [_part(table, evaluator, split) for table in tables]
    first = parts[0]
    for part in parts[1:]:
        if not first.index.equals(part.index):
            common = len(first.index.intersection(part.index))
            raise DataError(
                f"the {split} splits hold {len(first)} and {len(part)} images, {common} of them the same: "
                "compare cells of one cache and one data.split"
            )
        if not np.array_equal(first["target"], part["target"]):
            raise DataError(f"the scores of {evaluator} are not those of one scoring: sweep again what is older")
    return first, np.stack([part["prediction"].to_numpy(np.float64) for part in parts])


def _part(table: pd.DataFrame, evaluator: str, split: str) -> pd.DataFrame:
    part = table[(table["evaluator"] == evaluator) & (table["split"] == split)]
    if part.empty:
        held = [f"{one} ({other})" for one, other in table[["evaluator", "split"]].drop_duplicates().to_numpy()]
        raise DataError(f"a cell has no predictions of {evaluator} on the {split} split: it has {', '.join(held)}")
    return part.set_index("sample_id").sort_index()
