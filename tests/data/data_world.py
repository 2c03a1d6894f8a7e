"""Small real caches, written through CacheWriter, whose content the tests know."""

from __future__ import annotations

import base64
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pandas as pd
import torch
from torch import Tensor

from probe_lab.cache import Cache, CacheWriter, Manifest, shard_layout, write_scores
from probe_lab.data import SplitFractions, split_of

STEP = 5
TAPS = {"up.0/attention": (3, 4, 4), "x0": (2, 2, 3)}
PNG = base64.b64decode("iVBORw0KGgoAAAANSUhEUgAAAAEAAAABCAAAAAA6fptVAAAACklEQVR4nGNgAAAAAgABSK+kcQAAAABJRU5ErkJggg==")


@dataclass(frozen=True)
class World:
    """A cache and what was written into it: `arrays` [n, C, H, W] by key, `scores` [n] by evaluator."""

    cache: Cache
    arrays: dict[str, Tensor]
    scores: dict[str, npt.NDArray[np.float32]]
    text: dict[str, Tensor]

    def split(self, split: str, fractions: SplitFractions) -> list[int]:
        """Sample ids of a split, scored or not."""
        frame = self.cache.samples
        keep = [split_of(prompt, fractions) == split for prompt in frame["prompt"]]
        return frame["sample_id"][keep].tolist()


def build_world(
    folder: Path,
    *,
    prompts: int = 30,
    seeds: int = 3,
    shard_size: int = 12,
    missing: tuple[int, ...] = (),
    dtype: str = "float16",
    skip_shards: tuple[int, ...] = (),
    shift: dict[int, float] | None = None,
) -> World:
    """`missing` samples have no score of "quality"; `shift` adds to all features of a sample."""
    count = prompts * seeds
    shard, row = shard_layout(count, seeds, shard_size)
    prompt = np.arange(count) // seeds
    samples = pd.DataFrame(
        {
            "sample_id": np.arange(count),
            "prompt_id": prompt,
            "prompt": [f"a red circle, no {value}" for value in prompt],
            "seed": 1000 + np.arange(count),
            "split": "train",
            "shard": shard,
            "row": row,
        }
    )
    manifest = Manifest(
        name="world",
        backbone="tiny-sd",
        scheduler="ddim",
        steps=25,
        guidance=2.0,
        height=8,
        width=8,
        dtype="float32",
        cache_dtype=dtype,
        shard_size=shard_size,
        captured_steps=(1, STEP),
        taps=TAPS,
        prompts_sha256="00",
        seeds=seeds,
        count=count,
        seed=0,
        code_version="1",
    )
    generator = torch.Generator().manual_seed(1)
    arrays = {}
    for key in manifest.keys():
        arrays[key] = torch.randn((count, *manifest.shape(key)), generator=generator)
        arrays[key][:, 0] = 0.25  # a channel that never changes, as the map of a padding token
        for sample, value in (shift or {}).items():
            arrays[key][sample] += value
        arrays[key] = arrays[key].to(manifest.array_dtype)
    writer = CacheWriter(folder, manifest, samples)
    for number in set(writer.pending()) - set(skip_shards):
        ids = writer.samples_of(number)["sample_id"].tolist()
        writer.write_shard(number, {key: array[ids] for key, array in arrays.items()}, [PNG] * len(ids))
    text = {
        "embedding": torch.randn(prompts, 4, generator=generator).half(),
        "tokens": torch.randn(prompts, 5, 4, generator=generator).half(),
        "token_mask": (torch.arange(5) <= torch.arange(prompts)[:, None] % 5).to(torch.uint8),
    }
    writer.write_text("clip", text)
    rng = np.random.default_rng(0)
    scores = {name: rng.normal(size=count).astype(np.float32) for name in ("quality", "layout")}
    scored = np.setdiff1d(np.arange(count), missing)
    write_scores(folder, "quality", scored, scores["quality"][scored], metadata={"version": "1"})
    write_scores(folder, "layout", np.arange(count), scores["layout"], metadata={"version": "1"})
    return World(Cache(folder), arrays, scores, text)


Build = Callable[..., World]
