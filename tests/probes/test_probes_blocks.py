"""The encoder's own blocks are those of diffusers: parameters, results and gradients, to the last bit."""

from __future__ import annotations

import pytest
import torch
from diffusers.models.embeddings import TimestepEmbedding, Timesteps
from diffusers.models.resnet import Downsample2D, ResnetBlock2D
from torch import Tensor, nn

from probe_lab.probes.blocks import Downsampling, ResidualBlock, StepEmbedding, groups, sinusoids


def seeded(make: type[nn.Module], *arguments: object, **settings: object) -> nn.Module:
    torch.manual_seed(3)
    module = make(*arguments, **settings)
    return module.to(memory_format=torch.channels_last)


def assert_same(ours: nn.Module, theirs: nn.Module, *inputs: Tensor) -> None:
    """Same names and starting values; then the same output and gradients of inputs and parameters."""
    assert list(ours.state_dict()) == list(theirs.state_dict())
    for name, values in theirs.state_dict().items():
        assert torch.equal(ours.state_dict()[name], values), name
    results = []
    for module in (ours, theirs):
        arguments = [values.clone().requires_grad_() for values in inputs]
        torch.manual_seed(4)  # of the dropout
        output = module(*arguments)
        output.square().sum().backward()
        gradients = [values.grad for values in (*arguments, *module.parameters())]
        results.append([output.detach(), *gradients])
    for mine, reference in zip(*results, strict=True):
        assert torch.equal(mine, reference)
        assert mine.stride() == reference.stride()


@pytest.mark.parametrize("training", [True, False])
@pytest.mark.parametrize(("before", "channels"), [(8, 16), (16, 16), (6, 12)])
def test_the_residual_block_is_that_of_diffusers(before: int, channels: int, training: bool) -> None:
    ours = seeded(ResidualBlock, before, channels, 10, 0.3).train(training)
    theirs = seeded(
        ResnetBlock2D,
        in_channels=before,
        out_channels=channels,
        temb_channels=10,
        groups=groups(before),
        groups_out=groups(channels),
        dropout=0.3,
    ).train(training)
    state = torch.randn(5, before, 6, 7).contiguous(memory_format=torch.channels_last)
    assert_same(ours, theirs, state, torch.randn(5, 10))


def test_halving_is_the_downsampling_of_diffusers() -> None:
    state = torch.randn(3, 8, 7, 4)
    assert_same(seeded(Downsampling, 8), seeded(Downsample2D, 8, use_conv=True, name="op"), state)


def test_the_embedding_of_the_step_is_that_of_diffusers() -> None:
    frequencies = Timesteps(64, flip_sin_to_cos=True, downscale_freq_shift=0)
    position = 1000 * torch.arange(1, 26).float() / 25
    assert torch.equal(sinusoids(position, 64), frequencies(position))
    assert_same(seeded(StepEmbedding, 64, 32), seeded(TimestepEmbedding, 64, 32), frequencies(position))
