"""What the denoiser predicts of finished pictures that are noised again: one guided call gives what a sampler gives
after as many calls as there are steps before."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import ExitStack
from dataclasses import dataclass

import numpy as np
import pandas as pd
import torch
from diffusers import DiffusionPipeline
from PIL.Image import Image
from torch import Tensor

from probe_lab.backbones.families import family_of
from probe_lab.capture.capture import Capture
from probe_lab.capture.entry import entered_at
from probe_lab.config import Sampling
from probe_lab.errors import CaptureError
from probe_lab.generation.sampling import filled, stopped_after
from probe_lab.previews.encoding import encoded_pictures

MADE_BY = "1"
"""Raised whenever the same picture and seed may give another x0."""


@dataclass(frozen=True)
class Noise:
    """At which step a picture is noised, and the seed of all that is drawn for it."""

    step: int
    seed: int


def noise_of(seed: int, prompt: int, sample: int, number: int, steps: Sequence[int]) -> Noise:
    """Noise ``number`` of a sample of a prompt in an experiment with this ``seed``.

    The step, one of ``steps`` each as likely, is the same for all samples of the prompt: they are ranked among each
    other.
    """
    of_prompt, of_sample = (np.random.default_rng((seed, number, *place)) for place in ((0, prompt), (1, sample)))
    return Noise(sorted(steps)[of_prompt.integers(len(steps))], int(of_sample.integers(2**63)))


def renoised_x0(
    sampling: Sampling,
    pipe: DiffusionPipeline,
    samples: pd.DataFrame,
    images: Sequence[Image],
    seeds: Sequence[int],
    step: int,
) -> Tensor:
    """The x0 predictions [n, C, h, w] of pictures that are encoded and noised as at ``step``, each under its prompt.

    ``samples`` and ``seeds`` have a row for each picture. On the CPU none depends on the others. In shape, dtype and
    guidance they are what a capture of a generation has at that step.

    Raises:
        CaptureError: a step that the schedule lacks, pictures of another size than the pipeline draws, or a pipeline
            that begins with other latents than it prepared.
    """
    rows = filled(sampling, samples.reset_index(drop=True))
    generators = [torch.Generator().manual_seed(seeds[row]) for row in rows.index]
    clean = encoded_pictures(pipe, [images[row] for row in rows.index], generators)
    noise = torch.stack([torch.randn(clean.shape[1:], generator=own) for own in generators]).to(clean.device)
    options = family_of(pipe).call_options(sampling, rows["prompt"].tolist()) | {"generator": generators}
    with ExitStack() as stack:
        capture = stack.enter_context(Capture(pipe, ["latent", "x0"], [1]))
        entry = stack.enter_context(entered_at(pipe, step, clean, noise))
        stack.enter_context(stopped_after(pipe, 1))
        pipe(**options)
    # NaN, of an autoencoder say, is found where the x0 is stored.
    given = capture[1, "", "latent"].float().nan_to_num()
    if entry.sample is None or not torch.equal(given, entry.sample.cpu().float().nan_to_num()):
        raise CaptureError(
            f"a {type(pipe).__name__} does not begin with the latents that its prepare_latents gives, so pictures "
            "cannot be noised again: set labels.renoised=0"
        )
    return capture[1, "", "x0"][: len(samples)]
