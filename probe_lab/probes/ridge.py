"""Ridge regression in closed form, streamed: what memory it needs depends on the features, not on the
samples."""

from __future__ import annotations

from collections.abc import Iterable

import torch
from torch import Tensor

PENALTIES = tuple(10.0**power for power in range(-5, 7))
"""Tried on the validation split, per sample and for features of unit variance: from hardly any to one under which all
weights are proportional to the covariances."""

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
            moments.add(x, y)
        return moments

    def add(self, x: Tensor, y: Tensor) -> None:
        """One more batch, x ``[B, F]`` and y ``[B, E]``."""
        x, y = x.double().cpu(), y.double().cpu()
        self.count += len(x)
        self.x += x.sum(dim=0)
        self.y += y.sum(dim=0)
        self.xx += x.T @ x
        self.xy += x.T @ y
        self.yy += y.square().sum(dim=0)

    def residual(self, weight: Tensor) -> Moments:
        """Of the same x and of y − x @ ``weight`` ``[F, E]``."""
        left = Moments(len(self.x), len(self.y))
        left.count, left.x, left.xx = self.count, self.x, self.xx
        left.y = self.y - weight.T @ self.x
        left.xy = self.xy - self.xx @ weight
        left.yy = self.yy + torch.einsum("fe,fe->e", weight, self.xx @ weight - 2 * self.xy)
        return left

    def error(self, weight: Tensor, bias: Tensor) -> Tensor:
        """Mean squared error ``[E]`` of ``x @ weight + bias`` over the samples that were summed."""
        squares = torch.einsum("fe,fg,ge->e", weight, self.xx, weight) + self.count * bias.square() + self.yy
        mixed = bias * (weight.T @ self.x - self.y) - torch.einsum("fe,fe->e", weight, self.xy)
        return (squares + 2 * mixed) / self.count


def ridge(moments: Moments, penalty: float, free: int = 0, *, quiet: Tensor | None = None) -> tuple[Tensor, Tensor]:
    """``weight`` ``[F, E]`` and ``bias`` ``[E]`` with the smallest Σ|y − xw − b|² / n + penalty · Σ (σ w)² + wᵀQw.

    σ is the standard deviation of a feature: the penalty is on features of unit variance, and the bias is
    free; so, but for ``FREE``, are the last ``free`` features. A feature that never changes has weight 0. Q, ``quiet``
    ``[F, F]``, is a covariance under which x @ weight is to vary little; none where it is None.
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
    if quiet is not None:
        matrix = matrix + quiet / torch.outer(scale, scale)
    weight = torch.cholesky_solve(mixed, torch.linalg.cholesky(matrix + penalties.diag())) / scale[:, None]
    return weight, mean_y - mean_x @ weight


def fit_ridge(train: Moments, val: Moments, free: int = 0) -> tuple[Tensor, Tensor]:
    """Weight and bias of ``ridge`` on ``train``, each target with the penalty of the smallest error on
    ``val``."""
    weight, _ = best_penalties(train, val, free)
    return weight, (train.y - weight.T @ train.x) / train.count


def best_penalties(train: Moments, val: Moments, free: int = 0) -> tuple[Tensor, Tensor]:
    """The weight ``[F, E]`` of ``fit_ridge``, and the errors on ``val`` of all ``PENALTIES`` ``[K, E]``."""
    fits = [ridge(train, penalty, free) for penalty in PENALTIES]
    errors = torch.stack([val.error(weight, bias) for weight, bias in fits])
    best = errors.argmin(dim=0).tolist()
    return torch.stack([fits[index][0][:, target] for target, index in enumerate(best)], dim=1), errors


def prompt_means(values: Tensor, prompt: Tensor) -> Tensor:
    """``[B, F]``: for every row the mean over the rows of its prompt ``[B]``."""
    _, place = torch.unique(prompt, return_inverse=True)
    sums = values.new_zeros(int(place.max()) + 1, values.shape[1]).index_add_(0, place, values)
    return (sums / torch.bincount(place)[:, None])[place]
