"""What a probe is given for one batch, and how raw arrays are standardised."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from probe_lab.data import Batch

LIMIT = 10.0
"""Standardised values are cut here: a channel that was almost constant in training may be anything later."""


@dataclass(frozen=True)
class Inputs:
    """One batch without its targets: B samples of P prompts.

    ``features`` maps tap strings to ``[B, C, H, W]`` (raw values, any float dtype); ``step`` is ``[B]``
    int64, 1-based. Text comes once per prompt, ``prompt`` ``[B]`` int64 saying which row is whose: ``text``
    ``[P, D]``, ``tokens`` ``[P, L, D]`` and ``token_mask`` ``[P, L]`` bool (False: padding). All may be None
    where the probe does not need them. Without a mask, tokens whose attention is zero everywhere count as
    padding. ``scalars`` are raw numbers ``[B, S]``, in the order of the spec's; where a picture judge has scored these
    samples before, its scores stand behind them.
    """

    features: Mapping[str, Tensor]
    step: Tensor
    prompt: Tensor | None = None
    text: Tensor | None = None
    tokens: Tensor | None = None
    token_mask: Tensor | None = None
    scalars: Tensor | None = None

    @classmethod
    def of(cls, batch: Batch) -> Inputs:
        """Of a batch of the data module, whose text is repeated for every sample of a prompt."""
        if batch.text is None:
            return cls(batch.features, batch.step, scalars=batch.scalars)
        prompts, prompt = torch.unique(batch.group, return_inverse=True)
        first = torch.empty_like(prompts).scatter_(0, prompt, torch.arange(len(prompt), device=prompt.device))

        def once(values: Tensor | None) -> Tensor | None:
            return None if values is None else values.index_select(0, first)

        text = (once(batch.text), once(batch.tokens), once(batch.token_mask))
        return cls(batch.features, batch.step, prompt, *text, batch.scalars)

    def spread(self, values: Tensor) -> Tensor:
        """``[P, …]`` to ``[B, …]``."""
        return values if self.prompt is None else values.index_select(0, self.prompt)

    def mask(self, taps: list[str]) -> Tensor:
        """``[B, L]`` bool: which tokens are real."""
        tokens = self.features[taps[0]].shape[1] if taps else None
        if self.token_mask is not None and tokens in (None, self.token_mask.shape[1]):
            return self.spread(self.token_mask)
        # No mask, or that of another tokenizer.
        return torch.stack([self.features[tap].flatten(2).any(dim=2) for tap in taps]).any(dim=0)


def pooled(values: Tensor) -> Tensor:
    """``[B, C, H, W]`` to ``[B, 3C]``: mean, standard deviation and maximum over space of every channel."""
    flat = values.flatten(2)
    mean = flat.mean(dim=2, keepdim=True)
    # torch.std takes six times as long on a CPU.
    deviation = torch.linalg.vector_norm(flat - mean, dim=2) / math.sqrt(flat.shape[2])
    return torch.cat([mean.squeeze(2), deviation, flat.amax(dim=2)], dim=1)


class Standardise(nn.Module):
    """Per-channel standardisation of ``[B, C, H, W]`` by training statistics, which are buffers."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.register_buffer("mean", torch.zeros(channels, 1, 1))
        self.register_buffer("scale", torch.ones(channels, 1, 1))
        self.mean: Tensor
        self.scale: Tensor

    def fit(self, mean: Tensor, std: Tensor) -> None:
        """Take ``mean`` and ``std`` ``[C]``; a constant channel (padding) is only centred."""
        self.mean.copy_(mean[:, None, None])
        self.scale.copy_(torch.where(std > 1e-7, 1 / std.clamp_min(1e-7), 1.0)[:, None, None])

    def forward(self, values: Tensor) -> Tensor:
        return ((values.float() - self.mean) * self.scale).clamp(-LIMIT, LIMIT)
