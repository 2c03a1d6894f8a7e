"""How models lay out image tokens and latents: grids, packed latents, and the way back to [n, C, H, W]."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch.nn.functional as F
from torch import Tensor, nn

from probe_lab.errors import CaptureError

Arguments = Mapping[str, Any]
"""The arguments of one denoiser call, by the names of its ``forward``."""

TokenGrid = tuple[int, int]
"""Height and width, in tokens."""


def grid_of_latent(denoiser: nn.Module, arguments: Arguments) -> TokenGrid:
    """Of a latent [n, C, h, w] that the denoiser cuts into patches itself; a UNet has a token per position."""
    latent = arguments["sample"] if "sample" in arguments else arguments["hidden_states"]
    patch = getattr(denoiser.config, "patch_size", None) or 1
    return latent.shape[-2] // patch, latent.shape[-1] // patch


def grid_of_ids(denoiser: nn.Module, arguments: Arguments) -> TokenGrid:
    """Of position ids [(n,) tokens, 3 or 4], whose second and third columns are row and column (FLUX)."""
    ids = arguments["img_ids"]
    rows, columns = ids[..., 1].amax(), ids[..., 2].amax()
    return int(rows) + 1, int(columns) + 1


def grid_of_shapes(denoiser: nn.Module, arguments: Arguments) -> TokenGrid:
    """Of a list of (frames, height, width) per image (Qwen-Image)."""
    _, height, width = arguments["img_shapes"][0][0]
    return height, width


def unpacked(latent: Tensor, grid: TokenGrid) -> Tensor:
    """[n, C, h, w] as it is."""
    return latent


def unpacked_2x2(latent: Tensor, grid: TokenGrid) -> Tensor:
    """[n, h·w, 4·C], 2×2 positions per token with the channel as the slowest index, to [n, C, 2h, 2w]."""
    return (
        latent.transpose(1, 2)
        .unflatten(2, grid)
        .unflatten(1, (-1, 2, 2))
        .permute(0, 1, 4, 2, 5, 3)
        .flatten(4)
        .flatten(2, 3)
    )


def packed(latent: Tensor) -> Tensor:
    """[n, C, h, w] as it is."""
    return latent


def packed_2x2(latent: Tensor) -> Tensor:
    """What ``unpacked_2x2`` undoes: [n, C, 2h, 2w] to [n, h·w, 4·C]."""
    return F.pixel_unshuffle(latent, 2).flatten(2).transpose(1, 2)


def folded(tokens: Tensor, grid: TokenGrid) -> Tensor:
    """[n, C, tokens] to [n, C, H, W]: the finest grid, or one that is halved (rounding up) until it fits.

    Raises:
        CaptureError: no halving of the grid has that many tokens.
    """
    height, width = grid
    while height * width > tokens.shape[2]:
        height, width = -(-height // 2), -(-width // 2)
    if height * width != tokens.shape[2]:
        raise CaptureError(
            f"{tokens.shape[2]} tokens do not fold back to an image of {grid[0]}×{grid[1]}: that is no halving of it"
        )
    return tokens.unflatten(2, (height, width))
