"""Tiny autoencoders (``AutoencoderTiny``, such as ``madebyollin/taesdxl``): previews for a few percent of the price."""

from __future__ import annotations

import hashlib

import torch
from diffusers import AutoencoderTiny
from diffusers.utils import logging
from torch import Tensor

from probe_lab.errors import ConfigError, ScoreError

KEY = "scoring.preview_decoder"


def load_tiny(source: str, dtype: torch.dtype = torch.float32) -> AutoencoderTiny:
    """The tiny autoencoder in a folder or of a hub id, on the CPU.

    Raises:
        ConfigError: ``source`` is empty, or nothing of the kind can be loaded from it.
    """
    if not source:
        raise ConfigError(
            f"a tiny preview is asked for and '{KEY}' is empty: name an AutoencoderTiny of the backbone's latents, a "
            "folder or an id of the hub (madebyollin/taesdxl of SDXL's)"
        )
    level = logging.get_verbosity()
    logging.set_verbosity_error()  # it warns of a key that its own class writes
    try:
        model: AutoencoderTiny = AutoencoderTiny.from_pretrained(source, torch_dtype=dtype)
    except (OSError, ValueError, RuntimeError, AttributeError) as error:
        reason = str(error).strip().partition("\n")[0]
        raise ConfigError(
            f"'{KEY}' is {source}, from which no AutoencoderTiny can be loaded ({reason}): name a folder that "
            f"save_pretrained wrote, or fetch it where there is a network (hf download {source})"
        ) from error
    finally:
        logging.set_verbosity(level)
    return model.eval().requires_grad_(False)


def tiny_identity(source: str, dtype: str) -> str:
    """What previews are made by: where the autoencoder lies, a hash of its weights, and the number format."""
    digest = hashlib.sha256()
    for name, tensor in sorted(load_tiny(source).state_dict().items()):
        digest.update(name.encode())
        digest.update(tensor.numpy().tobytes())
    return f"{source} {digest.hexdigest()[:16]} {dtype}"


@torch.no_grad()
def tiny_pixels(model: AutoencoderTiny, x0: Tensor) -> Tensor:
    """Pixels [n, 3, H, W] in −1..1 of clean latents [n, C, h, w], whose scale is that of the diffusion.

    Raises:
        ScoreError: the latents have another number of channels than the autoencoder's.
    """
    channels = model.config.latent_channels
    if x0.shape[1] != channels:
        raise ScoreError(
            f"'{KEY}' decodes latents of {channels} channels and those of the backbone have {x0.shape[1]}: name the "
            "autoencoder of its family (taesd of Stable Diffusion 1 and 2, taesdxl, taesd3, taef1 of FLUX.1)"
        )
    pixels: Tensor = model.decode(x0.to(model.device, model.dtype)).sample
    return pixels
