"""The metrics that are computed within prompts, by name."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Literal

import numpy.typing as npt

from probe_lab.metrics.bootstrap import PromptRatio
from probe_lab.metrics.correlation import ktc_within, pcc_within, srcc_within
from probe_lab.metrics.gain import ndcg, selection_gain, top1
from probe_lab.metrics.per_prompt import PromptTable, prompt_table

WithinMetric = Literal["srcc_within", "ktc_within", "pcc_within", "top1", "selection_gain", "ndcg"]

WITHIN_METRICS: Mapping[WithinMetric, Callable[[PromptTable], PromptRatio]] = {
    "srcc_within": srcc_within,
    "ktc_within": ktc_within,
    "pcc_within": pcc_within,
    "top1": top1,
    "selection_gain": selection_gain,
    "ndcg": ndcg,
}
"""Each reduces a table of candidates to one numerator and denominator per prompt."""


def within_prompt_estimate(
    prediction: npt.ArrayLike, target: npt.ArrayLike, prompt: npt.ArrayLike, metric: WithinMetric
) -> float:
    """One metric, no interval; arrays as in :func:`~probe_lab.metrics.evaluate`. nan when all prompts tie."""
    return WITHIN_METRICS[metric](prompt_table(prediction, target, prompt)).estimate()
