"""Attention maps from the exact query and key that a model hands to ``F.scaled_dot_product_attention``."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.overrides import TorchFunctionMode

CHUNK_BYTES = {"cpu": 8 * 2**20, "cuda": 256 * 2**20}
"""Upper bound, per kind of device, of the float32 scores that exist at once: what a cache holds, or enough to keep a
GPU busy. Twice that is allocated, for scores and their softmax."""

EVERYTHING = slice(None)

Received = Callable[[Tensor, Tensor, float | None, Tensor | None], None]


@torch.no_grad()
def attention_map(
    query: Tensor,
    key: Tensor,
    *,
    image: slice = EVERYTHING,
    text: slice = EVERYTHING,
    scale: float | None = None,
    mask: Tensor | None = None,
) -> Tensor:
    """softmax(q·kᵀ·scale + mask) over all keys, of image queries and text keys, averaged over heads.

    Computed in float32, in parts that stay below ``CHUNK_BYTES``.

    Args:
        query: [n, heads, Q, d].
        key: [n, heads, K, d], or fewer heads, each shared by as many query heads.
        image, text: which of the Q queries and of the K keys.
        scale: default 1/√d, as in ``F.scaled_dot_product_attention``.
        mask: boolean (True takes part) or additive, broadcastable to [n, heads, Q, K].

    Returns:
        float32 [n, text tokens, image tokens].
    """
    query = query[:, :, image]
    rows, heads, queries, width = query.shape
    keys = key.shape[2]
    key = key.repeat_interleave(heads // key.shape[1], 1) if key.shape[1] < heads else key
    bias = None if mask is None else _additive(mask, image)
    factor = 1 / math.sqrt(width) if scale is None else scale
    budget = CHUNK_BYTES.get(query.device.type, CHUNK_BYTES["cuda"]) // (4 * rows * keys)
    some_queries = min(queries, max(1, budget))
    some_heads = min(heads, max(1, budget // queries))
    total = query.new_zeros(rows, queries, len(range(keys)[text]), dtype=torch.float32)
    for h in range(0, heads, some_heads):
        part = slice(h, h + some_heads)
        turned = key[:, part].float().transpose(-1, -2)
        for q in range(0, queries, some_queries):
            positions = slice(q, q + some_queries)
            scores = (query[:, part, positions].float() * factor) @ turned
            if bias is not None:
                scores += _part(bias, part, positions)
            total[:, positions] += scores.softmax(-1)[..., text].sum(1)
    return total.div_(heads).transpose(1, 2)


def _additive(mask: Tensor, image: slice) -> Tensor:
    """[n or 1, heads or 1, queries or 1, keys], to be added to the scores."""
    mask = mask[(None,) * (4 - mask.dim())]
    mask = mask[:, :, image] if mask.shape[2] > 1 else mask
    if mask.dtype != torch.bool:
        return mask.float()
    return torch.zeros(mask.shape, device=mask.device).masked_fill_(~mask, -torch.inf)


def _part(bias: Tensor, heads: slice, queries: slice) -> Tensor:
    bias = bias[:, heads] if bias.shape[1] > 1 else bias
    return bias[:, :, queries] if bias.shape[2] > 1 else bias


class AttentionReader(TorchFunctionMode):
    """While it is entered, ``receive(query, key, scale, mask)`` gets what reaches the attention function.

    The attention itself is computed as before: reading never changes an image.
    """

    def __init__(self, receive: Received) -> None:
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
