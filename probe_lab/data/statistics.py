"""Means and spreads of the training split, with which features and targets are standardised."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from probe_lab.data.batch import Batch


@dataclass(frozen=True, eq=False)
class Statistics:
    """Of what is trained on, float32. Features: tap -> [C], over samples and places; targets: [E]; the median is that
    of the whole training split.

    Standard deviations are of the population (divided by n). A channel or target that never changes (the
    attention map of a padding token) has 1, so that dividing by it is safe.
    """

    feature_mean: dict[str, Tensor]
    feature_std: dict[str, Tensor]
    target_mean: Tensor
    target_std: Tensor
    target_median: Tensor


def compute_statistics(
    batches: Iterable[Batch],
    taps: Sequence[str],
    targets: npt.NDArray[np.float32],
    whole: npt.NDArray[np.float32],
) -> Statistics:
    """One pass in float64 over batches with every training sample once, and their scores [S, E]; ``whole`` are those of
    the whole training split."""
    count = dict.fromkeys(taps, 0)
    mean: dict[str, Tensor] = {}
    squares: dict[str, Tensor] = {}  # sums of squared distances from the mean
    for batch in batches:
        for tap in taps:
            array = batch.features[tap].double()
            variance, average = (t.cpu() for t in torch.var_mean(array, dim=(0, 2, 3), correction=0))
            size = array.numel() // array.shape[1]
            if tap not in mean:
                mean[tap], squares[tap] = torch.zeros_like(average), torch.zeros_like(average)
            # Merging two sets (Chan et al. 1979): no difference of large sums, as E[x²] - E[x]² would have.
            total = count[tap] + size
            shift = average - mean[tap]
            squares[tap] += variance * size + shift.square() * (count[tap] * size / total)
            mean[tap] += shift * (size / total)
            count[tap] = total
    scores = targets.astype(np.float64)
    return Statistics(
        feature_mean={tap: mean[tap].float() for tap in taps},
        feature_std={tap: _safe((squares[tap] / count[tap]).sqrt().float()) for tap in taps},
        target_mean=torch.from_numpy(scores.mean(axis=0)).float(),
        target_std=_safe(torch.from_numpy(scores.std(axis=0)).float()),
        target_median=torch.from_numpy(np.median(whole.astype(np.float64), axis=0)).float(),
    )


def _safe(std: Tensor) -> Tensor:
    return torch.where(std > 0, std, torch.ones_like(std))
