"""Weights as views of two long tensors."""

from __future__ import annotations

import copy

import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import nn

from probe_lab.training.flat_weights import FlatWeights


def network(seed: int) -> nn.Sequential:
    torch.manual_seed(seed)
    convolution = nn.Conv2d(3, 4, 3).to(memory_format=torch.channels_last)
    return nn.Sequential(convolution, nn.GroupNorm(2, 4), nn.SiLU(), nn.Flatten(), nn.Linear(4 * 36, 2))


@given(seed=st.integers(0, 100), decay=st.floats(0, 0.5), clip=st.sampled_from([0.1, 10.0]))
def test_training_on_the_views_is_training_the_weights(seed: int, decay: float, clip: float) -> None:
    plain = network(seed)
    joined = copy.deepcopy(plain)
    weights = FlatWeights(joined)
    groups = [[p for p in plain.parameters() if (p.ndim > 1) == many] for many in (True, False)]
    decays = (decay, 0.0)
    ours = torch.optim.AdamW([{"params": [p], "weight_decay": d} for p, d in zip(weights.parts, decays, strict=True)])
    theirs = torch.optim.AdamW([{"params": g, "weight_decay": d} for g, d in zip(groups, decays, strict=True)])
    for _ in range(3):
        values = torch.randn(5, 3, 8, 8)
        joined[0].weight.grad = None  # a trainer may do that
        weights.zero_grad()
        theirs.zero_grad()
        for model in (plain, joined):
            model(values).square().sum().backward()
        nn.utils.clip_grad_norm_(plain.parameters(), clip)
        nn.utils.clip_grad_norm_(weights.parts, clip)
        ours.step()
        theirs.step()
    for one, other in zip(plain.parameters(), joined.parameters(), strict=True):
        torch.testing.assert_close(one, other, rtol=1e-4, atol=1e-5)
        assert one.stride() == other.stride()


def test_moving_half_the_way_is_the_mean() -> None:
    first, second = network(1), network(2)
    expected = [(p + q).detach() / 2 for p, q in zip(first.parameters(), second.parameters(), strict=True)]
    FlatWeights(first).lerp_(FlatWeights(second), 0.5)
    for one, mean in zip(first.parameters(), expected, strict=True):
        torch.testing.assert_close(one.detach(), mean)
