"""One process's share of a generation: run the pipeline under ``Capture`` and write whole shards."""

from __future__ import annotations

from collections.abc import Generator, Iterable
from dataclasses import dataclass
from functools import partial

import pandas as pd
import torch
from diffusers import DiffusionPipeline
from torch import Tensor

from probe_lab import __version__
from probe_lab.backbones.family import has_patterns
from probe_lab.cache import IMAGES, CacheWriter, Manifest
from probe_lab.cache.faults import Fault, no_picture
from probe_lab.cache.identity import prompts_sha256
from probe_lab.cache.text_blocks import complete_text, in_blocks, rows_of
from probe_lab.capture.capture import Capture
from probe_lab.capture.text_embeddings import ENCODER, stored_text
from probe_lab.config import Experiment
from probe_lab.errors import CaptureError
from probe_lab.generation.sampling import png, sample_pictures, sample_tensors
from probe_lab.taps import Tap


@dataclass(frozen=True)
class Png:
    """An image as it is stored, and its fault, if it has one."""

    data: bytes
    fault: Fault | None = None


@dataclass(frozen=True)
class DrawnBatch:
    """Images of some samples (none with ``capture.images=false``), what was captured of them by step and tap,
    [samples, ...] each, and their token mask."""

    images: list[Png]
    captured: dict[tuple[int, Tap], Tensor]
    mask: Tensor | None


Drawn = dict[tuple[int, ...], DrawnBatch]
"""Batches that were drawn before and are still to be stored, by the ids of their samples."""


def fill_shards(
    experiment: Experiment, pipe: DiffusionPipeline, writer: CacheWriter, shards: Iterable[int], drawn: Drawn
) -> Generator[int]:
    """Generate and store ``shards``; yields the images of every batch, while a shard's last ones are not stored yet."""
    with capture_of(experiment, pipe) as capture:
        for shard in shards:
            samples = writer.samples_of(shard)
            arrays, images, mask = yield from _run(experiment, pipe, capture, samples, drawn)
            faults = {row: image.fault for row, image in enumerate(images) if image.fault is not None}
            if faults and len(faults) == len(writer.samples):
                raise no_picture(writer.folder, list(faults.values()))  # a cache of one shard: nothing is stored
            writer.write_shard(shard, arrays, [image.data for image in images], mask, faults)


def fill_text(experiment: Experiment, pipe: DiffusionPipeline, writer: CacheWriter) -> None:
    """Encode and store the text of all prompts, unless it is there."""
    prompts = writer.samples.drop_duplicates("prompt_id")["prompt"].tolist()
    encode = partial(stored_text, pipe, experiment.sampling, length=experiment.capture.tokens)
    complete_text(writer.folder, ENCODER, in_blocks(rows_of(prompts)), encode, metadata={})


def capture_of(experiment: Experiment, pipe: DiffusionPipeline) -> Capture:
    """The capture that an experiment asks for."""
    wanted = experiment.capture
    return Capture(pipe, wanted.taps, wanted.steps, normalize=wanted.normalize, tokens=wanted.tokens, size=wanted.size)


def _run(
    experiment: Experiment,
    pipe: DiffusionPipeline,
    capture: Capture,
    samples: pd.DataFrame,
    drawn: Drawn,
) -> Generator[int, None, tuple[dict[str, Tensor], list[Png], Tensor | None]]:
    """Arrays by cache key, images and token mask of some samples, in their order; yields images of each batch."""
    arrays: dict[str, Tensor] = {}
    images: list[Png] = []
    masks: list[Tensor] = []
    size = experiment.sampling.batch_size
    for start in range(0, len(samples), size):
        batch = samples.iloc[start : start + size]
        made = drawn.pop(ids_of(batch), None) or draw(experiment, pipe, capture, batch)
        images += made.images
        for (step, tap), tensor in made.captured.items():
            key = f"{step}/{tap}"
            if key not in arrays:
                arrays[key] = tensor.new_empty(len(samples), *tensor.shape[1:])
            _require_shape(key, tensor, arrays[key])
            arrays[key][start : start + len(batch)] = tensor
        if made.mask is not None:
            masks.append(made.mask)
            _require_shape("token_mask", masks[-1], masks[0])
        del made  # its tensors would stay while the next batch is drawn
        yield len(batch)
    return arrays, images, torch.cat(masks) if masks else None


def _require_shape(key: str, tensor: Tensor, before: Tensor) -> None:
    if tensor.shape[1:] != before.shape[1:]:
        raise CaptureError(
            f"'{key}' is {list(tensor.shape[1:])} in one batch and {list(before.shape[1:])} in another: the pipeline "
            "pads each batch to its longest prompt, so set capture.tokens"
        )


def ids_of(samples: pd.DataFrame) -> tuple[int, ...]:
    """What a batch of them is known by."""
    return tuple(samples["sample_id"].tolist())


def draw(experiment: Experiment, pipe: DiffusionPipeline, capture: Capture, samples: pd.DataFrame) -> DrawnBatch:
    """One pipeline call, up to the last captured step with ``capture.images=false``."""
    images: list[Png] = []
    if experiment.capture.images:
        pictures = sample_pictures(experiment.sampling, pipe, samples)
        images = [Png(png(picture.image), picture.fault) for picture in pictures]
    else:
        sample_tensors(experiment.sampling, pipe, samples, max(experiment.capture.steps))
    count = len(samples)  # the call may have had more rows
    captured = {key: tensor[:count] for key, tensor in capture.items()}
    return DrawnBatch(images, captured, None if capture.token_mask is None else capture.token_mask[:count])


def manifest_of(experiment: Experiment, shapes: dict[str, tuple[int, ...]], samples: pd.DataFrame) -> Manifest:
    """The manifest that a cache of this experiment has; ``shapes`` maps a tap to its [C, H, W]."""
    sampling = experiment.sampling
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
        prompts_sha256=prompts_sha256(samples),
        seeds=experiment.prompts.seeds,
        count=len(samples),
        seed=experiment.seed,
        code_version=__version__,
        extra=_further_settings(experiment),
    )


def _further_settings(experiment: Experiment) -> dict[str, str]:
    """What else makes another cache, as far as it is not the default: caches from before these keys still agree."""
    sampling, capture = experiment.sampling, experiment.capture
    settings: dict[str, tuple[object, object]] = {
        IMAGES: (capture.images, True),
        "capture.taps": (", ".join(capture.taps) if has_patterns(capture.taps) else "", ""),
        "capture.normalize": (capture.normalize, "all"),
        "capture.tokens": (capture.tokens, 0),
        "capture.size": (capture.size, 0),
        "sampling.max_sequence_length": (sampling.max_sequence_length, 0),
        "sampling.safety_checker": (sampling.safety_checker, True),
        "sampling.vae_tiling": (sampling.vae_tiling, False),
        "sampling.vae_slicing": (sampling.vae_slicing, False),
    }
    return {key: _text(value) for key, (value, default) in settings.items() if value != default}


def _text(value: object) -> str:
    return str(value).lower() if isinstance(value, bool) else str(value)
