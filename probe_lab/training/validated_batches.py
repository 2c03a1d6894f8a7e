"""What a trained probe says of validation batches, beside what is true of them: read once, for all who ask."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

import torch
from torch import Tensor

from probe_lab.data import Batch
from probe_lab.probes.inputs import Inputs
from probe_lab.probes.probe import Probe


@dataclass(frozen=True, eq=False)
class Validated:
    """Samples ``ids`` [n] of prompts ``prompt`` [n] with raw ``scores`` [n, E], the probe's own ``prediction`` [n, E],
    standardised, and what its judge answers, ``judged`` [n, 2E]; that is [n, 0] of a probe without one."""

    ids: Tensor
    prompt: Tensor
    scores: Tensor
    prediction: Tensor
    judged: Tensor

    @classmethod
    @torch.no_grad()
    def of(cls, probe: Probe, batches: Iterable[Batch]) -> Validated:
        rows = []
        for batch in batches:
            inputs = Inputs.of(batch)
            prediction = probe(inputs).prediction
            judged = prediction[:, :0] if probe.judge is None else probe.judged(inputs)
            rows.append((batch.sample_id, batch.group, batch.targets, prediction, judged))
        return cls(*(torch.cat(column) for column in zip(*rows, strict=True)))
