"""Maps are the float64 softmax of query and key, whatever the precision and the attention function of the process."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from diffusers import DiffusionPipeline
from diffusers.models.attention_processor import AttnProcessor
from torch import Tensor
from torch.overrides import TorchFunctionMode

from probe_lab.capture import Capture
from probe_lab.capture.attention_maps import AttentionReader, attention_map
from probe_lab.errors import CaptureError

GetPipe = Callable[[str], DiffusionPipeline]
ORIGINAL = F.scaled_dot_product_attention
TAP = "up_blocks.1.attentions.0"
LAYER = f"{TAP}.transformer_blocks.0.attn2"


def captured(pipe: DiffusionPipeline, tap: str = TAP, **options: Any) -> Capture:
    call = {"num_inference_steps": 1, "height": 64, "width": 96, "output_type": "latent", **options}
    with Capture(pipe, [f"{tap}/attention"], [1]) as capture:
        pipe("a red circle", generator=torch.Generator().manual_seed(0), **call)
    return capture


def softmax64(query: Tensor, key: Tensor) -> Tensor:
    """[n, text tokens, image tokens], the mean over heads."""
    scores = query.double() @ key.double().transpose(-1, -2) / query.shape[-1] ** 0.5
    return scores.softmax(-1).mean(1).transpose(1, 2)


class Pairs(TorchFunctionMode):
    """Query and key of every call of the attention function, in float64."""

    def __init__(self) -> None:
        super().__init__()
        self.seen: list[tuple[Tensor, Tensor]] = []

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if func is ORIGINAL:
            self.seen.append((args[0].double(), args[1].double()))
        return func(*args, **(kwargs or {}))


@pytest.mark.parametrize("kind", [torch.bfloat16, torch.float16])
@pytest.mark.parametrize("inside", [True, False])
def test_autocast_does_not_round_a_map(tiny_pipe: GetPipe, kind: torch.dtype, inside: bool) -> None:
    pipe, pairs = tiny_pipe("sd"), Pairs()
    layer = pipe.unet.get_submodule(LAYER)
    undo = [
        layer.register_forward_pre_hook(lambda *_: pairs.__enter__() and None),
        layer.register_forward_hook(lambda *_: pairs.__exit__(None, None, None)),
    ]
    context = torch.autocast("cpu", dtype=kind)
    try:
        if inside:  # autocast around the capture, or within it
            with context:
                capture = captured(pipe, guidance_scale=3.0)
                assert torch.is_autocast_enabled("cpu")
        else:
            with Capture(pipe, [f"{TAP}/attention"], [1]) as capture, context:
                captured(pipe, guidance_scale=3.0)
    finally:
        for handle in undo:
            handle.remove()
    query, key = (tensor[1:] for tensor in pairs.seen[0])
    assert capture.token_mask is not None
    expected = softmax64(query, key) * capture.token_mask[:, :, None]
    found = capture[1, TAP, "attention"]
    assert found.dtype == torch.float32
    torch.testing.assert_close(found.flatten(2).double(), expected, atol=1e-6, rtol=0)


@pytest.mark.parametrize("precision", ["high", "medium"])
def test_the_precision_of_matrix_products_is_left_as_it_was(precision: str) -> None:
    query, key = torch.randn(2, 1, 2, 8, 16, generator=torch.Generator().manual_seed(0))
    before = torch.get_float32_matmul_precision()
    torch.set_float32_matmul_precision(precision)
    try:
        torch.testing.assert_close(attention_map(query, key).double(), softmax64(query, key), atol=1e-6, rtol=0)
        assert torch.get_float32_matmul_precision() == precision
    finally:
        torch.set_float32_matmul_precision(before)


def test_the_default_dtype_does_not_round_a_mask() -> None:
    query, key = torch.randn(2, 1, 2, 8, 16, generator=torch.Generator().manual_seed(0))
    mask = torch.arange(8) < 5
    expected = attention_map(query, key, mask=mask)
    torch.set_default_dtype(torch.float16)
    try:
        found = attention_map(query, key, mask=mask)
    finally:
        torch.set_default_dtype(torch.float32)
    assert found.dtype == torch.float32
    assert torch.equal(found, expected)


def test_each_call_is_answered_by_the_original_or_by_the_stand_in() -> None:
    query, key = torch.randn(2, 1, 2, 8, 16, generator=torch.Generator().manual_seed(0))

    def either(query: Tensor, key: Tensor, value: Tensor) -> Tensor:
        """Its own kernel for short texts, two calls of the original for long ones, one for all others."""
        if key.shape[2] < 4:
            return value.new_zeros(query.shape)
        return head_by_head(query, key, value) if key.shape[2] > 6 else ORIGINAL(2 * query, key, value)

    reader = AttentionReader()
    with patched(either), reader:
        for keys in (3, 8, 5):
            F.scaled_dot_product_attention(query, key[:, :, :keys], key[:, :, :keys])
    assert [call.key.shape[2] for call in reader.take()] == [3, 8, 5]
    with patched(either), reader:
        F.scaled_dot_product_attention(query, key[:, :, :5], key[:, :, :5])
    (call,) = reader.take()
    assert torch.equal(call.query, 2 * query)
    assert not reader.take()


# Functions that people put in the place of F.scaled_dot_product_attention.


def passed_on(*args: Any, **kwargs: Any) -> Tensor:
    return ORIGINAL(*args, **kwargs)


def head_by_head(query: Tensor, key: Tensor, value: Tensor, **kwargs: Any) -> Tensor:
    """A saving of memory, where there is no mask."""
    if kwargs.get("attn_mask") is not None:
        return ORIGINAL(query, key, value, **kwargs)
    parts = zip(query.split(1, 1), key.split(1, 1), value.split(1, 1), strict=True)
    return torch.cat([ORIGINAL(*part, **kwargs) for part in parts], 1)


def row_by_row(query: Tensor, key: Tensor, value: Tensor, **kwargs: Any) -> Tensor:
    if kwargs.get("attn_mask") is not None:
        return ORIGINAL(query, key, value, **kwargs)
    parts = zip(query.split(1), key.split(1), value.split(1), strict=True)
    return torch.cat([ORIGINAL(*part, **kwargs) for part in parts])


def own_kernel(
    query: Tensor,
    key: Tensor,
    value: Tensor,
    attn_mask: Tensor | None = None,
    dropout_p: float = 0.0,
    is_causal: bool = False,
    tensor_layout: str = "HND",
    **kwargs: Any,
) -> Tensor:
    """As SageAttention: it calls the original only for what its kernel cannot do."""
    if attn_mask is not None or is_causal:
        return ORIGINAL(query, key, value, attn_mask, dropout_p, is_causal, **kwargs)
    return (query @ key.transpose(-1, -2) / math.sqrt(query.shape[-1])).softmax(-1) @ value


def centred(query: Tensor, key: Tensor, value: Tensor, **kwargs: Any) -> Tensor:
    """The mean of the keys changes no softmax."""
    return ORIGINAL(query, key - key.mean(2, keepdim=True), value, **kwargs)


@pytest.mark.parametrize("function", [passed_on, head_by_head, row_by_row, own_kernel, centred])
def test_a_function_in_the_place_of_the_attention(tiny_pipe: GetPipe, function: Callable[..., Tensor]) -> None:
    for name, tap in (("sd", TAP), ("flux-schnell", "transformer_blocks.0")):
        pipe = tiny_pipe(name)
        expected = captured(pipe, tap)[1, tap, "attention"]
        with patched(function):
            found = captured(pipe, tap)[1, tap, "attention"]
        torch.testing.assert_close(found, expected, atol=1e-5, rtol=0)


def test_a_function_that_sharpens_the_attention_is_read_as_it_is(tiny_pipe: GetPipe) -> None:
    """Whatever reaches the original decides about the image."""
    pipe = tiny_pipe("sd")
    plain = captured(pipe)[1, TAP, "attention"]
    with patched(lambda query, key, value, **kwargs: ORIGINAL(3 * query, key, value, **kwargs)):
        sharper = captured(pipe)[1, TAP, "attention"]
    assert (sharper - plain).abs().max() > 1e-2


def test_two_captures_and_an_error_leave_the_function_that_was_there(tiny_pipe: GetPipe) -> None:
    pipe = tiny_pipe("sd")

    def failing(*args: Any, **kwargs: Any) -> Tensor:
        raise MemoryError("no memory for attention")

    with patched(failing), pytest.raises(MemoryError):
        captured(pipe)
    expected = captured(pipe)[1, TAP, "attention"]
    with patched(head_by_head), Capture(pipe, [f"{TAP}/attention"], [1]) as outer:
        inner = captured(pipe)
    for capture in (outer, inner):
        torch.testing.assert_close(capture[1, TAP, "attention"], expected, atol=1e-5, rtol=0)
    assert not torch.overrides._get_current_function_mode_stack()


def test_backends_of_diffusers_that_end_in_the_attention_function(tiny_pipe: GetPipe) -> None:
    pipe, tap = tiny_pipe("flux-schnell"), "transformer_blocks.0"
    expected = captured(pipe, tap)[1, tap, "attention"]
    pipe.transformer.set_attention_backend("_native_math")
    try:
        found = captured(pipe, tap)[1, tap, "attention"]
    finally:
        pipe.transformer.set_attention_backend("native")
    torch.testing.assert_close(found, expected, atol=1e-5, rtol=0)


def test_attention_that_cannot_be_read_names_what_computes_it(tiny_pipe: GetPipe) -> None:
    pipe = tiny_pipe("sd")
    layer = pipe.unet.get_submodule(LAYER)
    own = layer.processor
    layer.set_processor(AttnProcessor())
    try:
        with pytest.raises(CaptureError, match=r"processor is diffusers\.\S+\.AttnProcessor\), so its attention"):
            captured(pipe)
        named = r"AttnProcessor, and \S+\.head_by_head stands in the place of that function\)"
        with patched(head_by_head), pytest.raises(CaptureError, match=named):
            captured(pipe)
    finally:
        layer.set_processor(own)


@contextmanager
def patched(function: Callable[..., Tensor]) -> Iterator[None]:
    F.scaled_dot_product_attention = function
    try:
        yield
        assert F.scaled_dot_product_attention is function
    finally:
        F.scaled_dot_product_attention = ORIGINAL
