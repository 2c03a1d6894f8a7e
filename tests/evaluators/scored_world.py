"""A small real cache of shapes, and an evaluator that counts what it does."""

from __future__ import annotations

import io
import random
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pandas as pd
import torch
from PIL import Image
from torch import Tensor

from probe_lab.cache import CacheWriter, Manifest, shard_layout
from probe_lab.evaluators import Evaluator
from probe_lab.shapes.captions import sample_scene
from probe_lab.shapes.render import render

PROMPTS, SEEDS = 5, 2
COUNT = PROMPTS * SEEDS


class Mean(Evaluator):
    """The image's mean; NaN for the images listed in ``broken``. Counts the images that it sees."""

    family, version, preprocessing = "mean", "1", "none"

    def __init__(self, name: str = "mean") -> None:
        self.name = name
        self.seen = self.prepared = 0
        self.broken: set[int] = set()

    def prepare(self, image: Image.Image) -> Image.Image:
        self.prepared += 1
        return image

    def score(self, images: Sequence[Image.Image], prompts: Sequence[str]) -> Tensor:
        values = []
        for image in images:
            values.append(float("nan") if self.seen in self.broken else float(np.asarray(image).mean()))
            self.seen += 1
        return torch.tensor(values)


def png(picture: np.ndarray) -> bytes:
    file = io.BytesIO()
    Image.fromarray(picture).save(file, "PNG")
    return file.getvalue()


def fill(folder: Path, shards: Sequence[int], broken: Sequence[int] = (), seeds: int = 0) -> dict[int, np.ndarray]:
    """Write ``shards`` of a cache of 3 (4 + 4 + 2 samples): the pictures of all samples, by sample_id.

    The files of ``broken`` ones are cut short. ``seeds`` is the first seed.
    """
    rng = random.Random(0)
    scenes = [sample_scene(rng) for _ in range(PROMPTS)]
    shard, row = shard_layout(COUNT, SEEDS, 4)
    samples = pd.DataFrame(
        {
            "sample_id": np.arange(COUNT),
            "prompt_id": np.repeat(np.arange(PROMPTS), SEEDS),
            "prompt": [scene.caption for scene in scenes for _ in range(SEEDS)],
            "seed": seeds + np.arange(COUNT),
            "split": "train",
            "shard": shard,
            "row": row,
        }
    )
    # Every second picture is of another caption, so that the scores vary.
    pictures = {i: render(scenes[(i // SEEDS + i % 2) % PROMPTS], rng) for i in range(COUNT)}
    manifest = Manifest(
        name="test", backbone="tiny-sd", scheduler="ddim", steps=2, guidance=1.0, height=64, width=64,
        dtype="float32", cache_dtype="float16", shard_size=4, captured_steps=(1,), taps={"x0": (1, 1, 1)},
        prompts_sha256="0", seeds=SEEDS, count=COUNT, seed=0, code_version="test",
    )  # fmt: skip
    writer = CacheWriter(folder, manifest, samples)
    for number in shards:
        rows = samples[samples["shard"] == number]
        images = [png(pictures[i])[: 40 if i in broken else None] for i in rows["sample_id"]]
        writer.write_shard(number, {"1/x0": torch.zeros(len(rows), 1, 1, 1)}, images)
    return pictures
