"""The convolutional encoder: taps of one step, and the prompt, to one embedding u."""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from probe_lab.probes.blocks import Downsampling, ResidualBlock, StepEmbedding, groups, sinusoids
from probe_lab.probes.inputs import Inputs, Standardise, pooled
from probe_lab.probes.spec import ProbeSpec, TensorShape
from probe_lab.probes.tokens import TokenCrossAttention, TokenMaps

GRID_LIMIT = 12
"""The common grid is the largest tap halved until no side is longer: most of the work happens on 8×8 and
below."""
FREQUENCIES = 64
LAYOUT = torch.channels_last
"""Of the convolutions: 1×1 ones take a quarter of the time on a CPU."""


class CNNEncoder(nn.Module):
    """Stem → residual blocks that know the step (and the prompt) → norm, SiLU, pool, conv → u ``[B, embedding]``.

    The stem is one convolution over the concatenation of all taps on a common grid, written as a sum over
    taps: a tap twice as fine as the grid is read with stride 2 and loses nothing, finer ones are first
    averaged down to that. Level 0 has half the width at grid size; every further level halves the grid.
    GroupNorm throughout: a batch holds few prompts. Two shorter ways lead to u beside the convolutions: a
    linear one from mean, standard deviation and maximum of every channel, which learns from few prompts what
    takes the convolutions many, and the token path.
    """

    def __init__(self, spec: ProbeSpec) -> None:
        super().__init__()
        self.spec = spec
        self.grid = common_grid(list(spec.taps.values()))
        widths = [max(1, spec.width // 2)] + [spec.width] * (spec.depth - 1)
        condition = 2 * spec.width

        self.standardise = nn.ModuleList([Standardise(shape[0]) for shape in spec.taps.values()])
        self.stems = nn.ModuleList([_stem(shape, self.grid, widths[0]) for shape in spec.taps.values()])
        self.summary = nn.Sequential(
            nn.Dropout(spec.dropout),
            nn.Linear(3 * sum(shape[0] for shape in spec.taps.values()), spec.embedding),
        )
        self.coordinates = nn.Conv2d(2, widths[0], 1)
        self.step = StepEmbedding(FREQUENCIES, condition)
        self.text: nn.Module | None = None
        if spec.text != "none":
            self.text = nn.Sequential(nn.LayerNorm(spec.text_dim), nn.Linear(spec.text_dim, condition))
        self.token_maps: TokenMaps | None = None
        if spec.attention_taps:
            token_dim = spec.token_dim if spec.encoder_reads_tokens else 0
            self.token_maps = TokenMaps(len(spec.attention_taps), self.grid, token_dim, widths[0])
            self.from_tokens = nn.Linear(2 * widths[0], spec.embedding)

        sides = [self.grid]
        for _ in widths[1:]:
            sides.append(_halved(sides[-1]) if min(sides[-1]) > 2 else sides[-1])
        self.levels = nn.ModuleList(
            _Level(widths[max(i - 1, 0)], width, condition, spec.dropout, shrink=sides[i] != sides[max(i - 1, 0)])
            for i, width in enumerate(widths)
        )
        self.ask: TokenCrossAttention | None = None
        if spec.encoder_reads_tokens:
            self.ask = TokenCrossAttention(widths[-1], spec.token_dim, heads=math.gcd(4, widths[-1]))
        self.norm = nn.GroupNorm(groups(widths[-1]), widths[-1])
        self.out = nn.Conv2d(widths[-1], spec.embedding, 2)
        self.to(memory_format=LAYOUT)

    def forward(self, inputs: Inputs) -> Tensor:
        """``[B, embedding]`` float32."""
        taps = self.spec.attention_taps
        tokens = inputs.tokens if self.spec.encoder_reads_tokens else None
        layers = zip(self.standardise, self.spec.taps, strict=True)
        values = [layer(inputs.features[tap]) for layer, tap in layers]
        embedding = self.summary(torch.cat([pooled(value) for value in values], dim=1))
        state, condition = self._stem(values), self._condition(inputs)
        if self.token_maps is not None or self.ask is not None:
            mask = inputs.mask(taps)
            # Padding comes last, and what is padding in the whole batch costs nothing: 20 words of 77 places.
            length = int(mask.any(dim=0).nonzero().max()) + 1
            mask = mask[:, :length]
            tokens = None if tokens is None else tokens[:, :length].float()
        if self.token_maps is not None:
            maps = [resized(inputs.features[tap][:, :length].float(), self.grid) for tap in taps]
            text = None if tokens is None else inputs.spread(self.token_maps.project(tokens))
            seen, painted = self.token_maps(torch.stack(maps, dim=2), text, mask)
            embedding = embedding + self.from_tokens(seen)
            state = state + painted
        for level in self.levels:
            state = level(state, condition)
        if self.ask is not None and tokens is not None:
            state = self.ask(state, inputs.spread(self.ask.project(tokens)), mask)
        found: Tensor = self.out(F.adaptive_avg_pool2d(F.silu(self.norm(state)), 2)).flatten(1)
        return embedding + found

    def _stem(self, values: list[Tensor]) -> Tensor:
        """``[B, C, H, W]``: the standardised taps on the common grid, and where they are in it."""
        state: Tensor = self.coordinates(_coordinates(self.grid, values[0].device))
        for stem, value in zip(self.stems, values, strict=True):
            state = state + stem(_toward(value, self.grid).contiguous(memory_format=LAYOUT))
        return state

    def _condition(self, inputs: Inputs) -> Tensor:
        """``[B, condition]``: the step as a share of all steps, and the prompt as a whole."""
        condition: Tensor = self.step(sinusoids(1000 * inputs.step.float() / self.spec.total_steps, FREQUENCIES))
        if self.text is None:
            return condition
        assert inputs.text is not None
        return condition + inputs.spread(self.text(inputs.text.float()))


class _Level(nn.Module):
    """Downsampling (not at the first level) and a residual block."""

    def __init__(self, before: int, width: int, condition: int, dropout: float, *, shrink: bool) -> None:
        super().__init__()
        self.down = Downsampling(before) if shrink else nn.Identity()
        self.block = ResidualBlock(before, width, condition, dropout)

    def forward(self, state: Tensor, condition: Tensor) -> Tensor:
        shrunk: Tensor = self.block(self.down(state), condition)
        return shrunk


def common_grid(shapes: list[TensorShape]) -> tuple[int, int]:
    """The (H, W) on which taps meet: the largest of them, halved until no side exceeds ``GRID_LIMIT``."""
    grid = max(((height, width) for _, height, width in shapes), key=lambda side: side[0] * side[1])
    while max(grid) > GRID_LIMIT:
        grid = _halved(grid)
    return grid


def _halved(grid: tuple[int, int]) -> tuple[int, int]:
    return (grid[0] + 1) // 2, (grid[1] + 1) // 2


def _finer(shape: tuple[int, ...], grid: tuple[int, int]) -> bool:
    return shape[-2] >= 2 * grid[0] and shape[-1] >= 2 * grid[1]


def _stem(shape: TensorShape, grid: tuple[int, int], width: int) -> nn.Module:
    if _finer(shape, grid):
        return nn.Conv2d(shape[0], width, 4, stride=2, padding=1)
    return nn.Conv2d(shape[0], width, 1)


def _toward(values: Tensor, grid: tuple[int, int]) -> Tensor:
    """Resize ``[B, C, H, W]`` to the grid, or to twice the grid where it is finer."""
    factor = 2 if _finer(tuple(values.shape), grid) else 1
    return resized(values, (factor * grid[0], factor * grid[1]))


def resized(values: Tensor, size: tuple[int, int]) -> Tensor:
    """``[B, C, H, W]`` to ``[B, C, *size]``: averaged over areas when it shrinks, bilinearly when it grows."""
    if tuple(values.shape[2:]) == size:
        return values
    if values.shape[2] >= size[0] and values.shape[3] >= size[1]:
        return F.adaptive_avg_pool2d(values, size)
    return F.interpolate(values, size=size, mode="bilinear", align_corners=False)


def _coordinates(grid: tuple[int, int], device: torch.device) -> Tensor:
    """``[1, 2, H, W]``: y and x from −1 to 1, so that "left of" can be learned."""
    axes = [torch.linspace(-1, 1, side, dtype=torch.float32, device=device) for side in grid]
    return torch.stack(torch.meshgrid(*axes, indexing="ij"))[None]
