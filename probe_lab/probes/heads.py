"""From the embedding u to one standardised score per evaluator."""

from __future__ import annotations

from torch import Tensor, nn

from probe_lab.probes.spec import ProbeSpec


class MLPHead(nn.Module):
    """SiLU, dropout, and one hidden layer: ``[B, embedding]`` to ``[B, E]``."""

    def __init__(self, spec: ProbeSpec) -> None:
        super().__init__()
        self.layers = nn.Sequential(
            nn.SiLU(),
            nn.Dropout(spec.dropout),
            nn.Linear(spec.embedding, spec.embedding),
            nn.SiLU(),
            nn.Linear(spec.embedding, len(spec.evaluators)),
        )

    def forward(self, embedding: Tensor) -> Tensor:
        prediction: Tensor = self.layers(embedding)
        return prediction
