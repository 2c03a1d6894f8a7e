"""The prompt's text encoding beside the features: one row per prompt, looked up by prompt id."""

from __future__ import annotations

import torch
from torch import Tensor

from probe_lab.cache import Cache
from probe_lab.cache.tensor_rows import TensorRows
from probe_lab.data.resident import available_memory

_SHARE = 8
"""The part of the available memory that one array may take."""


class TextTable:
    """What `Cache.text` holds of one encoder, row p for prompt_id p. What is larger than an eighth of the available
    memory, such as the tokens of ten thousand prompts for FLUX, is read row by row."""

    def __init__(self, stored: TensorRows) -> None:
        self._stored = stored
        most = available_memory() // _SHARE
        self._whole = {name: stored.whole(name) for name in stored.names if stored.nbytes(name) <= most}

    @classmethod
    def load(cls, cache: Cache, encoder: str) -> TextTable:
        """CacheError when the cache has no text of this encoder."""
        return cls(cache.text_rows(encoder))

    def width(self, name: str) -> int:
        """Of an embedding or a token; 0 where the encoder stored none."""
        return self._stored.shape(name)[-1] if name in self._stored.names else 0

    def rows(self, prompt_id: Tensor) -> tuple[Tensor | None, Tensor | None, Tensor | None]:
        """Of prompts int64 [B]: embedding float32 [B, D], tokens float32 [B, L, D], mask bool [B, L]."""
        return (
            self._take("embedding", prompt_id, torch.float32),
            self._take("tokens", prompt_id, torch.float32),
            self._take("token_mask", prompt_id, torch.bool),
        )

    def _take(self, name: str, rows: Tensor, dtype: torch.dtype) -> Tensor | None:
        if name in self._whole:
            return self._whole[name].index_select(0, rows).to(dtype)
        return self._stored.read(name, rows).to(dtype) if name in self._stored.names else None
