"""Attention maps from the exact query and key that a model hands to ``F.scaled_dot_product_attention``."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.overrides import TorchFunctionMode

CHUNK_BYTES = 64 * 2**20
"""Upper bound of the float32 probabilities that exist at once; one head is the least."""


def attention_map(query: Tensor, key: Tensor, *, scale: float | None = None, mask: Tensor | None = None) -> Tensor:
    """softmax(q·kᵀ·scale + mask) averaged over heads: float32 [n, K, Q].

    Args:
        query: [n, heads, Q, d].
        key: [n, heads, K, d].
        scale: default 1/√d, as in ``F.scaled_dot_product_attention``.
        mask: boolean (True takes part) or additive, broadcastable to [n, heads, Q, K].
    """
    rows, heads, queries, width = query.shape
    keys = key.shape[2]
    factor = 1 / math.sqrt(width) if scale is None else scale
    chunk = max(1, min(heads, CHUNK_BYTES // (rows * queries * keys * 4)))
    total = query.new_zeros(rows, queries, keys, dtype=torch.float32)
    bias = _additive(mask)
    for start in range(0, heads, chunk):
        part = slice(start, start + chunk)
        scores = (query[:, part] * factor) @ key[:, part].transpose(-1, -2)
        if bias is not None:
            scores = scores + (bias[:, part] if bias.dim() == 4 and bias.shape[1] > 1 else bias)
        total += scores.float().softmax(-1).sum(1)
    return total.div_(heads).transpose(1, 2)


def _additive(mask: Tensor | None) -> Tensor | None:
    if mask is None or mask.dtype != torch.bool:
        return mask
    return torch.zeros(mask.shape, device=mask.device).masked_fill_(~mask, -torch.inf)


class AttentionReader(TorchFunctionMode):
    """While it is entered, ``receive(query, key, scale, mask)`` gets what reaches the attention function.

    The attention itself is computed as before: reading never changes an image.
    """

    def __init__(self, receive: Callable[[Tensor, Tensor, float | None, Tensor | None], None]) -> None:
        super().__init__()
        self._receive = receive

    def __torch_function__(
        self,
        func: Callable[..., Any],
        types: tuple[type, ...],
        args: tuple[Any, ...] = (),
        kwargs: dict[str, Any] | None = None,
    ) -> Any:
        kwargs = kwargs or {}
        if func is F.scaled_dot_product_attention:
            self._read(*args, **kwargs)
        return func(*args, **kwargs)

    def _read(
        self,
        query: Tensor,
        key: Tensor,
        value: Tensor,
        attn_mask: Tensor | None = None,
        dropout_p: float = 0.0,
        is_causal: bool = False,
        scale: float | None = None,
        enable_gqa: bool = False,
    ) -> None:
        self._receive(query, key, scale, attn_mask)
