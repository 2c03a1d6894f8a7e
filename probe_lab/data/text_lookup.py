"""The prompt's text encoding beside the features: one row per prompt, looked up by prompt id."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from probe_lab.cache import Cache


@dataclass(frozen=True, eq=False)
class TextTable:
    """What `Cache.text` holds of one encoder, row p for prompt_id p, in the stored dtype and in memory."""

    embedding: Tensor | None
    tokens: Tensor | None
    token_mask: Tensor | None

    @classmethod
    def load(cls, cache: Cache, encoder: str) -> TextTable:
        """CacheError when the cache has no text of this encoder."""
        found = cache.text(encoder)
        return cls(found.get("embedding"), found.get("tokens"), found.get("token_mask"))

    def rows(self, prompt_id: Tensor) -> tuple[Tensor | None, Tensor | None, Tensor | None]:
        """Of prompts int64 [B]: embedding float32 [B, D], tokens float32 [B, L, D], mask bool [B, L]."""
        return (
            _take(self.embedding, prompt_id, torch.float32),
            _take(self.tokens, prompt_id, torch.float32),
            _take(self.token_mask, prompt_id, torch.bool),
        )


def _take(table: Tensor | None, rows: Tensor, dtype: torch.dtype) -> Tensor | None:
    return None if table is None else table.index_select(0, rows).to(dtype)
