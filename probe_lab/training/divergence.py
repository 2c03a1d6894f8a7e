"""What a training that diverged is told as, wherever it is first seen."""

from __future__ import annotations

from probe_lab.errors import ProbeError


def diverged(model: str, learning_rate: float, temperature: float) -> ProbeError:
    """The error for predictions that are not finite."""
    return ProbeError(
        f"{model} predicts values that are not finite: lower trainer.learning_rate ({learning_rate}) or raise the "
        f"temperature ({temperature})"
    )
