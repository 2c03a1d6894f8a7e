"""What decoding a preview takes, counted on autoencoders that have shapes and no numbers."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import diffusers
import torch
from diffusers import AutoencoderKL, AutoencoderTiny, ModelMixin

from probe_lab.backbones.families import located
from probe_lab.config import Experiment, Sampling
from probe_lab.flop_counter import OperationCounter

_CHANNELS = {"sd": 4, "sdxl": 4, "pixart-sigma": 4, "sd3": 16, "flux": 16}
"""Channels of the latents of families whose autoencoder is that of Stable Diffusion, whatever model it is."""


def preview_note(experiment: Experiment) -> str:
    """A line on what a preview takes by ``scoring.preview_decoder`` and by the backbone's own autoencoder; "" where no
    tiny one is named, or where its architecture is not known."""
    source = experiment.scoring.preview_decoder
    family, _ = located(experiment.backbone)
    tiny, own = _tiny(source, _CHANNELS.get(family.name)) if source else None, decoder_flops(experiment)
    if own is None or tiny is None:
        return ""
    prices = [decode_flops(tiny, experiment.sampling), own]
    return (
        f"A preview of {experiment.sampling.height}×{experiment.sampling.width} takes {prices[0] / 1e12:,.3f} TFLOP by "
        f"{source} ({prices[0] / prices[1]:.1%} of the {prices[1] / 1e12:,.3f} TFLOP of the backbone's autoencoder)."
    )


def decoder_flops(experiment: Experiment) -> float | None:
    """Operations of decoding a preview by the backbone's own autoencoder; None where its architecture is not known."""
    family, path = located(experiment.backbone)
    own = _own(path, _CHANNELS.get(family.name))
    return None if own is None else decode_flops(own, experiment.sampling)


def decode_flops(model: ModelMixin, sampling: Sampling) -> float:
    """Operations of decoding one latent to a picture of ``sampling.height`` × ``sampling.width``."""
    config: Any = model.config
    factor = 2 ** (len(config.get("block_out_channels") or config.decoder_block_out_channels) - 1)
    latent = torch.empty(1, config.latent_channels, sampling.height // factor, sampling.width // factor, device="meta")
    with torch.no_grad(), OperationCounter() as counter:
        model.decode(latent)
    return float(counter.total)


def _own(path: str, channels: int | None) -> ModelMixin | None:
    folder = Path(path) / "vae"
    if folder.is_dir():
        config = AutoencoderKL.load_config(folder)
        return _weightless(getattr(diffusers, config["_class_name"]), config) if "latent_channels" in config else None
    blocks = ("{}EncoderBlock2D", "{}DecoderBlock2D")
    down, up = ([name.format(word)] * 4 for name, word in zip(blocks, ("Down", "Up"), strict=True))
    published = {
        "down_block_types": down,
        "up_block_types": up,
        "block_out_channels": [128, 256, 512, 512],
        "layers_per_block": 2,
        "latent_channels": channels,
    }
    return _weightless(AutoencoderKL, published) if channels else None


def _tiny(source: str, channels: int | None) -> ModelMixin | None:
    if Path(source).is_dir():
        return _weightless(AutoencoderTiny, AutoencoderTiny.load_config(source))
    return _weightless(AutoencoderTiny, {"latent_channels": channels}) if channels else None


def _weightless(kind: type[ModelMixin], config: dict[str, Any]) -> ModelMixin:
    with torch.device("meta"):
        model: ModelMixin = kind.from_config(config)
    return model
