"""Predictions and targets of a list as two vectors that should point the same way."""

from __future__ import annotations

import torch
from torch import Tensor

from probe_lab.losses.lists import gaps, mean_over_lists, same_list, sizes, varied_lists

FLAT_NORM = 1e-4
"""Centred predictions of one list whose norm is below this have no direction yet (see :func:`pearson`)."""


def pearson(prediction: Tensor, target: Tensor, *, group: Tensor | None = None) -> Tensor:
    """1 − r, with r the Pearson correlation of prediction and target within a prompt, averaged over prompts.

    r = u · v, where u and v are prediction and target minus their means, divided by their norms. Prompts with
    one row, or whose targets are all the same, have no correlation and are left out. The norm of the centred
    predictions is taken as at least :data:`FLAT_NORM`: below it r falls linearly to 0, the value for constant
    predictions, whose gradient is finite and points to the target. Invariant to a shift of all predictions of
    a prompt and, above that norm, to their scale.
    """
    return _one_minus_r(prediction, target, same_list(prediction, group), target)


def spearman(prediction: Tensor, target: Tensor, *, temperature: float, group: Tensor | None = None) -> Tensor:
    """1 − ρ, with ρ Spearman's rank correlation of a prompt, whose ranks of the predictions are soft.

    ρ is the Pearson correlation, as in :func:`pearson`, of R̂_i = Σ_j σ((ŷ_i − ŷ_j)/τ) and the ranks of the
    targets, R_i = Σ_j [y_j < y_i] + ½ [y_j = y_i], over the rows j of the prompt: ties share their mean rank.
    A rank as a sum of sigmoids is from Qin, Liu and Li 2010 (a general approximation framework for direct
    optimization of information retrieval measures). τ is ``temperature`` > 0, in units of the predictions: as
    it goes to 0 this becomes 1 − SRCC within prompts, and its gradient 0; for a large one R̂ is linear in ŷ,
    and this is :func:`pearson` with ranks for targets. Prompts with one row, or whose targets are all the
    same, are left out. Invariant to a shift of all predictions of a prompt, and to whatever leaves the order
    of its targets.
    """
    same = same_list(prediction, group)
    soft = torch.where(same, torch.sigmoid(-gaps(prediction) / temperature), 0.0).sum(dim=1)
    ranks = torch.where(same, (1 - gaps(target).sign()) / 2, 0.0).sum(dim=1)
    return _one_minus_r(soft, ranks, same, target)


def _one_minus_r(left: Tensor, right: Tensor, same: Tensor, target: Tensor) -> Tensor:
    """1 − r of two ``[B]``, averaged over the lists whose targets vary."""
    direction = _unit_lists(right, same, torch.finfo(right.dtype).tiny)
    loss = 1 / sizes(same, left) - _unit_lists(left, same, FLAT_NORM) * direction
    return mean_over_lists(loss, varied_lists(target, same))


def _unit_lists(values: Tensor, same: Tensor, floor: float) -> Tensor:
    """``[B]``: c / max(‖c‖, floor), with c the values of a list minus their mean.

    Computed on c over its largest entry, as a constant, so that no square overflows or underflows.
    """
    centred = values - torch.where(same, values[None, :], 0.0).sum(dim=1) / sizes(same, values)
    largest = torch.where(same, centred.detach().abs()[None, :], 0.0).amax(dim=1).clamp_min(floor)
    scaled = centred / largest
    return scaled / torch.where(same, scaled.square()[None, :], 0.0).sum(dim=1).clamp_min(1.0).sqrt()
