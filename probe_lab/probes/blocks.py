"""The blocks of the CNN encoder: an embedding of the step and a residual block that knows it.

They are those of ``diffusers`` (``TimestepEmbedding``, ``Timesteps``, ``ResnetBlock2D``, ``Downsample2D``) with the
settings that the encoder has: same names of parameters, same start from a seed, same results to the last bit, which a
test compares. Here they stay the same whatever ``diffusers`` does, and a probe is loaded without its import, which
takes seconds.
"""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F
from torch import Tensor, nn

LONGEST_PERIOD = 10_000
"""Of the sinusoids, as in Denoising Diffusion Probabilistic Models."""
EPSILON = 1e-6
"""Of the GroupNorms."""


class StepEmbedding(nn.Module):
    """Two linear layers with a SiLU between them: ``[B, features]`` to ``[B, channels]``."""

    def __init__(self, features: int, channels: int) -> None:
        super().__init__()
        self.linear_1 = nn.Linear(features, channels)
        self.linear_2 = nn.Linear(channels, channels)

    def forward(self, features: Tensor) -> Tensor:
        embedding: Tensor = self.linear_2(F.silu(self.linear_1(features)))
        return embedding


def sinusoids(position: Tensor, features: int) -> Tensor:
    """Cosines, then sines, of ``position`` ``[B]`` at ``features`` / 2 frequencies: float32 ``[B, features]``."""
    half = features // 2
    exponent = -math.log(LONGEST_PERIOD) * torch.arange(half, dtype=torch.float32, device=position.device) / half
    angle = position[:, None].float() * torch.exp(exponent)[None, :]
    return torch.cat([torch.cos(angle), torch.sin(angle)], dim=-1)


class Downsampling(nn.Module):
    """A convolution of stride 2: ``[B, C, H, W]`` to ``[B, C, ⌈H/2⌉, ⌈W/2⌉]``."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.conv = nn.Conv2d(channels, channels, 3, stride=2, padding=1)

    def forward(self, state: Tensor) -> Tensor:
        halved: Tensor = self.conv(state)
        return halved


class ResidualBlock(nn.Module):
    """Norm, SiLU, convolution, plus the condition, and the same again with dropout, beside a shortcut.

    ``[B, before, H, W]`` and the condition ``[B, condition]`` to ``[B, channels, H, W]``.
    """

    def __init__(self, before: int, channels: int, condition: int, dropout: float) -> None:
        super().__init__()
        self.norm1 = nn.GroupNorm(groups(before), before, eps=EPSILON)
        self.conv1 = nn.Conv2d(before, channels, 3, padding=1)
        self.time_emb_proj = nn.Linear(condition, channels)
        self.norm2 = nn.GroupNorm(groups(channels), channels, eps=EPSILON)
        self.dropout = nn.Dropout(dropout)
        self.conv2 = nn.Conv2d(channels, channels, 3, padding=1)
        self.conv_shortcut = nn.Conv2d(before, channels, 1) if before != channels else None

    def forward(self, state: Tensor, condition: Tensor) -> Tensor:
        hidden = self.conv1(F.silu(self.norm1(state)))
        hidden = hidden + self.time_emb_proj(F.silu(condition))[:, :, None, None]
        hidden = self.conv2(self.dropout(F.silu(self.norm2(hidden))))
        if self.conv_shortcut is None:
            return state + hidden
        # DDP wants gradients in the layout of the weights, and warns otherwise.
        shortcut: Tensor = self.conv_shortcut(state.contiguous() if self.training else state)
        return shortcut + hidden


def groups(channels: int) -> int:
    """Groups of a GroupNorm: 8, or fewer where 8 do not divide ``channels``."""
    return math.gcd(8, channels)
