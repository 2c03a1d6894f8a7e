"""Predictions as numbers."""

from __future__ import annotations

from torch import Tensor


def mse(prediction: Tensor, target: Tensor) -> Tensor:
    """Mean squared error, (1/B) Σ_i (ŷ_i − y_i)²: the objective of Diffusion Probe."""
    return (prediction - target).square().mean()
