"""Shifts move every tap by the same part of the picture."""

from __future__ import annotations

import pytest
import torch

from probe_lab.probes import Inputs
from probe_lab.training.augment import randomly_shifted, shifted


def inputs_of(**taps: torch.Tensor) -> Inputs:
    return Inputs(taps, torch.ones(1, dtype=torch.int64))


@pytest.mark.parametrize(("down", "right"), [(1, 0), (-1, 1), (0, -1), (0, 0)])
def test_taps_of_all_resolutions_move_together(down: int, right: int) -> None:
    coarse = torch.rand(1, 2, 8, 8)
    fine = coarse.repeat_interleave(2, dim=2).repeat_interleave(2, dim=3)
    moved = shifted(inputs_of(coarse=coarse, fine=fine), (8, 8), down, right).features
    for y in range(8):
        for x in range(8):
            source = coarse[:, :, min(max(y - down, 0), 7), min(max(x - right, 0), 7)]
            assert torch.equal(moved["coarse"][:, :, y, x], source)
            assert torch.equal(moved["fine"][:, :, 2 * y + 1, 2 * x], source)


def test_random_shifts_take_all_nine_values() -> None:
    torch.manual_seed(0)
    values = torch.arange(16.0).view(1, 1, 4, 4)
    centres = {randomly_shifted(inputs_of(a=values), (4, 4)).features["a"][0, 0, 1, 1].item() for _ in range(200)}
    assert centres == {float(4 * y + x) for y in range(3) for x in range(3)}
