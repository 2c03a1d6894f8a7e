"""A preview as a probe: the evaluator's score of a decoded latent, unchanged. Nothing is trained."""

from __future__ import annotations

from probe_lab.data.scalars import Scalar
from probe_lab.probes.kinds import PREVIEW
from probe_lab.probes.probe import Probe
from probe_lab.probes.spec import ProbeSpec


def preview_probe(*scalars: str, step: int, total_steps: int, backbone: str = "") -> Probe:
    """Predicts, at the 1-based ``step`` of ``total_steps``, what each of ``scalars`` is.

    ``preview:<evaluator>`` is the score of the picture that the predicted x₀ decodes to: the baseline ``x0_preview``.
    ``lookahead:<evaluator>`` is that of the lookahead, which takes one more denoiser call.

    Raises:
        ConfigError: a scalar of another form.
    """
    evaluators = tuple(Scalar.parse(scalar).evaluator for scalar in scalars)
    return Probe(ProbeSpec(PREVIEW, {}, evaluators, step, total_steps, backbone=backbone, scalars=scalars)).eval()
