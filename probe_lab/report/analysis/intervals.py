"""Intervals of the numbers that a report computes itself, by the one method of :mod:`probe_lab.metrics`."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import pandas as pd

from probe_lab.metrics import WITHIN_METRICS, Interval, Measured, WithinMetric
from probe_lab.metrics.bootstrap import PromptRatio, resample
from probe_lab.metrics.per_prompt import Bools, Floats, prompt_table
from probe_lab.report.analysis.results import CONFIDENCE, RESAMPLES, Value


def by_prompt(table: pd.DataFrame, metric: WithinMetric) -> tuple[pd.Index, PromptRatio]:
    """Prompt ids [P] in ascending order and what each contributes; ``table`` has prompt_id, target, prediction."""
    laid_out = prompt_table(table["prediction"], table["target"], table["prompt_id"])
    return pd.Index(np.unique(table["prompt_id"])), WITHIN_METRICS[metric](laid_out)


def part_of(ratio: PromptRatio, kept: Bools) -> PromptRatio:
    """The same statistic of the prompts that ``kept`` [P] marks."""
    return PromptRatio(ratio.numerator[kept], ratio.denominator[kept], ratio.left_out[kept], ratio.scale)


def value_of(ratio: PromptRatio) -> Value:
    """The statistic with its interval over prompts; nan where no prompt is left."""
    return value_over([ratio])


def value_over(trainings: Sequence[PromptRatio]) -> Value:
    """Mean over trainings, with its interval over prompts and trainings; nan where no prompt is left."""
    if not trainings or trainings[0].left_out.all():
        return Value(np.nan, np.nan, np.nan)
    return measured_value(Measured.of_ratios(trainings))


def measured_value(measured: Measured) -> Value:
    """The estimate with its interval and p-value."""
    return as_value(measured.interval(draws(len(measured.influence)), CONFIDENCE))


def as_value(interval: Interval) -> Value:
    return Value(interval.estimate, interval.lower, interval.upper, interval.p)


def draws(prompts: int) -> Floats:
    """``[RESAMPLES, prompts]``: the same resamples for the same number of prompts."""
    return resample(prompts, RESAMPLES, seed=0)
