"""Ridge regression in closed form, streamed: what memory it needs depends on the features, not on the
samples."""

from __future__ import annotations

from collections.abc import Iterable

import torch
from torch import Tensor

PENALTIES = tuple(10.0**power for power in range(-4, 5))
"""Tried on the validation split, per sample and for features of unit variance."""

FREE = 1e-3
"""The penalty on features that are to be free: they may say the same, and then share their weight."""


class Moments:
    """Sums over samples of x, y, x·xᵀ, x·yᵀ and y², in float64; enough for any ridge regression and its
    error."""

    def __init__(self, features: int, targets: int) -> None:
        self.count = 0
        self.x = torch.zeros(features, dtype=torch.float64)
        self.y = torch.zeros(targets, dtype=torch.float64)
        self.xx = torch.zeros(features, features, dtype=torch.float64)
        self.xy = torch.zeros(features, targets, dtype=torch.float64)
        self.yy = torch.zeros(targets, dtype=torch.float64)

    @classmethod
    def of(cls, parts: Iterable[tuple[Tensor, Tensor]], features: int, targets: int) -> Moments:
        """Of batches of (x ``[B, F]``, y ``[B, E]``)."""
        moments = cls(features, targets)
        for x, y in parts:
            x, y = x.double().cpu(), y.double().cpu()
            moments.count += len(x)
            moments.x += x.sum(dim=0)
            moments.y += y.sum(dim=0)
            moments.xx += x.T @ x
            moments.xy += x.T @ y
            moments.yy += y.square().sum(dim=0)
        return moments

    def error(self, weight: Tensor, bias: Tensor) -> Tensor:
        """Mean squared error ``[E]`` of ``x @ weight + bias`` over the samples that were summed."""
        squares = torch.einsum("fe,fg,ge->e", weight, self.xx, weight) + self.count * bias.square() + self.yy
        mixed = bias * (weight.T @ self.x - self.y) - torch.einsum("fe,fe->e", weight, self.xy)
        return (squares + 2 * mixed) / self.count


def ridge(moments: Moments, penalty: float, free: int = 0) -> tuple[Tensor, Tensor]:
    """``weight`` ``[F, E]`` and ``bias`` ``[E]`` with the smallest Σ|y − xw − b|² / n + penalty · Σ (σ w)².

    σ is the standard deviation of a feature: the penalty is on features of unit variance, and the bias is
    free; so, but for ``FREE``, are the last ``free`` features. A feature that never changes has weight 0.
    """
    n = moments.count
    mean_x, mean_y = moments.x / n, moments.y / n
    covariance = moments.xx / n - torch.outer(mean_x, mean_x)
    variance = covariance.diagonal().clamp_min(0)
    scale = torch.where(variance > 1e-10, variance, 1.0).sqrt()
    varies = (variance > 1e-10).double()
    matrix = covariance / torch.outer(scale, scale) * torch.outer(varies, varies)
    mixed = (moments.xy / n - torch.outer(mean_x, mean_y)) * (varies / scale)[:, None]
    penalties = torch.full_like(mean_x, penalty)
    penalties[len(mean_x) - free :] = min(penalty, FREE)
    weight = torch.linalg.solve(matrix + penalties.diag(), mixed) / scale[:, None]
    return weight, mean_y - mean_x @ weight


def fit_ridge(train: Moments, val: Moments, free: int = 0) -> tuple[Tensor, Tensor]:
    """Weight and bias of ``ridge`` on ``train``, each target with the penalty of the smallest error on
    ``val``."""
    fits = [ridge(train, penalty, free) for penalty in PENALTIES]
    errors = torch.stack([val.error(weight, bias) for weight, bias in fits])
    best = errors.argmin(dim=0).tolist()
    weight = torch.stack([fits[index][0][:, target] for target, index in enumerate(best)], dim=1)
    bias = torch.stack([fits[index][1][target] for target, index in enumerate(best)])
    return weight, bias
