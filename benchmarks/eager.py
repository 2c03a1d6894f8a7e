"""What attention-visualisation tools do, written as lean as it can be: explicit attention at every step.

Two methods; ``benchmarks/tools.py`` has the tools themselves:

- ``text`` (DAAM): the layers that read text get a processor that computes softmax(q·kᵀ) and multiplies it with v.
- ``all`` (prompt-to-prompt): so does every attention layer, self-attention included.

Both keep, for each layer, the probabilities of the conditional rows, a map per head, summed over the steps, on the
device; of self-attention, those of at most 32×32 positions, as prompt-to-prompt does. The tools' own detours (a loop
over tokens, dictionaries per head, resizing, maps of every step) are left out: what is measured is the method. Where
joint attention mixes text and image (SD3), ``text`` keeps image queries × text keys.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any, Literal

import torch
from diffusers import SD3Transformer2DModel, UNet2DConditionModel
from diffusers.models.attention_processor import Attention
from torch import Tensor

Layers = Literal["text", "all"]
LARGEST = 32 * 32
"""Positions of the largest self-attention map that is kept."""


class Store:
    """Probabilities by layer, [n, heads, Q, K] float32, summed over the steps."""

    def __init__(self) -> None:
        self.maps: dict[str, Tensor] = {}

    def add(self, name: str, probabilities: Tensor) -> None:
        kept = probabilities.chunk(2)[1]  # the conditional half
        if name in self.maps:
            self.maps[name] += kept
        else:
            self.maps[name] = kept.clone()


def attend(query: Tensor, key: Tensor, value: Tensor) -> tuple[Tensor, Tensor]:
    """(probabilities [n, heads, Q, K], their mean of ``value`` [n, heads, Q, d])."""
    rows, heads, queries, width = query.shape
    q, k, v = (part.reshape(rows * heads, -1, width) for part in (query, key, value))
    scores = torch.baddbmm(q.new_empty(1, 1, 1), q, k.transpose(1, 2), beta=0, alpha=width**-0.5)
    probabilities = scores.softmax(-1)
    del scores
    mixed = torch.bmm(probabilities, v).view(rows, heads, queries, width)
    return probabilities.view(rows, heads, queries, -1), mixed


def split_heads(tokens: Tensor, heads: int) -> Tensor:
    """[n, tokens, heads * d] as [n, heads, tokens, d]."""
    return tokens.unflatten(2, (heads, -1)).transpose(1, 2)


def join_heads(heads: Tensor) -> Tensor:
    """[n, heads, tokens, d] as [n, tokens, heads * d]."""
    return heads.transpose(1, 2).flatten(2)


def joint_projections(attn: Attention, image_states: Tensor, text_states: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """(query, key, value) of a joint layer of SD3, [n, heads, image + text tokens, d], after its norms."""
    image = [split_heads(layer(image_states), attn.heads) for layer in (attn.to_q, attn.to_k, attn.to_v)]
    text = [
        split_heads(layer(text_states), attn.heads) for layer in (attn.add_q_proj, attn.add_k_proj, attn.add_v_proj)
    ]
    if attn.norm_q is not None:
        image[:2] = attn.norm_q(image[0]), attn.norm_k(image[1])
    if attn.norm_added_q is not None:
        text[:2] = attn.norm_added_q(text[0]), attn.norm_added_k(text[1])
    query, key, value = (torch.cat(pair, 2) for pair in zip(image, text, strict=True))
    return query, key, value


class EagerProcessor:
    """For ``Attention`` inside a UNet's transformer blocks."""

    def __init__(self, store: Store, name: str) -> None:
        self._store, self._name = store, name

    def __call__(
        self,
        attn: Attention,
        hidden_states: Tensor,
        encoder_hidden_states: Tensor | None = None,
        attention_mask: Tensor | None = None,
    ) -> Tensor:
        assert attention_mask is None
        source = hidden_states if encoder_hidden_states is None else encoder_hidden_states
        query = split_heads(attn.to_q(hidden_states), attn.heads)
        key, value = split_heads(attn.to_k(source), attn.heads), split_heads(attn.to_v(source), attn.heads)
        probabilities, mixed = attend(query, key, value)
        if probabilities.shape[2] <= LARGEST or encoder_hidden_states is not None:
            self._store.add(self._name, probabilities)
        return attn.to_out[0](join_heads(mixed))


class EagerJointProcessor:
    """For the joint attention of SD3: image tokens first, then text."""

    def __init__(self, store: Store, name: str, layers: Layers) -> None:
        self._store, self._name, self._layers = store, name, layers

    def __call__(
        self,
        attn: Attention,
        hidden_states: Tensor,
        encoder_hidden_states: Tensor,
        attention_mask: Tensor | None = None,
    ) -> tuple[Tensor, Tensor | None]:
        assert attention_mask is None
        positions = hidden_states.shape[1]
        query, key, value = joint_projections(attn, hidden_states, encoder_hidden_states)
        probabilities, mixed = attend(query, key, value)
        if self._layers == "text":
            self._store.add(self._name, probabilities[:, :, :positions, positions:])
        elif positions <= LARGEST:
            self._store.add(self._name, probabilities)
        joined = join_heads(mixed)
        context = None if attn.context_pre_only else attn.to_add_out(joined[:, positions:])
        return attn.to_out[0](joined[:, :positions]), context


@contextmanager
def replaced_processors(denoiser: Any, processor: Callable[[str, Attention], Any]) -> Iterator[None]:
    """What ``processor(path, layer)`` gives takes the place of a layer's own, unless it is None, until the end.

    Args:
        denoiser: any of diffusers, with `attn_processors` and `set_attn_processor`.
    """
    original = dict(denoiser.attn_processors)
    replaced = dict(original)
    for name, module in denoiser.named_modules():
        if isinstance(module, Attention):
            replaced[f"{name}.processor"] = processor(name, module) or module.processor
    denoiser.set_attn_processor(replaced)
    try:
        yield
    finally:
        denoiser.set_attn_processor(original)


@contextmanager
def eager_attention(denoiser: UNet2DConditionModel | SD3Transformer2DModel, layers: Layers) -> Iterator[Store]:
    """Replace the processors of a denoiser's text-reading layers, or of all; they come back at the end."""
    store = Store()

    def processor(name: str, module: Attention) -> EagerProcessor | EagerJointProcessor | None:
        if module.add_q_proj is not None:
            return EagerJointProcessor(store, name, layers)
        return EagerProcessor(store, name) if module.is_cross_attention or layers == "all" else None

    with replaced_processors(denoiser, processor):
        yield store
