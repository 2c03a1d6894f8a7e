"""All metrics of one evaluator's predictions, with intervals."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Literal, get_args

import numpy as np
import numpy.typing as npt

from probe_lab.metrics.bootstrap import Interval, PromptRatio, Scale, resample
from probe_lab.metrics.correlation import Pooled
from probe_lab.metrics.measured import Measured, left_out_in_turn
from probe_lab.metrics.per_prompt import PromptTable, prompt_table
from probe_lab.metrics.within import WITHIN_METRICS, WithinMetric

GlobalMetric = Literal["srcc", "ktc", "pcc", "auc"]
MetricName = GlobalMetric | WithinMetric
METRICS: tuple[MetricName, ...] = (*get_args(GlobalMetric), *WITHIN_METRICS)
_SCALES: Mapping[str, Scale] = {"auc": "auc"}


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
    """Every metric of :data:`METRICS`, each with an interval over prompts.

    ``prediction``, ``target`` and ``prompt`` are ``[n]``: one candidate per row, in any order, ``prompt`` its
    prompt id. Prompts may have different numbers of candidates.

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

    A value that is undefined (all prompts tied, constant targets, one class) is nan. Intervals within prompts are
    studentised over ``resamples`` drawn from ``seed`` (see :mod:`~probe_lab.metrics.bootstrap`); those over all
    candidates are symmetric in Fisher's z, with the standard error of a jackknife that leaves out each prompt in turn.

    Raises :class:`~probe_lab.errors.DataError` for arrays of different or wrong shape, and
    :class:`~probe_lab.errors.ScoreError` for a value that is not finite.
    """
    table = prompt_table(prediction, target, prompt)
    draws = resample(len(table.size), resamples, seed)
    return {name: found.interval(draws, confidence) for name, found in measured([table], METRICS, threshold).items()}


def measured(
    trainings: Sequence[PromptTable], metrics: Iterable[MetricName], threshold: float | None
) -> dict[MetricName, Measured]:
    """Each metric of one setting: its mean over trainings, which predict the same candidates."""
    names = list(metrics)
    over_all: Mapping[str, Measured] = {}
    if not WITHIN_METRICS.keys() >= set(names):
        over_all = _over_all(trainings, 0.0 if threshold is None else threshold)
    reduce: Mapping[str, Callable[[PromptTable], PromptRatio]] = {
        str(name): one for name, one in WITHIN_METRICS.items()
    }
    return {
        name: Measured.of_ratios([reduce[name](table) for table in trainings]) if name in reduce else over_all[name]
        for name in names
    }


def _over_all(trainings: Sequence[PromptTable], threshold: float) -> dict[str, Measured]:
    prompts = len(trainings[0].size)
    draws = np.concatenate([np.ones((1, prompts)), left_out_in_turn(prompts)])
    values = [Pooled(table, threshold).statistics(draws) for table in trainings]
    return {
        name: Measured.of_jackknife(rows[:, 0], rows[:, 1:], prompts, _SCALES.get(name, "correlation"))
        for name in get_args(GlobalMetric)
        for rows in [np.stack([of_training[name] for of_training in values])]
    }
