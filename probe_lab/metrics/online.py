"""The same metrics as torchmetrics, for use during training; states are gathered over processes."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any, ClassVar

import torch
from torch import Tensor, nn
from torchmetrics import KendallRankCorrCoef, Metric, MetricCollection, PearsonCorrCoef, SpearmanCorrCoef
from torchmetrics.classification import BinaryAUROC
from torchmetrics.utilities import dim_zero_cat

from probe_lab.metrics.within import WithinMetric, within_prompt_estimate


class _WithinPrompt(Metric):
    """One of :data:`~probe_lab.metrics.WITHIN_METRICS`; all candidates are kept until the epoch ends.

    A prompt may be spread over batches and processes. ``compute`` is nan when every prompt seen ties in
    target, and raises what :func:`~probe_lab.metrics.evaluate` raises.
    """

    is_differentiable = False
    higher_is_better = True
    full_state_update = False

    metric: ClassVar[WithinMetric]
    prediction: list[Tensor]
    target: list[Tensor]
    group: list[Tensor]

    def __init__(self, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        for name in ("prediction", "target", "group"):
            self.add_state(name, default=[], dist_reduce_fx="cat")

    def update(self, prediction: Tensor, target: Tensor, group: Tensor) -> None:
        """Add candidates: ``prediction`` and ``target`` ``[B]`` float, ``group`` ``[B]`` int64 prompt ids."""
        self.prediction.append(prediction.detach())
        self.target.append(target.detach())
        self.group.append(group)

    def compute(self) -> Tensor:
        """The value over all candidates seen, a float32 scalar."""
        prediction, target, group = map(dim_zero_cat, (self.prediction, self.target, self.group))
        value = within_prompt_estimate(
            prediction.cpu().double().numpy(), target.cpu().double().numpy(), group.cpu().numpy(), self.metric
        )
        return torch.tensor(value, dtype=torch.float32, device=prediction.device)


class WithinPromptSpearman(_WithinPrompt):
    """Mean over prompts of Spearman's rank correlation (``srcc_within``)."""

    metric = "srcc_within"


class WithinPromptKendall(_WithinPrompt):
    """Mean over prompts of Kendall's tau-b (``ktc_within``)."""

    metric = "ktc_within"


class WithinPromptPearson(_WithinPrompt):
    """Mean over prompts of Pearson's correlation (``pcc_within``)."""

    metric = "pcc_within"


class SelectionGain(_WithinPrompt):
    """Gain of choosing by prediction, 0 = random and 1 = oracle (``selection_gain``)."""

    metric = "selection_gain"


class Top1(_WithinPrompt):
    """Share of prompts whose best candidate is chosen (``top1``)."""

    metric = "top1"


class ThresholdAUROC(BinaryAUROC):
    """torchmetrics' AUROC of real-valued targets: target > ``threshold`` is the positive class."""

    def __init__(self, threshold: float, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.threshold = threshold

    def update(self, preds: Tensor, target: Tensor) -> None:
        """Add candidates, both ``[B]``."""
        # BinaryAUROC applies a sigmoid to just those batches that leave [0, 1], which mixes two scales.
        # This map keeps the order and stays inside.
        wide = preds.detach().double()
        super().update(0.5 + 0.5 * wide / (1.0 + wide.abs()), (target > self.threshold).long())


def within_prompt_metrics(evaluators: Iterable[str]) -> nn.ModuleDict:
    """Per evaluator a collection of within-prompt metrics; update each with (prediction, target, group)."""
    members = (WithinPromptSpearman, WithinPromptKendall, WithinPromptPearson, SelectionGain, Top1)
    return nn.ModuleDict(
        {name: MetricCollection({member.metric: member() for member in members}) for name in evaluators}
    )


def global_metrics(thresholds: Mapping[str, float]) -> nn.ModuleDict:
    """Per evaluator a collection of srcc, ktc, pcc and auc; update each with (prediction, target).

    ``thresholds`` maps every evaluator to the target above which a candidate is positive: its training
    median.
    """
    return nn.ModuleDict(
        {
            name: MetricCollection(
                {
                    "srcc": SpearmanCorrCoef(),
                    "ktc": KendallRankCorrCoef(variant="b"),
                    "pcc": PearsonCorrCoef(),
                    "auc": ThresholdAUROC(threshold),
                }
            )
            for name, threshold in thresholds.items()
        }
    )
