"""Images of (prompt, seed) samples from a stock pipeline."""

from __future__ import annotations

import io

import pandas as pd
import torch
from diffusers import DiffusionPipeline
from PIL import Image

from probe_lab.config import Sampling

ROWS = 16
"""A batch is filled up to a multiple of this many rows.

For few rows the CPU's matrix kernels are others, which round differently. From 16 rows on, a row's result no longer
depends on how many there are, so that an image is the same, to the bit, whatever the batch size. GPU kernels make no
such promise.
"""


def sample_images(sampling: Sampling, pipe: DiffusionPipeline, samples: pd.DataFrame) -> list[Image.Image]:
    """The images of some samples; each has its own generator, so it does not depend on the others in the batch.

    A ``Capture`` around the pipeline sees ``len(samples)`` rows rounded up to a multiple of ``ROWS``.
    """
    filled = samples.iloc[[*range(len(samples)), *[-1] * (-len(samples) % ROWS)]]
    # Noise is drawn on the CPU whatever the device: the same seed gives the same image everywhere.
    generators = [torch.Generator().manual_seed(seed) for seed in filled["seed"].tolist()]
    images: list[Image.Image] = pipe(
        filled["prompt"].tolist(),
        num_inference_steps=sampling.steps,
        guidance_scale=sampling.guidance,
        height=sampling.height,
        width=sampling.width,
        generator=generators,
    ).images
    return images[: len(samples)]


def png(image: Image.Image) -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, format="PNG")
    return buffer.getvalue()
