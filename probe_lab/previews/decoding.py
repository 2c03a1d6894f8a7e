"""The strongest simple rival of a probe: decode the predicted x₀ and let the evaluator score that preview."""

from __future__ import annotations

import functools
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from typing import Protocol, cast

import torch
import torch.nn.functional as F
from diffusers import AutoencoderTiny, DiffusionPipeline, ModelMixin
from PIL.Image import Image
from torch import Tensor

from probe_lab.backbones.pipelines import load_pipeline
from probe_lab.capture.no_pictures import finite_rows
from probe_lab.config import Experiment, Scoring
from probe_lab.errors import ScoreError
from probe_lab.evaluators import Evaluator, create, is_known, score_all
from probe_lab.previews.tiny_decoder import load_tiny, tiny_pixels


class Previewer(Protocol):
    """Decodes and scores clean latents."""

    def __call__(self, x0: Tensor, prompts: list[str], evaluators: Sequence[str], *, tiny: bool = False) -> Tensor:
        """Of x0 [n, C, h, w] the scores, float32 [n, evaluators]; NaN where x0 decodes to no picture. ``tiny``: decoded
        by ``scoring.preview_decoder``."""


_LATENTS_AT_ONCE = 2**16
"""Places of latents that are decoded together: four pictures of 1024 × 1024, at most 64 small ones."""


def preview_scorer(experiment: Experiment) -> Previewer:
    """A function that decodes clean latents with the backbone's autoencoder and scores the pictures.

    Raises:
        CaptureError: the backbone cannot be loaded.
        ScoreError: when it is called, for an evaluator that was imported.
    """
    # Decoded outside a pipeline call, where nothing would bring an offloaded autoencoder back.
    pipe = load_pipeline(experiment.backbone, replace(experiment.sampling, offload="none"))
    return previewer(pipe, experiment.scoring)


def previewer(
    pipe: DiffusionPipeline, scoring: Scoring | None = None, evaluators: Iterable[str | Evaluator] = ()
) -> Previewer:
    """The same with a pipeline that is there. ``evaluators`` are made now, where they are named only, others when they
    are first needed; all stay.

    ``scoring.preview_decoder`` is loaded when it is first needed, onto the device of the backbone's autoencoder and in
    its number format.

    ScoreError as in ``preview_evaluator``, and of the returned function as in ``tiny_pixels``; ConfigError as in
    ``load_tiny``.
    """
    ready = [preview_evaluator(each, scoring) if isinstance(each, str) else each for each in evaluators]
    made = {each.name: each for each in ready}

    @functools.cache
    def tiny_model() -> AutoencoderTiny:
        return load_tiny((scoring or Scoring()).preview_decoder, pipe.vae.dtype).to(pipe._execution_device)

    def score(x0: Tensor, prompts: list[str], evaluators: Sequence[str], *, tiny: bool = False) -> Tensor:
        for name in evaluators:
            if name not in made:
                made[name] = preview_evaluator(name, scoring)
        judges = [made[name] for name in evaluators]
        parts: list[Tensor] = []
        for rows in decoded_together(x0):
            pixels = tiny_pixels(tiny_model(), x0[rows]) if tiny else decoded_pixels(pipe, x0[rows])
            scores = score_all(judges, as_images(pipe, pixels), prompts[rows])
            columns = torch.stack([scores[name] for name in evaluators], 1)
            parts.append(torch.where(finite_rows(pixels)[:, None], columns, torch.nan))
        return torch.cat(parts)

    return score


def preview_evaluator(name: str, scoring: Scoring | None = None) -> Evaluator:
    """An evaluator that can score new pictures. ScoreError for one whose scores were imported."""
    if not is_known(name):
        raise ScoreError(
            f"previews are pictures of their own, and the scores of '{name}' were imported: leave x0_preview or "
            f"preview:{name} out, or name evaluators that can run"
        )
    return create(name, scoring)


def decoded_together(x0: Tensor) -> Iterator[slice]:
    """The rows of clean latents [n, C, h, w], as many at a time as fit in memory."""
    size = min(64, max(1, _LATENTS_AT_ONCE // (x0.shape[-2] * x0.shape[-1])))
    yield from (slice(start, start + size) for start in range(0, len(x0), size))


def pictures(pipe: DiffusionPipeline, x0: Tensor) -> list[Image]:
    """What the pipeline would make of clean latents [n, C, h, w]."""
    return as_images(pipe, decoded_pixels(pipe, x0))


def as_images(pipe: DiffusionPipeline, pixels: Tensor) -> list[Image]:
    """Pictures of pixels [n, 3, H, W] in −1..1; black where they are NaN."""
    return cast(list[Image], pipe.image_processor.postprocess(torch.nan_to_num(pixels, nan=-1.0), output_type="pil"))


@torch.no_grad()
def decoded_pixels(pipe: DiffusionPipeline, x0: Tensor) -> Tensor:
    """Pixels [n, 3, H, W] in −1..1 of clean latents [n, C, h, w], as the pipeline decodes them."""
    with wide_enough(pipe.vae) as vae:
        return decoded(vae, x0.to(pipe._execution_device, vae.dtype))


@contextmanager
def wide_enough(vae: ModelMixin) -> Iterator[ModelMixin]:
    """An autoencoder in float32 where it gives NaN in float16, as pipelines do; afterwards it is as before."""
    too_narrow = vae.dtype == torch.float16 and vae.config.get("force_upcast", False)
    if too_narrow:
        vae.to(torch.float32)
    try:
        yield vae
    finally:
        if too_narrow:
            vae.to(torch.float16)


@torch.no_grad()
def decoded(vae: ModelMixin, latent: Tensor) -> Tensor:
    """Pixels [n, 3, H, W] in −1..1 of a latent [n, C, h, w] as the scheduler has it.

    Autoencoders normalise their latents in four ways: by a factor and a shift; by a factor and per channel (those of
    Playground v2.5 for SDXL); per channel (Qwen-Image, whose latents are films of one picture); or per channel of 2×2
    patches, by a batch norm (FLUX.2).
    """
    if getattr(vae, "bn", None) is not None:
        patches = F.pixel_unshuffle(latent, 2)
        std = (vae.bn.running_var + vae.config.batch_norm_eps).sqrt()
        plain = F.pixel_shuffle(patches * std[:, None, None] + vae.bn.running_mean[:, None, None], 2)
        return cast(Tensor, vae.decode(plain).sample)
    moments = [vae.config.get(f"latents_{name}") for name in ("mean", "std")]
    if all(moments):
        mean, std = (torch.tensor(moment).flatten().to(latent)[:, None, None] for moment in moments)
        if "z_dim" in vae.config:
            return cast(Tensor, vae.decode((latent * std + mean)[:, :, None]).sample[:, :, 0])
        return cast(Tensor, vae.decode(latent * std / vae.config.scaling_factor + mean).sample)
    shift = vae.config.get("shift_factor") or 0.0
    return cast(Tensor, vae.decode(latent / vae.config.scaling_factor + shift).sample)
