"""Attention maps from the exact query and key that a model hands to ``F.scaled_dot_product_attention``."""

from __future__ import annotations

import math
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from types import TracebackType
from typing import Any, Self

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.overrides import TorchFunctionMode, _get_current_function_mode_stack

from probe_lab.capture.listen import Undo, before_method

NAME = "scaled_dot_product_attention"
ORIGINAL = torch._C._nn.scaled_dot_product_attention
"""What ``F.scaled_dot_product_attention`` is as long as nobody puts another function in its place."""

CHUNK_BYTES = {"cpu": 8 * 2**20, "cuda": 256 * 2**20}
"""Upper bound, per kind of device, of the float32 scores that exist at once: what a cache holds, or enough to keep a
GPU busy. Twice that is allocated, for scores and their softmax."""

EVERYTHING = slice(None)

_PRECISION = threading.RLock()
"""Held while the precision of matrix products, a setting of the whole process, is another one."""


@dataclass(frozen=True)
class AttentionCall:
    """What an attention function was given: ``query`` [n, heads, Q, d], ``key`` [n, heads, K, d], and as in
    ``attention_map`` ``scale`` and ``mask``."""

    query: Tensor
    key: Tensor
    scale: float | None
    mask: Tensor | None

    @classmethod
    def of(
        cls,
        query: Tensor,
        key: Tensor,
        *further: Any,
        attn_mask: Tensor | None = None,
        scale: float | None = None,
        **others: Any,
    ) -> AttentionCall:
        """From the arguments of ``F.scaled_dot_product_attention``, or of a function in its place that has more."""
        return cls(query, key, scale, further[1] if len(further) > 1 else attn_mask)


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

    Computed in float32, whatever autocast and the settings of matrix products say, in parts that stay below
    ``CHUNK_BYTES``.

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
    with full_precision(query.device):
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


@contextmanager
def full_precision(device: torch.device) -> Iterator[None]:
    """Matrix products of float32 tensors on ``device`` are computed in float32: neither autocast nor TF32 or bfloat16
    (``torch.set_float32_matmul_precision``) shortens them."""
    if device.type == "meta":  # tensors without numbers
        yield
        return
    backends: Any = torch.backends
    settings = backends.cuda.matmul if device.type == "cuda" else backends.mkldnn.matmul
    with _PRECISION, torch.autocast(device.type, enabled=False):
        before = settings.fp32_precision
        settings.fp32_precision = "ieee"
        try:
            yield
        finally:
            settings.fp32_precision = before


def _additive(mask: Tensor, image: slice) -> Tensor:
    """[n or 1, heads or 1, queries or 1, keys], to be added to the scores."""
    mask = mask[(None,) * (4 - mask.dim())]
    mask = mask[:, :, image] if mask.shape[2] > 1 else mask
    if mask.dtype != torch.bool:
        return mask.float()
    return torch.zeros(mask.shape, dtype=torch.float32, device=mask.device).masked_fill_(~mask, -torch.inf)


def _part(bias: Tensor, heads: slice, queries: slice) -> Tensor:
    bias = bias[:, heads] if bias.shape[1] > 1 else bias
    return bias[:, :, queries] if bias.shape[2] > 1 else bias


class AttentionReader(TorchFunctionMode):
    """While it is entered, ``calls`` collects what reaches the attention function.

    The attention itself is computed as before: reading never changes an image. Where another function stands in the
    place of ``F.scaled_dot_product_attention``, both it and the original are listened to.
    """

    def __init__(self) -> None:
        super().__init__()
        self._of_original: list[AttentionCall] = []
        self._of_stand_in: list[tuple[AttentionCall, int]] = []  # with the number of the original's before it
        self._undo: Undo | None = None

    def __enter__(self) -> Self:
        self._of_original, self._of_stand_in = [], []
        if stand_in() is not None:
            self._undo = before_method(F, NAME, self._called)
        super().__enter__()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        super().__exit__(kind, error, trace)
        if self._undo is not None:
            self._undo()
            self._undo = None

    def take(self) -> list[AttentionCall]:
        """What was collected, one entry per call that the model made; then it is empty again.

        A stand-in that passes a call on, perhaps changed, is answered by the original, so what that was given counts.
        One that has a kernel of its own, or cuts a call into several, is described by what it was given.
        """
        original, others = self._of_original, self._of_stand_in
        self._of_original, self._of_stand_in = [], []
        starts = [*(before for _, before in others), len(original)]
        calls = original[: starts[0]]
        for (call, start), end in zip(others, starts[1:], strict=True):
            calls.append(original[start] if end - start == 1 else call)
        return calls

    def __torch_function__(
        self,
        func: Callable[..., Any],
        types: tuple[type, ...],
        args: tuple[Any, ...] = (),
        kwargs: dict[str, Any] | None = None,
    ) -> Any:
        kwargs = kwargs or {}
        if func is ORIGINAL:
            self._of_original.append(AttentionCall.of(*args, **kwargs))
        return func(*args, **kwargs)

    def _called(self, *args: Any, **kwargs: Any) -> None:
        if self in _get_current_function_mode_stack():  # another thread is not read
            self._of_stand_in.append((AttentionCall.of(*args, **kwargs), len(self._of_original)))


def stand_in() -> Any | None:
    """What somebody put in the place of ``F.scaled_dot_product_attention``, if anybody did."""
    function = F.scaled_dot_product_attention
    return None if function is ORIGINAL else function
