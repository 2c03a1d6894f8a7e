"""Pictures to train on: distinct captions, each drawn once, from a seed."""

from __future__ import annotations

import itertools
import random
from concurrent.futures import ProcessPoolExecutor

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from probe_lab.shapes.captions import parse_caption, sample_captions
from probe_lab.shapes.render import SIZE, render


def _draw_all(job: tuple[list[str], int]) -> NDArray[np.uint8]:
    captions, seed = job
    rng = random.Random(seed)
    return np.stack([render(parse_caption(caption), rng) for caption in captions])


def picture_pool(count: int, seed: int, workers: int) -> tuple[list[str], Tensor]:
    """``count`` captions and their pictures, uint8 [count, 3, SIZE, SIZE]; the same for any number of workers."""
    captions = list(itertools.islice(sample_captions(seed), count))
    chunk = 1000
    jobs = [(captions[i : i + chunk], seed + 1 + i) for i in range(0, count, chunk)]
    pictures = torch.empty(count, 3, SIZE, SIZE, dtype=torch.uint8)
    with ProcessPoolExecutor(workers) as pool:
        for start, drawn in zip(range(0, count, chunk), pool.map(_draw_all, jobs), strict=True):
            pictures[start : start + len(drawn)] = torch.from_numpy(drawn).permute(0, 3, 1, 2)
    return captions, pictures


def to_model_range(pictures: Tensor) -> Tensor:
    """uint8 0..255 to float32 -1..1."""
    return pictures.float() / 127.5 - 1.0
