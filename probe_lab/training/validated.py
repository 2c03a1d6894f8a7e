"""What a trained probe says of validation batches, beside what is true of them."""

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
    """Samples ``ids`` [n] of prompts ``prompt`` [n] with standardised ``target`` [n, E], the probe's own ``prediction``
    [n, E], and what its judge answers, ``judged`` [n, 2E]; that is [n, 0] of a probe without one."""

    ids: Tensor
    prompt: Tensor
    target: Tensor
    prediction: Tensor
    judged: Tensor

    @classmethod
    @torch.no_grad()
    def of(cls, probe: Probe, batches: Iterable[Batch], labels: Tensor | None = None) -> Validated:
        """``labels`` ``[samples, E]`` replace the scores."""
        rows = []
        for batch in batches:
            inputs = Inputs.of(batch)
            prediction = probe(inputs).prediction
            judged = prediction[:, :0] if probe.judge is None else probe.judged(inputs)
            target = probe.standardised(batch.targets if labels is None else labels[batch.sample_id])
            rows.append((batch.sample_id, batch.group, target, prediction, judged))
        return cls(*(torch.cat(column) for column in zip(*rows, strict=True)))
