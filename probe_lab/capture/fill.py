"""One process's share of a generation: run the pipeline under ``Capture`` and write whole shards."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Sequence

import pandas as pd
import torch
from diffusers import DiffusionPipeline
from torch import Tensor

from probe_lab import __version__
from probe_lab.cache import CacheWriter, Manifest
from probe_lab.capture.capture import Capture
from probe_lab.capture.sampling import png, sample_images
from probe_lab.config import Experiment


def fill_shards(
    experiment: Experiment,
    pipe: DiffusionPipeline,
    writer: CacheWriter,
    shards: Sequence[int],
    advance: Callable[[int], None],
) -> None:
    """Generate and store ``shards``; ``advance(images)`` after every batch."""
    with Capture(pipe, experiment.capture.taps, experiment.capture.steps) as capture:
        for shard in shards:
            samples = writer.samples_of(shard)
            arrays, images, mask = _run(experiment, pipe, capture, samples, advance)
            writer.write_shard(shard, arrays, images, mask)


def _run(
    experiment: Experiment,
    pipe: DiffusionPipeline,
    capture: Capture,
    samples: pd.DataFrame,
    advance: Callable[[int], None],
) -> tuple[dict[str, Tensor], list[bytes], Tensor | None]:
    """Arrays by cache key, PNG images and token mask of some samples, in their order."""
    arrays: dict[str, Tensor] = {}
    images: list[bytes] = []
    masks: list[Tensor] = []
    size = experiment.sampling.batch_size
    for start in range(0, len(samples), size):
        batch = samples.iloc[start : start + size]
        images += [png(image) for image in sample_images(experiment.sampling, pipe, batch)]
        for (step, tap), tensor in capture.items():
            key = f"{step}/{tap}"
            if key not in arrays:
                arrays[key] = tensor.new_empty(len(samples), *tensor.shape[1:])
            arrays[key][start : start + len(batch)] = tensor[: len(batch)]
        if capture.token_mask is not None:
            masks.append(capture.token_mask[: len(batch)])
        advance(len(batch))
    return arrays, images, torch.cat(masks) if masks else None


def manifest_of(experiment: Experiment, shapes: dict[str, tuple[int, ...]], samples: pd.DataFrame) -> Manifest:
    """The manifest that a cache of this experiment has; ``shapes`` maps a tap to its [C, H, W]."""
    sampling = experiment.sampling
    prompts = samples.drop_duplicates("prompt_id")["prompt"]
    return Manifest(
        name=experiment.cache_folder.name,
        backbone=experiment.backbone.label,
        scheduler=sampling.scheduler,
        steps=sampling.steps,
        guidance=sampling.guidance,
        height=sampling.height,
        width=sampling.width,
        dtype=sampling.dtype,
        cache_dtype=experiment.cache.dtype,
        shard_size=experiment.cache.shard_size,
        captured_steps=tuple(sorted(set(experiment.capture.steps))),
        taps=shapes,
        prompts_sha256=hashlib.sha256("\n".join(prompts).encode()).hexdigest(),
        seeds=experiment.prompts.seeds,
        count=len(samples),
        seed=experiment.seed,
        code_version=__version__,
    )
