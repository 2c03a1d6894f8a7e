"""How good one evaluator's predictions are: global and within-prompt correlation, selection, intervals.

``evaluate`` is the final evaluation; ``paired_difference``, ``compare_predictions`` and ``selection_gain_curve``
answer the questions behind it; ``agreements`` and ``spreads`` look at the evaluators themselves; the torchmetrics
classes compute the same numbers during training. Intervals are over prompts, never over images.
"""

from probe_lab.metrics.agreement import Agreement, Spread, agreements, spreads
from probe_lab.metrics.bootstrap import Interval
from probe_lab.metrics.evaluation import METRICS, MetricName, evaluate
from probe_lab.metrics.measured import Measured
from probe_lab.metrics.multiple import holm
from probe_lab.metrics.online import (
    SelectionGain,
    ThresholdAUROC,
    Top1,
    WithinPromptKendall,
    WithinPromptPearson,
    WithinPromptSpearman,
    global_metrics,
    within_prompt_metrics,
)
from probe_lab.metrics.paired import (
    compare_predictions,
    measured_predictions,
    paired_difference,
    paired_differences,
    paired_mean,
)
from probe_lab.metrics.selection import SelectionPoint, selection_gain_curve
from probe_lab.metrics.within import WITHIN_METRICS, WithinMetric, within_prompt_estimate

__all__ = [
    "METRICS",
    "WITHIN_METRICS",
    "Agreement",
    "Interval",
    "Measured",
    "MetricName",
    "SelectionGain",
    "SelectionPoint",
    "Spread",
    "ThresholdAUROC",
    "Top1",
    "WithinMetric",
    "WithinPromptKendall",
    "WithinPromptPearson",
    "WithinPromptSpearman",
    "agreements",
    "compare_predictions",
    "evaluate",
    "global_metrics",
    "holm",
    "measured_predictions",
    "paired_difference",
    "paired_differences",
    "paired_mean",
    "selection_gain_curve",
    "spreads",
    "within_prompt_estimate",
    "within_prompt_metrics",
]
