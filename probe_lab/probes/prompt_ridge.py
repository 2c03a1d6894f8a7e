"""The ridge regression of the closed-form baselines: tuned, as every probe is, for ranking the samples of a prompt."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from probe_lab.metrics import within_prompt_estimate
from probe_lab.probes.ridge import PENALTIES, Moments, best_penalties, prompt_means, ridge

Rows = Iterable[tuple[Tensor, Tensor, Tensor]]
"""Batches of whole prompts: x [B, F], standardised y [B, E], prompt [B]."""
BETWEEN = tuple(10.0**power for power in range(-3, 4))
QUIET = (1e2, 1e3, 1e4)
"""Tried on the validation split: how much the weights that tell prompts apart are penalised for what they change within
prompts."""
CONSTANT = 1e-12
"""Variance of standardised targets within prompts below which they are all the same, but for rounding."""
STILL_RISING = 1e-3
"""A penalty at an end of the grid is noticed where it validates better than its neighbour by more than this."""


@dataclass(frozen=True)
class Penalties:
    """What validation chose for one evaluator.

    ``within``: for ranking the samples of a prompt. ``between``: for telling prompts apart, None where weights beyond
    those of ``within`` do not help. Where no prompt can be ranked there is one penalty for both. ``edge``: ``within``
    is at an end of the grid and validates clearly better than the one before it.
    """

    within: float
    between: float | None
    edge: bool


@dataclass(frozen=True)
class PromptMoments:
    """Moments of what samples differ by from the mean of their prompt, and of these means, one row per sample."""

    within: Moments
    between: Moments

    @classmethod
    def of(cls, rows: Rows, features: int, targets: int) -> PromptMoments:
        moments = cls(Moments(features, targets), Moments(features, targets))
        for x, y, prompt in rows:
            x, y, prompt = x.double().cpu(), y.double().cpu(), prompt.cpu()
            mean_x, mean_y = prompt_means(x, prompt), prompt_means(y, prompt)
            moments.within.add(x - mean_x, y - mean_y)
            moments.between.add(mean_x, mean_y)
        return moments

    @property
    def together(self) -> Moments:
        """Of the samples themselves."""
        whole = Moments(len(self.between.x), len(self.between.y))
        whole.count, whole.x, whole.y = self.between.count, self.between.x, self.between.y
        whole.xx, whole.xy = self.within.xx + self.between.xx, self.within.xy + self.between.xy
        whole.yy = self.within.yy + self.between.yy
        return whole


def fit_prompt_ridge(
    train: Callable[[], Rows], val: Callable[[], Rows], features: int, targets: int, free: int = 0
) -> tuple[Tensor, Tensor, list[Penalties]]:
    """``weight`` ``[F, E]``, ``bias`` ``[E]``, and the penalties of each evaluator.

    The weight is a sum w + v. w is the ridge regression of y on x, both minus the means of their prompts, with the
    penalty that ranks the samples of validation prompts best (SRCC within prompts), times the slope that fits the
    validation targets. v is the ridge regression of the prompts' means of y − xw on those of x, with ``QUIET`` as a
    further penalty on the variance of xv within prompts; of all its penalties, and v = 0, that with the smallest
    validation error among those that rank validation prompts no worse than w alone. So the samples of a prompt are
    ranked as well as a ridge regression can, and prompts are told apart as far as that costs nothing.

    An evaluator with nothing to rank within training or validation prompts has the regression on all samples with the
    penalty of the smallest validation error. ``free`` as in ``ridge``. Rows are streamed: what is kept are moments, and
    predictions for the validation samples.
    """
    moments = PromptMoments.of(train(), features, targets)
    first = torch.stack([ridge(moments.within, penalty, free)[0] for penalty in PENALTIES])
    ranked = _Validated.of(val(), first)
    ranks = ranked.srcc()
    rankable = np.isfinite(ranks).all(axis=0) & (moments.within.yy > CONSTANT * moments.within.count).numpy()
    place = np.where(rankable, np.nan_to_num(ranks), 0.0).argmax(axis=0)
    within = _each(first, place) * ranked.slope(place)
    between, chosen = _between(moments, within, val, free)
    weight = within + between
    told = [Penalties(PENALTIES[k], chosen[e], _at_edge(ranks[:, e])) for e, k in enumerate(place)]
    if not rankable.all():
        pooled, whole = _pooled(moments.together, val, free)
        weight = torch.where(torch.from_numpy(rankable), weight, pooled)
        told = [one if ranks_here else other for one, other, ranks_here in zip(told, whole, rankable, strict=True)]
    bias = (moments.between.y - weight.T @ moments.between.x) / moments.between.count
    return weight, bias, told


def fit_pooled_ridge(
    train: Callable[[], Rows], val: Callable[[], Rows], features: int, targets: int, free: int = 0
) -> tuple[Tensor, Tensor, list[Penalties]]:
    """As ``fit_prompt_ridge``, but of all samples alike, each evaluator with the penalty of the smallest validation
    error."""
    moments = _moments(train(), features, targets)
    weight, told = _pooled(moments, val, free)
    return weight, (moments.y - weight.T @ moments.x) / moments.count, told


def _pooled(moments: Moments, val: Callable[[], Rows], free: int) -> tuple[Tensor, list[Penalties]]:
    weight, errors = best_penalties(moments, _moments(val(), *moments.xy.shape), free)
    lowest = [PENALTIES[int(place)] for place in errors.argmin(dim=0)]
    edges = [_at_edge(-column.numpy()) for column in errors.T]
    return weight, [Penalties(penalty, penalty, edge) for penalty, edge in zip(lowest, edges, strict=True)]


def _between(
    moments: PromptMoments, within: Tensor, val: Callable[[], Rows], free: int
) -> tuple[Tensor, list[float | None]]:
    """v ``[F, E]`` of ``fit_prompt_ridge`` beside w, and its penalties."""
    left, varies = moments.between.residual(within), moments.within.xx / moments.within.count
    grid = [(penalty, share) for penalty in BETWEEN for share in QUIET]
    tried = [ridge(left, penalty, free, quiet=share * varies)[0] for penalty, share in grid]
    second = torch.stack([torch.zeros_like(within), *tried])
    validated = _Validated.of(val(), within + second)
    ranks = np.nan_to_num(validated.srcc())
    place = np.where(ranks >= ranks[0], validated.variance_left(), np.inf).argmin(axis=0)
    return _each(second, place), [grid[k - 1][0] if k else None for k in place]


@dataclass(frozen=True)
class _Validated:
    """What K weights predict of validation samples: ``predicted`` [K, n, E] of ``target`` [n, E]; ``prompt`` [n]."""

    predicted: Tensor
    target: Tensor
    prompt: Tensor

    @classmethod
    def of(cls, rows: Rows, weights: Tensor) -> _Validated:
        """Of weights ``[K, F, E]``."""
        parts = [(x.double().cpu() @ weights, y.double().cpu(), prompt.cpu()) for x, y, prompt in rows]
        predicted, target, prompt = zip(*parts, strict=True)
        return cls(torch.cat(predicted, dim=1), torch.cat(target), torch.cat(prompt))

    def srcc(self) -> npt.NDArray[np.float64]:
        """``[K, E]``: mean over prompts of Spearman's rank correlation; nan where every prompt ties in target."""
        target, prompt = self.target.numpy(), self.prompt.numpy()
        return np.array(
            [
                [
                    within_prompt_estimate(column, target[:, e], prompt, "srcc_within")
                    for e, column in enumerate(predicted.T.numpy())
                ]
                for predicted in self.predicted
            ]
        )

    def variance_left(self) -> npt.NDArray[np.float64]:
        """``[K, E]``: mean squared error with the best bias."""
        return (self.target - self.predicted).var(dim=1, correction=0).numpy()

    def slope(self, place: npt.NDArray[np.int64]) -> Tensor:
        """``[E]``: least-squares slope, within prompts, of the targets over what the ``place`` [E] weights predict; 1
        where it would not be positive."""
        predicted = torch.stack([self.predicted[k, :, e] for e, k in enumerate(place)], dim=1)
        x = predicted - prompt_means(predicted, self.prompt)
        y = self.target - prompt_means(self.target, self.prompt)
        variance = x.square().sum(dim=0)
        slope = (x * y).sum(dim=0) / variance.clamp_min(torch.finfo(torch.float64).tiny)
        return torch.where((variance > 0) & (slope > 0), slope, 1.0)


def _each(weights: Tensor, place: npt.NDArray[np.int64]) -> Tensor:
    """Of ``weights`` [K, F, E] the ``place`` [E] ones, [F, E]."""
    return torch.stack([weights[k, :, e] for e, k in enumerate(place)], dim=1)


def _moments(rows: Rows, features: int, targets: int) -> Moments:
    return Moments.of(((x, y) for x, y, _ in rows), features, targets)


def _at_edge(values: npt.NDArray[np.float64]) -> bool:
    """Whether the largest of ``values`` [K] is at an end and its neighbour is clearly smaller."""
    place = int(values.argmax())
    neighbour = {0: 1, len(values) - 1: len(values) - 2}.get(place)
    return neighbour is not None and bool(values[place] - values[neighbour] > STILL_RISING)
