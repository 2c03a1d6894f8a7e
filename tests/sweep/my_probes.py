"""Models of a user's own: experiments name them by ``my_probes:Median`` and the like."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from probe_lab.data import Batch
from probe_lab.probes import BY_RIDGE, Fitting, Inputs, ProbeKind, ProbeSpec
from probe_lab.training.fitted import Predictor


def median_of_x0(fitting: Fitting) -> Predictor:
    """The median of the clean latent for every evaluator."""

    def predict(batch: Batch) -> Tensor:
        median = batch.features["x0"].float().flatten(1).median(dim=1).values
        return median[:, None].repeat(1, len(fitting.evaluators))

    return predict


class Extremes(nn.Module):
    """The lowest and the highest value of every channel: ``[B, 2·ΣC]``."""

    def __init__(self, spec: ProbeSpec) -> None:
        super().__init__()
        self.size = 2 * sum(shape[0] for shape in spec.taps.values())

    def forward(self, inputs: Inputs) -> Tensor:
        arrays = [values.float().flatten(2) for values in inputs.features.values()]
        return torch.cat([edge for array in arrays for edge in (array.amin(dim=2), array.amax(dim=2))], dim=1)


class Corner(nn.Module):
    """The means over space of every channel through one layer: ``[B, embedding]``."""

    def __init__(self, spec: ProbeSpec) -> None:
        super().__init__()
        self.layer = nn.Linear(sum(shape[0] for shape in spec.taps.values()), spec.embedding)

    def forward(self, inputs: Inputs) -> Tensor:
        means = [values.float().mean(dim=(2, 3)) for values in inputs.features.values()]
        embedding: Tensor = self.layer(torch.cat(means, dim=1))
        return embedding


Median = ProbeKind("median of x0", fit=median_of_x0, reads=("x0",), seconds=1e-5)
Edges = ProbeKind("extremes", encoder=Extremes, fit=BY_RIDGE)
Mine = ProbeKind("my probe", encoder=Corner, is_baseline=False)
Flat = ProbeKind("flat", fit=lambda fitting: lambda batch: batch.targets[:, 0], reads=("x0",))
no_kind = 3
