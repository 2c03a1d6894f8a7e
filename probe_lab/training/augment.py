"""Training data that costs nothing: the same picture a little to the side has the same score."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import torch
import torch.nn.functional as F
from torch import Tensor

from probe_lab.probes.inputs import Inputs


def random_shift() -> Tensor:
    """Cells down and right, each −1, 0 or 1; int64 [2] on the CPU."""
    return torch.randint(-1, 2, (2,))


def randomly_shifted(inputs: Inputs, grid: tuple[int, int], draw: Callable[[], Tensor] = random_shift) -> Inputs:
    """All taps moved together by as many cells of ``grid`` as ``draw`` says, one draw for the whole batch.

    Never mirrored: "left of" would no longer be true.
    """
    down, right = draw().tolist()
    return shifted(inputs, grid, down, right)


def shifted(inputs: Inputs, grid: tuple[int, int], down: int, right: int) -> Inputs:
    """All taps moved by whole cells of ``grid``, as near as their own resolution allows; edges are
    repeated."""

    def move(values: Tensor) -> Tensor:
        height, width = values.shape[2:]
        y, x = round(down * height / grid[0]), round(right * width / grid[1])
        margin = (max(x, 0), max(-x, 0), max(y, 0), max(-y, 0))
        padded = F.pad(values, margin, mode="replicate")
        return padded[:, :, margin[3] : margin[3] + height, margin[1] : margin[1] + width]

    return replace(inputs, features={tap: move(values) for tap, values in inputs.features.items()})
