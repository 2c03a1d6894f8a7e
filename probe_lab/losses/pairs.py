"""Pairs of one prompt, of which the better one should have the higher prediction."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from probe_lab.losses.lists import gaps, mean_over_lists, same_list, sizes, varied_lists

HINGE = 1.0
"""Margin of :func:`pairwise_hinge`, in units of the predictions."""


def pairwise_logistic(prediction: Tensor, target: Tensor, *, group: Tensor | None = None) -> Tensor:
    """RankNet (Burges et al. 2005): the mean of log(1 + exp(−(ŷ_i − ŷ_j))) over all pairs of one prompt with
    y_i > y_j.

    All pairs of the batch weigh the same, so with ``group`` the loss is the mean over prompts weighted by
    their number of pairs. Ties make no pair. Invariant to a shift of all predictions of a prompt.
    """
    loss = F.softplus(gaps(prediction))  # entry [i, j] is log(1 + exp(ŷ_j − ŷ_i))
    return _mean_over_pairs(loss, _better(target, same_list(prediction, group)))


def pairwise_hinge(prediction: Tensor, target: Tensor, *, margin: float = HINGE, group: Tensor | None = None) -> Tensor:
    """Ranking SVM (Joachims 2002): the mean of max(0, m − (ŷ_i − ŷ_j)) over all pairs of one prompt with y_i > y_j.

    m is ``margin`` > 0, in units of the predictions, whose scale nothing else fixes: it is that scale. So it
    is constant, not the α of :func:`listwise`, which is in units of the targets and falls over the epochs: at
    m = 0 constant predictions are a minimum. Pairs that are apart by m or more no longer move.

    All pairs of the batch weigh the same, as in :func:`pairwise_logistic`. Ties make no pair. Invariant to a
    shift of all predictions of a prompt.
    """
    return _mean_over_pairs(F.relu(margin + gaps(prediction)), _better(target, same_list(prediction, group)))


def lambda_rank(prediction: Tensor, target: Tensor, *, group: Tensor | None = None) -> Tensor:
    """LambdaRank (Burges et al. 2006): RankNet, each pair weighted by what its exchange would change in NDCG.

    Σ |ΔNDCG_ij| · log(1 + exp(−(ŷ_i − ŷ_j))) over the pairs of a prompt with y_i > y_j, averaged over the
    prompts that have one, with |ΔNDCG_ij| = |g_i − g_j| · |d_i − d_j| / Σ_k g_k d*_k.

    Gains are g = (y − min)/(max − min) in the prompt, those of the NDCG that is reported: scores are real
    numbers without a natural zero, often negative, so 2^y − 1 would depend on their unit, and gains by rank
    would call seeds that hardly differ as different as any. Discounts are d = 1/log2(1 + rank by prediction),
    d* by target. Where predictions tie, the worse row is taken to stand first, so that constant predictions
    still learn; rows that tie in both share their mean rank.

    The weights are constants of the graph, as in the paper: the gradient is exact between exchanges, and the
    value jumps where two predictions cross. Ties in target make no pair. Invariant to a shift of all
    predictions of a prompt, and to a shift and a positive scaling of all its targets.
    """
    same = same_list(prediction, group)
    better = _better(target, same)
    gain = _gains(target, same)
    discount = _discounts(_ranks(prediction.detach(), target, same))
    ideal = torch.where(same, gain * _discounts(_places(target, same)), 0.0).sum(dim=1)
    change = (gain[:, None] - gain[None, :]) * (discount[:, None] - discount[None, :]).abs()
    weight = change / torch.where(ideal > 0, ideal, 1.0)[:, None]
    loss = torch.where(better, weight * F.softplus(gaps(prediction)), 0.0).sum(dim=1)
    return mean_over_lists(loss, varied_lists(target, same))


def _better(target: Tensor, same: Tensor) -> Tensor:
    """``[B, B]`` bool: row i has the higher target of the two."""
    return same & (target[:, None] > target[None, :])


def _mean_over_pairs(loss: Tensor, pairs: Tensor) -> Tensor:
    return torch.where(pairs, loss, 0.0).sum() / pairs.sum().clamp_min(1)


def _gains(target: Tensor, same: Tensor) -> Tensor:
    """``[B]`` in 0 … 1: the target between the lowest and the highest of its list; 0 where they are equal."""
    lowest = torch.where(same, target[None, :], torch.inf).amin(dim=1)
    span = torch.where(same, target[None, :], -torch.inf).amax(dim=1) - lowest
    return (target - lowest) / torch.where(span > 0, span, 1.0)


def _discounts(ranks: Tensor) -> Tensor:
    return 1 / torch.log2(1 + ranks)


def _ranks(prediction: Tensor, target: Tensor, same: Tensor) -> Tensor:
    """``[B]`` from 1, the highest prediction first; of equal ones the worse first, equal in both: the mean."""
    higher = same & (prediction[None, :] > prediction[:, None])
    equal = same & (prediction[None, :] == prediction[:, None])
    before = higher | (equal & (target[None, :] < target[:, None]))
    alike = equal & (target[None, :] == target[:, None])
    return before.sum(dim=1) + (sizes(alike, prediction) + 1) / 2


def _places(target: Tensor, same: Tensor) -> Tensor:
    """``[B]`` from 1, the highest target first; equal ones one after the other."""
    higher = same & (target[None, :] > target[:, None])
    equal = same & (target[None, :] == target[:, None])
    return (higher.sum(dim=1) + equal.tril().sum(dim=1)).to(target.dtype)
