"""Attention maps recomputed in float64 from what reaches a model's attention layers and from its own weights.

Nothing here uses the code under test, nor the attention functions of torch and diffusers: projections, norms, rotary
embedding, masks and softmax are written out.
"""

from __future__ import annotations

import functools
import inspect
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from typing import Any

import torch
from diffusers import DiffusionPipeline
from torch import Tensor, nn


@dataclass
class Record:
    """What went through a pipeline: one entry per call of the part."""

    text_tokens: list[int] = field(default_factory=list)
    """Length of the text that the denoiser was given."""
    attention: dict[str, list[dict[str, Any]]] = field(default_factory=dict)
    """Arguments of each attention layer, by module path."""
    outputs: dict[str, list[Any]] = field(default_factory=dict)
    """Outputs of blocks, by module path."""
    scheduler: list[tuple[Tensor, Tensor]] = field(default_factory=list)
    """(model output, sample) of each step."""


def denoiser_of(pipe: DiffusionPipeline) -> nn.Module:
    return getattr(pipe, "unet", None) or pipe.transformer


def text_layers(pipe: DiffusionPipeline, path: str) -> list[str]:
    """Paths of the layers below a block that read text: ``attn2`` of blocks with cross-attention, else ``attn``.

    (SD 3.5 has an ``attn2`` beside ``attn``; it reads the image only.)
    """
    found = [name for name, _ in denoiser_of(pipe).get_submodule(path).named_modules()]
    joint = [name for name in found if name.rpartition(".")[2] == "attn"]
    return [f"{path}.{name}" for name in joint or [name for name in found if name.rpartition(".")[2] == "attn2"]]


@contextmanager
def recorded(pipe: DiffusionPipeline, layers: Sequence[str] = (), blocks: Sequence[str] = ()) -> Iterator[Record]:
    """Fill a ``Record`` with all that goes through ``layers``, ``blocks`` and the scheduler."""
    record = Record()
    denoiser = denoiser_of(pipe)

    def enter_denoiser(module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        record.text_tokens.append(_arguments(module, args, kwargs)["encoder_hidden_states"].shape[1])

    def enter_layer(calls: list[dict[str, Any]], module: nn.Module, args: tuple[Any, ...], kwargs: dict) -> None:
        calls.append(_arguments(module, args, kwargs))

    def leave_block(calls: list[Any], module: nn.Module, args: tuple[Any, ...], output: Any) -> None:
        calls.append(output)

    step, own = pipe.scheduler.step, vars(pipe.scheduler).get("step")

    @functools.wraps(step)
    def spy(model_output: Tensor, timestep: Any, sample: Tensor, *args: Any, **kwargs: Any) -> Any:
        record.scheduler.append((model_output.clone(), sample.clone()))
        return step(model_output, timestep, sample, *args, **kwargs)

    with ExitStack() as stack:
        stack.callback(denoiser.register_forward_pre_hook(enter_denoiser, with_kwargs=True).remove)
        for path in layers:
            hook = functools.partial(enter_layer, record.attention.setdefault(path, []))
            stack.callback(denoiser.get_submodule(path).register_forward_pre_hook(hook, with_kwargs=True).remove)
        for path in blocks:
            hook = functools.partial(leave_block, record.outputs.setdefault(path, []))
            stack.callback(denoiser.get_submodule(path).register_forward_hook(hook).remove)
        pipe.scheduler.step = spy
        yield record
        if own is None:
            del pipe.scheduler.step
        else:
            pipe.scheduler.step = own


def _arguments(module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> dict[str, Any]:
    signature = inspect.signature(module.forward)
    bound = dict(signature.bind(*args, **kwargs).arguments)
    for parameter in signature.parameters.values():
        if parameter.kind is parameter.VAR_KEYWORD:
            bound |= bound.pop(parameter.name, {})
    return bound


def eager_attention(layer: nn.Module, inputs: dict[str, Any], text_tokens: int) -> Tensor:
    """Image queries × text keys, softmax over all keys, mean over heads: float64 [n, text tokens, image tokens]."""
    query, keys, bias = _query_and_keys(layer, inputs, text_tokens)
    scores = query @ keys.transpose(-1, -2) / query.shape[-1] ** 0.5
    if bias is not None:
        scores = scores + bias
    weights = (scores - scores.amax(-1, keepdim=True)).exp()
    weights = weights / weights.sum(-1, keepdim=True)
    return weights[..., :text_tokens].mean(1).transpose(1, 2)


def _query_and_keys(layer: nn.Module, inputs: dict[str, Any], text_tokens: int) -> tuple[Tensor, Tensor, Tensor | None]:
    """[n, heads, image tokens, d] queries, [n, heads, all tokens, d] keys with the text first, and what is added."""
    hidden, text = inputs["hidden_states"], inputs.get("encoder_hidden_states")
    rotary = inputs.get("image_rotary_emb")
    if text is not None and getattr(layer, "add_k_proj", None) is None:
        mask = inputs.get("attention_mask")
        query = _heads(layer, layer.to_q, layer.norm_q, hidden)
        return query, _heads(layer, layer.to_k, layer.norm_k, text), None if mask is None else mask.double()[:, None]
    if text is None:  # one stream: the text, then the image
        query, keys = _joint_projections(layer, hidden)
        image, words = slice(text_tokens, None), slice(0, text_tokens)
        query, text_keys, image_keys = query[:, :, image], keys[:, :, words], keys[:, :, image]
    else:
        query = _heads(layer, layer.to_q, layer.norm_q, hidden)
        image_keys = _heads(layer, layer.to_k, layer.norm_k, hidden)
        text_keys = _heads(layer, layer.add_k_proj, layer.norm_added_k, text)
    if rotary is not None:
        image_turn, text_turn = _turns(rotary, text_tokens)
        query, image_keys, text_keys = (
            _turned(query, image_turn),
            _turned(image_keys, image_turn),
            _turned(text_keys, text_turn),
        )
    return query, torch.cat([text_keys, image_keys], 2), _text_bias(inputs, image_keys.shape[2])


def _text_bias(inputs: dict[str, Any], image_tokens: int) -> Tensor | None:
    """−∞ for the text keys that Qwen-Image leaves out: [n, 1, 1, all tokens]."""
    mask = inputs.get("encoder_hidden_states_mask")
    if mask is None:
        return None
    bias = torch.zeros(len(mask), mask.shape[1] + image_tokens, dtype=torch.float64)
    bias[:, : mask.shape[1]][~mask.bool()] = -torch.inf
    return bias[:, None, None]


def _joint_projections(layer: nn.Module, hidden: Tensor) -> tuple[Tensor, Tensor]:
    if not hasattr(layer, "to_qkv_mlp_proj"):
        query = _heads(layer, layer.to_q, layer.norm_q, hidden)
        return query, _heads(layer, layer.to_k, layer.norm_k, hidden)
    weight = layer.to_qkv_mlp_proj.weight.double()  # FLUX.2: query, key, value and the MLP in one matrix
    width = layer.inner_dim
    parts = [hidden.double() @ weight[i * width : (i + 1) * width].T for i in (0, 1)]
    return _split_normed(layer, layer.norm_q, parts[0]), _split_normed(layer, layer.norm_k, parts[1])


def _heads(layer: nn.Module, projection: nn.Linear, norm: nn.Module | None, hidden: Tensor) -> Tensor:
    projected = hidden.double() @ projection.weight.double().T
    if projection.bias is not None:
        projected = projected + projection.bias.double()
    return _split_normed(layer, norm, projected)


def _split_normed(layer: nn.Module, norm: nn.Module | None, projected: Tensor) -> Tensor:
    """[n, tokens, heads · d] -> [n, heads, tokens, d]; a norm is over all heads (Sana) or over each (the others)."""
    across = norm is not None and norm.weight.numel() == projected.shape[-1]
    if across:
        projected = _rms(norm, projected)
    split = projected.unflatten(-1, (layer.heads, -1)).transpose(1, 2)
    return split if norm is None or across else _rms(norm, split)


def _rms(norm: nn.Module, x: Tensor) -> Tensor:
    return x / (x.square().mean(-1, keepdim=True) + norm.eps).sqrt() * norm.weight.double()


def _turns(rotary: tuple[Tensor, Tensor], text_tokens: int) -> tuple[Tensor, Tensor]:
    """Complex rotations [tokens, d / 2] of the image and of the text."""
    first, second = rotary
    if first.is_complex():  # Qwen-Image: (image, text)
        return first.to(torch.complex128), second.to(torch.complex128)
    turn = torch.complex(first[:, ::2].double(), second[:, ::2].double())  # FLUX: (cos, sin) of [text, image]
    return turn[text_tokens:], turn[:text_tokens]


def _turned(x: Tensor, turn: Tensor) -> Tensor:
    """Neighbouring pairs of channels as complex numbers, rotated."""
    pairs = torch.complex(x[..., ::2], x[..., 1::2]) * turn
    return torch.stack([pairs.real, pairs.imag], -1).flatten(-2)


def unpacked(tokens: Tensor, height: int, width: int) -> Tensor:
    """[n, tokens, channels · 2 · 2] of FLUX, FLUX.2 and Qwen-Image -> [n, channels, height, width]."""
    rows, _, packed = tokens.shape
    latent = tokens.new_empty(rows, packed // 4, height, width)
    grid = tokens.reshape(rows, height // 2, width // 2, packed // 4, 4).permute(0, 3, 1, 2, 4)
    for corner in range(4):
        latent[:, :, corner // 2 :: 2, corner % 2 :: 2] = grid[..., corner]
    return latent


def clean_latent(scheduler: Any, step: int, model_output: Tensor, sample: Tensor) -> Tensor:
    """The predicted clean latent of 1-based ``step``, by the definitions of each prediction type, in float64."""
    output, sample = model_output.double(), sample.double()
    kind = scheduler.config.get("prediction_type")
    timestep = scheduler.timesteps[step - 1]
    if kind in (None, "flow_prediction"):
        return sample - scheduler.sigmas[step - 1].double() * output
    alpha = scheduler.alphas_cumprod[int(timestep)].double()
    if type(scheduler).__name__.startswith("Euler"):  # the sample is (x₀ + σ·ε), not scaled to unit variance
        return sample - ((1 - alpha) / alpha).sqrt() * output
    if kind == "v_prediction":
        return alpha.sqrt() * sample - (1 - alpha).sqrt() * output
    return (sample - (1 - alpha).sqrt() * output) / alpha.sqrt()
