"""Correlations within prompts and over all candidates.

Spearman, Kendall (tau-b) and Pearson are one formula, Σ a_ij b_ij / sqrt(Σ a_ij² Σ b_ij²) over pairs of
candidates (Daniels 1944), with a and b the differences of ranks, their signs, or the differences of values.
Constant predictions count as correlation 0, within a prompt and over all: they cannot rank, and breaking
their ties at random correlates by 0 on average. Leaving such prompts out, as scipy's nan would, rewards a
probe for giving up where it is uncertain. Constant targets, in contrast, leave nothing to predict: no probe
can be right or wrong there, so the value is undefined.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from typing import TypeVar

import numpy as np
import numpy.typing as npt

from probe_lab.metrics.bootstrap import PromptRatio, mean_over
from probe_lab.metrics.per_prompt import Bools, Floats, PromptTable, varies

Real = TypeVar("Real", np.float32, np.float64)

CHUNK = 60_000
"""Numbers in a temporary array of the global metrics of many samples (half a MB: a dozen stay in a core's cache, and
their memory is used again instead of being asked for anew, which takes twice the time of the arithmetic)."""


def srcc_within(table: PromptTable) -> PromptRatio:
    """Mean over prompts of Spearman's rank correlation, ties with average ranks."""
    # The sum of a row of signs is twice the average rank, centred.
    ranks = (signs.sum(axis=2, dtype=np.float64) for signs in (table.prediction_signs, table.target_signs))
    return mean_over(_cosine(*ranks), table.tied, "signed")


def ktc_within(table: PromptTable) -> PromptRatio:
    """Mean over prompts of Kendall's tau-b."""
    signs = (s.reshape(len(s), -1).astype(np.float64) for s in (table.prediction_signs, table.target_signs))
    return mean_over(_cosine(*signs), table.tied, "signed")


def pcc_within(table: PromptTable) -> PromptRatio:
    """Mean over prompts of Pearson's correlation."""
    prediction = _centred(table.prediction, table, varies(table.prediction_signs))
    return mean_over(_cosine(prediction, _centred(table.target, table, ~table.tied)), table.tied, "signed")


def _centred(values: Floats, table: PromptTable, spread: Bools) -> Floats:
    """Values minus the mean of their prompt; exact zeros where that difference would be rounding only."""
    mean = values.sum(axis=1) / table.size
    centred = np.where(table.present & spread[:, None], values - mean[:, None], 0.0)
    largest = np.abs(centred).max(axis=1, keepdims=True)
    return centred / np.where(largest > 0, largest, 1.0)  # keeps squares away from underflow


def _cosine(first: Floats, second: Floats) -> Floats:
    """``[P]``: cosine of the rows of two ``[P, K]`` arrays, 0 where one of them is all zeros."""
    norm = np.sqrt((first**2).sum(axis=1) * (second**2).sum(axis=1))
    cosine: Floats = (first * second).sum(axis=1) / np.where(norm > 0, norm, 1.0)
    return cosine.clip(-1.0, 1.0)  # rounding


@dataclass(frozen=True)
class Levels:
    """The distinct values of ``[n]`` numbers, to rank them in many weighted samples without sorting again."""

    order: npt.NDArray[np.int64]  # [n] candidates by value
    first: npt.NDArray[np.int64]  # [V] where in that order each distinct value begins
    level: npt.NDArray[np.int64]  # [n] which distinct value a candidate has

    @staticmethod
    def of(values: Floats) -> Levels:
        """Levels of a flat array."""
        _, level, count = np.unique(values, return_inverse=True, return_counts=True)
        return Levels(np.argsort(level, kind="stable"), np.cumsum(count) - count, level)

    def mass(self, weight: npt.NDArray[Real]) -> npt.NDArray[Real]:
        """``[R, V]``: the total of the weights ``[R, n]`` at each distinct value."""
        ordered = weight[:, self.order]
        return ordered if len(self.first) == len(self.order) else np.add.reduceat(ordered, self.first, axis=1)


@dataclass(frozen=True)
class Pooled:
    """Metrics over all candidates at once, prompts being drawn any number of times.

    All are exact for every sample, as if its candidates had been copied out as often as their prompt was
    drawn and ranked anew. With n candidates and R samples of P prompts: ranks come from running sums of
    weights along one sort, O(R n); Kendall's sum over pairs of candidates is first reduced to ``[P, P]`` by
    prompts, O(n²) once, and is then a quadratic form, O(R P²). Memory stays near a few times :data:`CHUNK`
    numbers, whatever R.
    """

    table: PromptTable
    threshold: float

    def statistics(self, draws: Floats) -> dict[str, Floats]:
        """srcc, ktc, pcc and auc, each ``[R]``, of the samples ``draws [R, P]``."""
        rows = max(1, CHUNK // self.prediction.size)
        parts = [self._statistics(draws[start : start + rows]) for start in range(0, len(draws), rows)]
        return {name: np.concatenate([part[name] for part in parts]) for name in parts[0]}

    @cached_property
    def prediction(self) -> Floats:
        """``[n]``, candidates of a prompt adjacent."""
        return self.table.prediction[self.table.present]

    @cached_property
    def target(self) -> Floats:
        """``[n]``, in the same order."""
        return self.table.target[self.table.present]

    @cached_property
    def levels(self) -> tuple[Levels, Levels]:
        """Levels of predictions and of targets."""
        return Levels.of(self.prediction), Levels.of(self.target)

    @cached_property
    def moments(self) -> Floats:
        """``[P, 6]``: per prompt the sums of 1, x, y, x², y² and xy, of centred and scaled values."""
        x, y = _scaled(self.prediction), _scaled(self.target)
        columns = np.stack([np.ones_like(x), x, y, x * x, y * y, x * y], axis=1)
        return np.add.reduceat(columns, np.cumsum(self.table.size) - self.table.size, axis=0)

    @cached_property
    def concordance(self) -> Floats:
        """``[P, P]``: concordant minus discordant pairs of one candidate of each of two prompts."""
        x, y = (levels.level.astype(np.int32) for levels in self.levels)
        ends = np.cumsum(self.table.size)
        starts = ends - self.table.size
        rows = np.empty((len(ends), x.size))
        for prompt, (start, end) in enumerate(zip(starts, ends, strict=True)):
            agree = np.sign(x[start:end, None] - x) * np.sign(y[start:end, None] - y)
            rows[prompt] = agree.sum(axis=0)
        return np.add.reduceat(rows, starts, axis=1)

    def _statistics(self, draws: Floats) -> dict[str, Floats]:
        by_prediction, by_target = self.levels
        weight = np.repeat(draws, self.table.size, axis=1)
        total = weight.sum(axis=1)
        mass_x, mass_y = by_prediction.mass(weight), by_target.mass(weight)
        # Ordered pairs that do not tie: integers, so 0 says "constant in this sample" without a tolerance.
        pairs_x, pairs_y = (total**2 - (mass**2).sum(axis=1) for mass in (mass_x, mass_y))
        ranks_x, ranks_y = _ranks(mass_x), _ranks(mass_y)
        rank_of_x = ranks_x[:, by_prediction.level]
        rank_of_y = ranks_y[:, by_target.level]
        positive = weight * (self.target > self.threshold)
        positives = positive.sum(axis=1)
        n, x, y, xx, yy, xy = (draws @ self.moments).T
        with np.errstate(invalid="ignore", divide="ignore"):
            statistics = {
                "srcc": np.einsum("rn,rn,rn->r", weight, rank_of_x, rank_of_y)
                / np.sqrt((mass_x * ranks_x**2).sum(axis=1) * (mass_y * ranks_y**2).sum(axis=1)),
                "ktc": np.einsum("rp,rp->r", draws @ self.concordance, draws) / np.sqrt(pairs_x * pairs_y),
                "pcc": (n * xy - x * y) / np.sqrt((n * xx - x * x) * (n * yy - y * y)),
            }
            for name, value in statistics.items():
                value = np.where(pairs_x == 0, 0.0, np.clip(value, -1.0, 1.0))
                statistics[name] = np.where(pairs_y == 0, np.nan, value)
            # A centred rank is half of (candidates below − above). In the sum over positives, comparisons
            # of two positives cancel; what is left compares them with the negatives.
            above = np.einsum("rn,rn->r", positive, rank_of_x)
            statistics["auc"] = 0.5 + above / (positives * (total - positives))
        return statistics


def _ranks(mass: Floats) -> Floats:
    """``[R, V]``: average rank of each distinct value, minus the mean rank of the sample."""
    ranks: Floats = np.cumsum(mass, axis=1) - 0.5 * mass - 0.5 * mass.sum(axis=1, keepdims=True)
    return ranks


def _scaled(values: Floats) -> Floats:
    """``[n]``: values minus their mean, in −1 … 1: their moments neither cancel nor overflow."""
    centred = values - values.mean()
    largest = float(np.abs(centred).max())
    scaled: Floats = centred / (largest or 1.0)
    return scaled
