"""Caches of made-up arrays for measurements of reading."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path

import numpy as np
import pandas as pd
from torch import Tensor

from probe_lab.cache import CacheWriter, Manifest, shard_layout, write_scores

PNG = b"\x89PNG\r\n\x1a\n"
"""An image for caches whose images nothing reads."""


def no_images(ids: list[int]) -> list[bytes]:
    return [PNG] * len(ids)


def write_made_up(
    folder: Path,
    *,
    taps: Mapping[str, tuple[int, ...]],
    steps: tuple[int, ...],
    count: int,
    seeds: int,
    shard_size: int,
    arrays: Callable[[list[int]], Mapping[str, Tensor]],
    images: Callable[[list[int]], list[bytes]] = no_images,
) -> None:
    """A complete float16 cache of ``count`` training samples with the scores of one evaluator, "score".

    ``arrays`` gives, for the sample ids of a shard, every cache key's [n, C, H, W], and ``images`` their PNGs.
    """
    shard, row = shard_layout(count, seeds, shard_size)
    prompt = np.arange(count) // seeds
    samples = pd.DataFrame(
        {
            "sample_id": np.arange(count),
            "prompt_id": prompt,
            "prompt": [f"prompt {value}" for value in prompt],
            "seed": np.arange(count),
            "split": "train",
            "shard": shard,
            "row": row,
        }
    )
    manifest = Manifest(
        name=folder.name,
        backbone="none",
        scheduler="none",
        steps=25,
        guidance=1.0,
        height=64,
        width=64,
        dtype="float32",
        cache_dtype="float16",
        shard_size=shard_size,
        captured_steps=steps,
        taps=dict(taps),
        prompts_sha256="",
        seeds=seeds,
        count=count,
        seed=0,
        code_version="benchmark",
    )
    writer = CacheWriter(folder, manifest, samples)
    for number in writer.pending():
        ids = writer.samples_of(number)["sample_id"].tolist()
        writer.write_shard(number, arrays(ids), images(ids))
    write_scores(folder, "score", np.arange(count), np.linspace(0, 1, count), metadata={})
