"""Some rows of whatever a denoiser is given, and its answer for all of them again."""

from __future__ import annotations

import copy
from typing import Any

import torch
from torch import Tensor

from probe_lab.backbones.token_grid import Arguments

_PER_ROW_LISTS = ("generator", "img_shapes", "txt_seq_lens")
"""Lists with an entry per row. Every other one has a meaning of its own: layers to skip, adapters, residuals."""

_NOT_PER_ROW = ("img_ids", "txt_ids")
"""Positions of tokens: without an axis of rows where they are matrices."""


_NO_BATCH = -1


def batch_of(arguments: Arguments) -> int:
    """Rows of a denoiser call: those of its noisy latents."""
    return len(arguments[input_of(arguments)])


def input_of(arguments: Arguments) -> str:
    """Under which name a denoiser is given its noisy latents."""
    return "hidden_states" if "hidden_states" in arguments else "sample"


def copies_of(kept: Tensor, rows: int, batch: int) -> Tensor:
    """Where the rows ``kept`` of ``rows`` are in a batch that holds all rows once, or twice: without and with the
    prompt. int64, in their order."""
    return torch.cat([kept + start for start in range(0, batch, rows)])


def taken(arguments: Arguments, wanted: Tensor) -> dict[str, Any]:
    """The rows ``wanted``, int64, of all arguments of a denoiser call, at any depth.

    A tensor has an entry per row where it has as many as the noisy latents. Containers are new ones, of the same kind.
    """
    batch = batch_of(arguments)
    return {name: _taken(value, wanted, batch, name) for name, value in arguments.items()}


def copied(arguments: Arguments) -> dict[str, Any]:
    """The same arguments in containers of their own."""
    return {name: _taken(value, torch.empty(0), _NO_BATCH, name) for name, value in arguments.items()}


def _taken(value: Any, wanted: Tensor, batch: int, name: str) -> Any:
    if isinstance(value, Tensor):
        per_row = value.dim() > 0 and len(value) == batch and not (name in _NOT_PER_ROW and value.dim() == 2)
        return value[wanted.to(value.device)] if per_row else value
    if isinstance(value, dict):
        changed = copy.copy(value)
        changed.update({key: _taken(part, wanted, batch, str(key)) for key, part in value.items()})
        return changed
    if not isinstance(value, list | tuple):
        return value
    if name in _PER_ROW_LISTS and len(value) == batch:
        parts = [value[place] for place in wanted.tolist()]
    else:
        parts = [_taken(part, wanted, batch, name) for part in value]
    if isinstance(value, list):
        return parts
    return type(value)(*parts) if hasattr(value, "_fields") else tuple(parts)


def widened(output: Any, kept: Tensor, batch: int) -> Any:
    """What a denoiser answered for the rows ``kept`` of a batch, among zeros for the others."""
    if isinstance(output, tuple):
        return (spread(output[0], kept, batch, 0.0), *output[1:])
    output.sample = spread(output.sample, kept, batch, 0.0)
    return output


def spread(tensor: Tensor, kept: Tensor, rows: int, filling: float) -> Tensor:
    """[len(kept), …] to [rows, …]: each row in its place, ``filling`` in all others."""
    full = torch.full((rows, *tensor.shape[1:]), filling, dtype=tensor.dtype, device=tensor.device)
    full[kept.to(tensor.device)] = tensor
    return full
