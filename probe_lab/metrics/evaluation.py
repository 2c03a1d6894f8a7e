"""All metrics of one evaluator's predictions, with intervals."""

from __future__ import annotations

from typing import Literal, get_args

import numpy as np
import numpy.typing as npt

from probe_lab.metrics.bootstrap import Interval, interval, resample
from probe_lab.metrics.correlation import Pooled
from probe_lab.metrics.prompts import prompt_table
from probe_lab.metrics.within import WITHIN_METRICS, WithinMetric

GlobalMetric = Literal["srcc", "ktc", "pcc", "auc"]
MetricName = GlobalMetric | WithinMetric
METRICS: tuple[MetricName, ...] = (*get_args(GlobalMetric), *WITHIN_METRICS)


def evaluate(
    prediction: npt.ArrayLike,
    target: npt.ArrayLike,
    prompt: npt.ArrayLike,
    *,
    threshold: float,
    resamples: int = 1000,
    seed: int = 0,
    confidence: float = 0.95,
) -> dict[str, Interval]:
    """Every metric of :data:`METRICS`, each with a percentile interval from a bootstrap over prompts.

    ``prediction``, ``target`` and ``prompt`` are ``[n]``: one candidate per row, in any order, ``prompt`` its
    prompt id. Prompts may have different numbers of candidates. All metrics share the same resamples, drawn
    from ``seed``.

    Over all candidates (a prompt-only baseline shows how much of these is the prompt's difficulty):

    - ``srcc``, ``ktc``, ``pcc``: Spearman, Kendall's tau-b and Pearson, equal to scipy's. 0 for constant
      predictions.
    - ``auc``: chance that a candidate with target > ``threshold`` (the training median) has a higher
      prediction than one without, ties half. nan when one of the two kinds is missing.

    Within prompts, where prompts whose candidates all have the same target are left out and counted as
    ``tied``:

    - ``srcc_within``, ``ktc_within``, ``pcc_within``: mean over prompts; 0 for a prompt with constant
      predictions.
    - ``top1``: share of prompts whose highest predicted candidate has the best target.
    - ``selection_gain``: Σ (selected − mean) / Σ (best − mean) over prompts; 0 = random, 1 = oracle.
    - ``ndcg``: mean over prompts, gains scaled to 0 … 1 within the prompt.

    A value that is undefined (all prompts tied, constant targets, one class) is nan. Resampled global metrics
    are exact, ties included; see :class:`~probe_lab.metrics.correlation.Pooled` for how and at what cost.

    Raises :class:`~probe_lab.errors.DataError` for arrays of different or wrong shape, and
    :class:`~probe_lab.errors.ScoreError` for a value that is not finite.
    """
    table = prompt_table(prediction, target, prompt)
    draws = resample(len(table.size), resamples, seed)
    result: dict[str, Interval] = {}

    pooled = Pooled(table, threshold)
    values = pooled.statistics(draws)
    for name, (estimate,) in pooled.statistics(np.ones((1, len(table.size)))).items():
        result[name] = interval(estimate, values[name], confidence, prompts=len(table.size), tied=0)

    for within, reduce in WITHIN_METRICS.items():
        result[within] = reduce(table).interval(draws, confidence)
    return result
