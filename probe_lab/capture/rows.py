"""Some rows of whatever a denoiser is given."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch import Tensor

_NOT_PER_ROW = ("img_ids", "txt_ids")
"""Positions of tokens: without an axis of rows where they are matrices."""


def rows_of(value: Any, kept: Tensor, rows: int, name: str = "") -> Any:
    """The rows ``kept`` (int64, in this order) of whatever has one entry for each of ``rows``, or two, at any depth.

    Where there are two, without and with the prompt, both are kept; everything else stays as it is. ``name`` is that
    of the denoiser's argument.
    """
    whole = (rows, 2 * rows)
    return _taken(value, name, lambda length: places(kept, rows, length) if length in whole else None)


def with_prompt(value: Any, rows: int, name: str = "") -> Any:
    """The half with the prompt of whatever has two entries for each of ``rows``; everything else stays as it is."""
    return _taken(value, name, lambda length: torch.arange(rows, length) if length == 2 * rows else None)


def places(kept: Tensor, rows: int, length: int) -> Tensor:
    """Of the kept rows, in a batch of ``length`` that may hold all ``rows`` twice."""
    return torch.cat([kept + copy * rows for copy in range(length // rows)])


def _taken(value: Any, name: str, wanted: Callable[[int], Tensor | None]) -> Any:
    """The entries that ``wanted`` names, by how many there are; all where it names none."""
    if isinstance(value, Mapping):
        return {key: _taken(part, str(key), wanted) for key, part in value.items()}
    if isinstance(value, Tensor):
        per_row = value.dim() > 0 and not (name in _NOT_PER_ROW and value.dim() == 2)
        entries = wanted(len(value)) if per_row else None
        return value if entries is None else value[entries.to(value.device)]
    entries = wanted(len(value)) if isinstance(value, list) else None
    return value if entries is None else [value[place] for place in entries.tolist()]
