"""Intervals of the numbers that a report computes itself: bootstraps over prompts, as everywhere."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import pandas as pd

from probe_lab.metrics import WITHIN_METRICS, WithinMetric
from probe_lab.metrics.bootstrap import PromptRatio, interval, resample
from probe_lab.metrics.prompts import Bools, Floats, prompt_table
from probe_lab.report.load import Value

RESAMPLES = 1000
CONFIDENCE = 0.95


def by_prompt(table: pd.DataFrame, metric: WithinMetric) -> tuple[pd.Index, PromptRatio]:
    """Prompt ids [P] in ascending order and what each contributes; ``table`` has prompt_id, target, prediction."""
    laid_out = prompt_table(table["prediction"], table["target"], table["prompt_id"])
    return pd.Index(np.unique(table["prompt_id"])), WITHIN_METRICS[metric](laid_out)


def part_of(ratio: PromptRatio, kept: Bools) -> PromptRatio:
    """The same statistic of the prompts that ``kept`` [P] marks."""
    return PromptRatio(ratio.numerator[kept], ratio.denominator[kept], ratio.left_out[kept])


def value_of(ratio: PromptRatio) -> Value:
    """The statistic with its interval over prompts; nan where no prompt is left."""
    if not len(ratio.left_out) or ratio.left_out.all():
        return Value(np.nan, np.nan, np.nan)
    found = ratio.interval(draws(len(ratio.left_out)), CONFIDENCE)
    return Value(found.estimate, found.lower, found.upper)


def value_between(estimate: float, values: Floats) -> Value:
    """An estimate between the percentiles of its resampled ``values`` [R]."""
    found = interval(estimate, values, CONFIDENCE, prompts=0, tied=0)
    return Value(found.estimate, found.lower, found.upper)


def mean_value(values: Sequence[Value]) -> Value:
    """Mean over training seeds, of the bounds too: the interval of a typical training run."""
    numbers = np.mean([(value.estimate, value.lower, value.upper) for value in values], axis=0)
    return Value(*(float(number) for number in numbers))


def draws(prompts: int) -> Floats:
    """``[RESAMPLES, prompts]``: the same resamples for the same number of prompts."""
    return resample(prompts, RESAMPLES, seed=0)
