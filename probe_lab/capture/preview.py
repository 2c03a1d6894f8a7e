"""The strongest simple rival of a probe: decode the predicted x₀ and let the evaluator score that preview."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import cast

import torch
import torch.nn.functional as F
from diffusers import ModelMixin
from torch import Tensor

from probe_lab.capture.pipelines import load_pipeline
from probe_lab.config import Experiment
from probe_lab.errors import ScoreError
from probe_lab.evaluators import Evaluator, available, create, score_all

Previewer = Callable[[Tensor, list[str], Sequence[str]], Tensor]
"""(x0 [n, C, h, w], prompts, evaluators) -> scores, float32 [n, evaluators]."""


def preview_scorer(experiment: Experiment, batch_size: int = 64) -> Previewer:
    """A function that decodes clean latents with the backbone's autoencoder and scores the pictures.

    Raises:
        CaptureError: the backbone cannot be loaded.
        ScoreError: when it is called, for an evaluator that was imported.
    """
    # Decoded outside a pipeline call, where nothing would bring an offloaded autoencoder back.
    pipe = load_pipeline(experiment.backbone, replace(experiment.sampling, offload="none"))

    @torch.no_grad()
    def score(x0: Tensor, prompts: list[str], evaluators: Sequence[str]) -> Tensor:
        judges = [_judge(name, experiment) for name in evaluators]
        parts: list[Tensor] = []
        for start in range(0, len(x0), batch_size):
            pixels = decoded(pipe.vae, x0[start : start + batch_size].to(pipe.vae.device, pipe.vae.dtype))
            images = pipe.image_processor.postprocess(pixels, output_type="pil")
            scores = score_all(judges, images, prompts[start : start + batch_size])
            parts.append(torch.stack([scores[name] for name in evaluators], 1))
        return torch.cat(parts)

    return score


def _judge(name: str, experiment: Experiment) -> Evaluator:
    if name.partition("@")[0] not in available():
        raise ScoreError(
            f"x0_preview scores pictures of its own, and the scores of '{name}' were imported: leave x0_preview out, "
            "or name evaluators that can run in probe.evaluators"
        )
    return create(name, experiment.scoring)


@torch.no_grad()
def decoded(vae: ModelMixin, latent: Tensor) -> Tensor:
    """Pixels [n, 3, H, W] in −1..1 of a latent [n, C, h, w] as the scheduler has it.

    Autoencoders normalise their latents in three ways: by a factor and a shift; per channel (Qwen-Image, whose
    latents are films of one picture); or per channel of 2×2 patches, by a batch norm (FLUX.2).
    """
    if getattr(vae, "bn", None) is not None:
        patches = F.pixel_unshuffle(latent, 2)
        std = (vae.bn.running_var + vae.config.batch_norm_eps).sqrt()
        plain = F.pixel_shuffle(patches * std[:, None, None] + vae.bn.running_mean[:, None, None], 2)
        return cast(Tensor, vae.decode(plain).sample)
    if "z_dim" in vae.config:
        mean, std = (torch.tensor(vae.config[f"latents_{name}"]).to(latent) for name in ("mean", "std"))
        film = (latent * std[:, None, None] + mean[:, None, None])[:, :, None]
        return cast(Tensor, vae.decode(film).sample[:, :, 0])
    shift = vae.config.get("shift_factor") or 0.0
    return cast(Tensor, vae.decode(latent / vae.config.scaling_factor + shift).sample)
