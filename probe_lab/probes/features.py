"""The encoders of the baselines: the prompt alone, pooled features, and the entropy of attention."""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn

from probe_lab.probes.inputs import Inputs, Standardise, pooled
from probe_lab.probes.spec import ProbeSpec


class PromptEncoder(nn.Module):
    """Pooled text embedding and mean token embedding through an MLP; blind to the seed.

    Computed once per prompt and then spread over its samples, so predictions are exactly constant within a
    prompt.
    """

    def __init__(self, spec: ProbeSpec) -> None:
        super().__init__()
        self.text_norm = nn.LayerNorm(spec.text_dim)
        self.token_norm = nn.LayerNorm(spec.token_dim)
        self.layers = nn.Sequential(
            nn.Linear(spec.text_dim + spec.token_dim, 2 * spec.embedding),
            nn.SiLU(),
            nn.Dropout(spec.dropout),
            nn.Linear(2 * spec.embedding, spec.embedding),
        )

    def forward(self, inputs: Inputs) -> Tensor:
        """``[B, embedding]``."""
        assert inputs.text is not None
        assert inputs.tokens is not None
        assert inputs.token_mask is not None
        real = inputs.token_mask[:, :, None]
        mean = (self.token_norm(inputs.tokens.float()) * real).sum(dim=1) / real.sum(dim=1)
        return inputs.spread(self.layers(torch.cat([self.text_norm(inputs.text.float()), mean], dim=1)))


class PooledFeatures(nn.Module):
    """Mean, standard deviation and maximum over space of every standardised channel; no weights."""

    def __init__(self, spec: ProbeSpec) -> None:
        super().__init__()
        self.taps = list(spec.taps)
        self.standardise = nn.ModuleList([Standardise(shape[0]) for shape in spec.taps.values()])
        self.size = 3 * sum(shape[0] for shape in spec.taps.values())

    def forward(self, inputs: Inputs) -> Tensor:
        """``[B, 3·ΣC]``."""
        layers = zip(self.standardise, self.taps, strict=True)
        return torch.cat([pooled(layer(inputs.features[tap])) for layer, tap in layers], dim=1)


class AttentionEntropy(nn.Module):
    """How spread out each tap's attention is: per token the entropy over space, averaged over real tokens; no
    weights.

    A map is divided by its sum first; entropies are over log(H·W), so 1 is uniform and 0 a single position.
    """

    def __init__(self, spec: ProbeSpec) -> None:
        super().__init__()
        self.taps = list(spec.taps)
        self.size = len(self.taps)

    def forward(self, inputs: Inputs) -> Tensor:
        """``[B, taps]``."""
        return torch.stack([self._entropy(inputs, tap) for tap in self.taps], dim=1)

    @staticmethod
    def _entropy(inputs: Inputs, tap: str) -> Tensor:
        maps = inputs.features[tap].flatten(2).float().clamp_min(0)
        share = maps / maps.sum(dim=2, keepdim=True).clamp_min(torch.finfo(torch.float32).tiny)
        entropy = -torch.xlogy(share, share).sum(dim=2) / math.log(maps.shape[2])
        real = inputs.mask([tap])
        return (entropy * real).sum(dim=1) / real.sum(dim=1)
