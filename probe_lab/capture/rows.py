"""Some rows of whatever a denoiser is given."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

Entries = Mapping[int, Tensor]
"""How many entries something has -> which of them are wanted, int64; what has another number stays whole."""

_NOT_PER_ROW = ("img_ids", "txt_ids")
"""Positions of tokens: without an axis of rows where they are matrices."""


def entries_of(kept: Tensor, rows: int) -> Entries:
    """The rows ``kept`` of ``rows``, in their order, in batches that hold each row once, or twice: without and with the
    prompt."""
    return {rows: kept, 2 * rows: torch.cat([kept, kept + rows])}


def with_prompt(rows: int) -> Entries:
    """The half with the prompt, of batches that hold each row twice."""
    return {2 * rows: torch.arange(rows, 2 * rows)}


def taken(value: Any, entries: Entries, name: str = "") -> Any:
    """The wanted entries of a value, at any depth. ``name`` is that of the denoiser's argument."""
    if isinstance(value, Mapping):
        return {key: taken(part, entries, str(key)) for key, part in value.items()}
    if isinstance(value, Tensor):
        per_row = value.dim() > 0 and not (name in _NOT_PER_ROW and value.dim() == 2)
        wanted = entries.get(len(value)) if per_row else None
        return value if wanted is None else value[wanted.to(value.device)]
    wanted = entries.get(len(value)) if isinstance(value, list) else None
    return value if wanted is None else [value[place] for place in wanted.tolist()]
