"""Pictures to the latents that a scheduler has of them, as the pipeline's own image-to-image path makes them."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, cast

import torch
import torch.nn.functional as F
from diffusers import DiffusionPipeline, ModelMixin
from PIL.Image import Image
from torch import Tensor

from probe_lab.previews.decoding import wide_enough


def encoded_pictures(pipe: DiffusionPipeline, images: Sequence[Image], generators: Sequence[torch.Generator]) -> Tensor:
    """Clean latents [n, C, h, w], float32 on the pipeline's device; each generator draws for one picture."""
    pixels = pipe.image_processor.preprocess(list(images))
    with wide_enough(pipe.vae) as vae:
        return encoded(vae, pixels.to(pipe._execution_device, vae.dtype), generators).float()


@torch.no_grad()
def encoded(vae: ModelMixin, pixels: Tensor, generators: Sequence[torch.Generator]) -> Tensor:
    """The latent [n, C, h, w] as the scheduler has it of pixels [n, 3, H, W] in −1..1: what ``decoded`` undoes.

    An autoencoder that gives a distribution is drawn from, except that of FLUX.2, of which its pipeline takes the mode.
    """
    if getattr(vae, "bn", None) is not None:
        patches = F.pixel_unshuffle(vae.encode(pixels).latent_dist.mode(), 2)
        std = (vae.bn.running_var + vae.config.batch_norm_eps).sqrt()
        return F.pixel_shuffle((patches - vae.bn.running_mean[:, None, None]) / std[:, None, None], 2)
    moments = [vae.config.get(f"latents_{name}") for name in ("mean", "std")]
    if all(moments):
        mean, std = (torch.tensor(moment).flatten().to(pixels)[:, None, None] for moment in moments)
        if "z_dim" in vae.config:  # a film of one picture
            return (_drawn(vae.encode(pixels[:, :, None]), generators)[:, :, 0] - mean) / std
        return (_drawn(vae.encode(pixels), generators) - mean) * vae.config.scaling_factor / std
    shift = vae.config.get("shift_factor") or 0.0
    return (_drawn(vae.encode(pixels), generators) - shift) * vae.config.scaling_factor


def _drawn(output: Any, generators: Sequence[torch.Generator]) -> Tensor:
    """Of what an autoencoder's ``encode`` returns; some give a latent, and no distribution."""
    drawn = output.latent_dist.sample(list(generators)) if hasattr(output, "latent_dist") else output.latent
    return cast(Tensor, drawn)
