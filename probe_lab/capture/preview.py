"""The strongest simple rival of a probe: decode the predicted x₀ and let the evaluator score that preview."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
from torch import Tensor

from probe_lab.capture.pipelines import load_pipeline
from probe_lab.config import Experiment
from probe_lab.evaluators import create, score_all

Previewer = Callable[[Tensor, list[str], Sequence[str]], Tensor]
"""(x0 [n, C, h, w], prompts, evaluators) -> scores, float32 [n, evaluators]."""


def preview_scorer(experiment: Experiment, batch_size: int = 64) -> Previewer:
    """A function that decodes clean latents with the backbone's autoencoder and scores the pictures.

    Raises:
        CaptureError: the backbone cannot be loaded.
    """
    pipe = load_pipeline(experiment.backbone, experiment.sampling)

    @torch.no_grad()
    def score(x0: Tensor, prompts: list[str], evaluators: Sequence[str]) -> Tensor:
        judges = [create(name) for name in evaluators]
        parts: list[Tensor] = []
        for start in range(0, len(x0), batch_size):
            latents = x0[start : start + batch_size].to(pipe.vae.device, pipe.vae.dtype)
            decoded = pipe.vae.decode(latents / pipe.vae.config.scaling_factor).sample
            images = pipe.image_processor.postprocess(decoded, output_type="pil")
            scores = score_all(judges, images, prompts[start : start + batch_size])
            parts.append(torch.stack([scores[name] for name in evaluators], 1))
        return torch.cat(parts)

    return score
