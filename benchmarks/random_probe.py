"""A probe of the default size with random weights: its time does not depend on them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import torch
from torch import Tensor

from benchmarks.backbones import STEP, STEPS
from probe_lab.probes import Probe, ProbeSpec
from probe_lab.probes.spec import JUDGED


def random_probe(features: Mapping[str, Tensor], text: Mapping[str, Tensor], evaluators: Sequence[str]) -> Probe:
    """A cnn that reads taps and a prompt of these shapes, [n, …] each, at a fifth of the steps; with a picture judge
    where the tap that those read is among them."""
    embedding, tokens = text["embedding"], text["tokens"]
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        return Probe(
            ProbeSpec(
                "cnn",
                {tap: (tensor.shape[1], tensor.shape[2], tensor.shape[3]) for tap, tensor in features.items()},
                tuple(evaluators),
                STEP,
                STEPS,
                text="tokens",
                text_dim=embedding.shape[1],
                token_dim=tokens.shape[2],
                tokens=tokens.shape[1],
                judge=JUDGED in features,
            )
        ).eval()
