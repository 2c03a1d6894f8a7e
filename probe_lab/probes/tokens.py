"""How a probe reads the prompt: attention maps token by token, and the image asking the tokens."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

FLOOR = 1e-4
"""Added to attention before the logarithm; near the smallest normal float16."""


class TokenMaps(nn.Module):
    """Which token was put where, and what became of each token; equivariant to the order of tokens.

    Every token's maps (one channel per attention tap) pass through the same small convolution, meet the
    token's text, and look at each other once (self-attention over tokens). Two results, both independent of
    token order and of padding: ``pooled`` ``[B, 2·width]``, mean and maximum over real tokens; and
    ``painted`` ``[B, width, H, W]``, the tokens laid out over the image by their attention.

    Maps enter as logarithms, so that the large constant share of the start token hides nothing, each centred
    over space; the mean goes in as a number.
    """

    def __init__(self, maps: int, grid: tuple[int, int], token_dim: int, width: int, channels: int = 16) -> None:
        super().__init__()
        self.grid = grid
        self.width = width
        self.coarse = nn.Conv2d(maps, channels, 3, stride=2, padding=1)
        self.place = nn.Linear(channels * ((grid[0] + 1) // 2) * ((grid[1] + 1) // 2), width)
        self.amount = nn.Linear(maps, width)
        self.text = nn.Sequential(nn.LayerNorm(token_dim), nn.Linear(token_dim, width)) if token_dim else None
        self.norm = nn.LayerNorm(width)
        self.look = nn.Linear(width, 3 * width)
        self.tell = nn.Linear(width, width)
        self.paint = nn.Linear(width, width)
        self.sharpness = nn.Parameter(torch.ones(maps))

    def project(self, tokens: Tensor) -> Tensor:
        """``[P, L, D]`` to ``[P, L, width]``: once per prompt, not once per sample."""
        assert self.text is not None
        projected: Tensor = self.text(tokens)
        return projected

    def forward(self, maps: Tensor, text: Tensor | None, mask: Tensor) -> tuple[Tensor, Tensor]:
        """``maps`` ``[B, L, T, H, W]`` attention ≥ 0 of T taps, ``text`` ``[B, L, width]``, ``mask`` ``[B,
        L]`` bool."""
        batch, length = mask.shape
        logs = torch.log(maps.float().clamp_min(0) + FLOOR)
        amount = logs.mean(dim=(3, 4))
        centred = logs - amount[..., None, None]

        state = self.place(
            F.silu(self.coarse(centred.flatten(0, 1).contiguous(memory_format=torch.channels_last))).flatten(1)
        ).view(batch, length, self.width)
        state = state + self.amount(amount / 4 + 1)  # log attention is around -4: to zero mean and unit size
        if text is not None:
            state = state + text
        query, key, value = self.look(self.norm(state)).chunk(3, dim=-1)
        state = F.silu(state + self.tell(attend(query, key, value, mask[:, None, :])))

        share = torch.einsum("blthw,t->blhw", centred, self.sharpness).flatten(2)
        share = share.masked_fill(~mask[:, :, None], -torch.inf).softmax(dim=1)
        painted = self.paint(state).transpose(1, 2) @ share
        return _pool(state, mask), painted.view(batch, self.width, *self.grid)


class TokenCrossAttention(nn.Module):
    """Every position of the image asks every token of the prompt: a residual cross-attention, zero at the
    start."""

    def __init__(self, channels: int, token_dim: int, heads: int) -> None:
        super().__init__()
        self.heads = heads
        self.norm = nn.GroupNorm(heads, channels)
        self.query = nn.Linear(channels, channels)
        self.text = nn.Sequential(nn.LayerNorm(token_dim), nn.Linear(token_dim, 2 * channels))
        self.out = nn.Linear(channels, channels)
        nn.init.zeros_(self.out.weight)
        nn.init.zeros_(self.out.bias)

    def project(self, tokens: Tensor) -> Tensor:
        """``[P, L, D]`` to keys and values ``[P, L, 2·channels]``: once per prompt, not once per sample."""
        projected: Tensor = self.text(tokens)
        return projected

    def forward(self, state: Tensor, text: Tensor, mask: Tensor) -> Tensor:
        """``state`` ``[B, C, H, W]``, ``text`` ``[B, L, 2C]``, ``mask`` ``[B, L]`` bool; the shape of
        ``state``."""
        query = self.query(self.norm(state).flatten(2).transpose(1, 2))
        key, value = text.chunk(2, dim=-1)
        found = attend(self._split(query), self._split(key), self._split(value), mask[:, None, None, :])
        answer: Tensor = self.out(found.transpose(1, 2).flatten(2))
        return state + answer.transpose(1, 2).reshape(state.shape)

    def _split(self, states: Tensor) -> Tensor:
        """``[B, N, C]`` to ``[B, heads, N, C/heads]``."""
        return states.unflatten(2, (self.heads, -1)).transpose(1, 2)


def attend(query: Tensor, key: Tensor, value: Tensor, mask: Tensor) -> Tensor:
    """Attention over few keys; at these sizes half the time of ``F.scaled_dot_product_attention`` on a CPU.

    ``mask`` is bool and broadcasts to ``[…, queries, keys]``; every query has a key that is not masked.
    """
    weights = (query * query.shape[-1] ** -0.5) @ key.transpose(-2, -1)
    return weights.masked_fill(~mask, -torch.inf).softmax(dim=-1) @ value


def _pool(state: Tensor, mask: Tensor) -> Tensor:
    """``[B, L, C]`` to ``[B, 2C]``: mean and maximum over the tokens that ``mask`` keeps."""
    real = mask[:, :, None]
    mean = (state * real).sum(dim=1) / real.sum(dim=1)
    return torch.cat([mean, state.masked_fill(~real, -torch.inf).amax(dim=1)], dim=1)
