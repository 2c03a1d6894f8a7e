"""The difference of two probes on the same candidates, from a bootstrap that draws the same prompts for both.

In resample r, prompt p is drawn w_rp times, for both. With m the metric and S_a, S_b trainings (seeds) of a and b,

    Δ_r = 1/S_a Σ_s m(a_s, w_r) − 1/S_b Σ_s m(b_s, w_r)

and the interval holds the central percentiles of Δ_1 … Δ_R. What a and b share, easy and hard prompts above all,
cancels within each Δ_r: the interval can exclude 0 where the two separate intervals overlap. It is about other
prompts, for the trainings at hand: averaging S trainings takes their scatter out of the estimate, but how much other
trainings would differ is not in its width.
"""

from __future__ import annotations

from collections.abc import Hashable, Mapping, Sequence
from typing import TYPE_CHECKING, TypeVar

import numpy as np
import numpy.typing as npt

from probe_lab.errors import ConfigError, DataError, nearest
from probe_lab.metrics.bootstrap import Interval, interval, resample
from probe_lab.metrics.correlation import Pooled
from probe_lab.metrics.evaluation import METRICS, MetricName
from probe_lab.metrics.prompts import Floats, PromptTable, prompt_table
from probe_lab.metrics.within import WITHIN_METRICS

if TYPE_CHECKING:
    import pandas as pd

_Name = TypeVar("_Name", bound=Hashable)


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
    """Metric of a minus metric of b on the same candidates, with a paired bootstrap over prompts.

    ``target`` and ``prompt`` are ``[n]`` as in :func:`~probe_lab.metrics.evaluate`; ``prediction_a`` and
    ``prediction_b`` are ``[n]``, or ``[S, n]`` for S trainings that are averaged in every resample (S may differ). A
    ``seed`` draws the prompts that ``evaluate`` draws from it. a against itself is exactly 0, from 0 to 0.

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
    """Per metric a, b and a − b, all three on the same resamples; arguments as in :func:`paired_difference`.

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
    table = sides[0][0]
    draws = _draws(len(table.size), resamples, seed)
    a, b = (_mean_statistics(tables, metrics, draws, threshold) for tables in sides)
    tied = int(table.tied.sum())

    def summary(name: MetricName, values: Floats) -> Interval:
        left_out = tied if name in WITHIN_METRICS else 0
        return interval(values[0], values[1:], confidence, prompts=len(table.size) - left_out, tied=left_out)

    return {
        name: (summary(name, a[name]), summary(name, b[name]), summary(name, a[name] - b[name])) for name in metrics
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


def resample_predictions(
    settings: Mapping[_Name, Sequence[pd.DataFrame]],
    metrics: Sequence[MetricName],
    *,
    evaluator: str,
    split: str = "test",
    threshold: float | None = None,
    resamples: int = 1000,
    seed: int = 0,
) -> dict[_Name, dict[MetricName, Floats]]:
    """Several settings at once, for whoever needs all their differences: setting -> metric -> ``[1 + resamples]``.

    The first value is that of the prompts as they are, the others are those of the resamples, the same ones for all
    settings; training seeds are averaged in each. ``settings`` holds tables as in :func:`compare_predictions`, which
    the percentiles of a difference of two settings equal.

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
    draws = _draws(len(next(iter(sides.values()))[0].size), resamples, seed)
    return {name: dict(_mean_statistics(side, metrics, draws, threshold)) for name, side in sides.items()}


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


def _draws(prompts: int, resamples: int, seed: int) -> Floats:
    """``[1 + resamples, prompts]``: first the prompts as they are, then the resamples."""
    return np.concatenate([np.ones((1, prompts)), resample(prompts, resamples, seed)])


def _part(table: pd.DataFrame, evaluator: str, split: str) -> pd.DataFrame:
    part = table[(table["evaluator"] == evaluator) & (table["split"] == split)]
    if part.empty:
        held = [f"{one} ({other})" for one, other in table[["evaluator", "split"]].drop_duplicates().to_numpy()]
        raise DataError(f"a cell has no predictions of {evaluator} on the {split} split: it has {', '.join(held)}")
    return part.set_index("sample_id").sort_index()


def _mean_statistics(
    tables: Sequence[PromptTable], metrics: Sequence[MetricName], draws: Floats, threshold: float | None
) -> Mapping[MetricName, Floats]:
    """Per metric ``[R]``: the mean over trainings in every sample of ``draws [R, P]``."""
    found: dict[MetricName, list[Floats]] = {name: [] for name in metrics}
    for table in tables:
        pooled: Mapping[str, Floats] = {}
        if any(name not in WITHIN_METRICS for name in metrics):
            pooled = Pooled(table, 0.0 if threshold is None else threshold).statistics(draws)
        within = {str(name): reduce for name, reduce in WITHIN_METRICS.items()}
        for name, values in found.items():
            values.append(within[name](table)(draws) if name in within else pooled[name])
    return {name: np.mean(values, axis=0) for name, values in found.items()}
