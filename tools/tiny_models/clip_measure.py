"""What the small CLIP is worth: does it catch mistakes, and does it rank a prompt's pictures as the exact rewards do.

The folder is read as anyone would read it: by open_clip alone.
"""

from __future__ import annotations

import itertools
import random
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import open_clip
import torch
from PIL import Image
from torch import Tensor
from torch.nn import functional as F

from probe_lab.cache import Cache
from probe_lab.cache.picture import opened
from probe_lab.evaluators import create, score_all
from probe_lab.metrics import Interval, evaluate
from probe_lab.shapes.captions import parse_caption, sample_captions
from probe_lab.shapes.render import draw, place
from tools.tiny_models.mistakes import HELD_OUT, HELD_OUT_SEED, MISTAKES, Mistake, wrong_caption

SEED = 11
"""Of the pictures and mistakes that are measured."""

EXACT = ("shapes_reward", "shapes_presence", "shapes_binding", "shapes_layout", "shapes_fidelity")


@dataclass(frozen=True)
class Judge:
    """The model, its preprocessing and its tokenizer."""

    model: Any
    preprocess: Any
    tokenizer: Any

    @classmethod
    def load(cls, folder: Path) -> Judge:
        model, preprocess = open_clip.create_model_from_pretrained(f"local-dir:{folder}")
        return cls(model.eval(), preprocess, open_clip.get_tokenizer(f"local-dir:{folder}"))

    @torch.inference_mode()
    def pictures(self, images: Sequence[Image.Image]) -> Tensor:
        """Unit vectors, float32 [n, d]."""
        batches = (images[start : start + 64] for start in range(0, len(images), 64))
        vectors = [self.model.encode_image(torch.stack([self.preprocess(one) for one in batch])) for batch in batches]
        return F.normalize(torch.cat(vectors), dim=1)

    @torch.inference_mode()
    def captions(self, texts: Sequence[str]) -> Tensor:
        """Unit vectors, float32 [n, d]."""
        return F.normalize(self.model.encode_text(self.tokenizer(list(texts))), dim=1)


@dataclass(frozen=True)
class Caught:
    """Share of ``count`` pictures whose caption scores above the same caption with a mistake."""

    share: float
    count: int


def mistakes_caught(judge: Judge, captions: int) -> dict[Mistake, Caught]:
    """For captions that training never saw, each with a fresh picture and every mistake that can be made in it."""
    rng = random.Random(SEED)
    found: dict[Mistake, list[tuple[int, str]]] = {mistake: [] for mistake in MISTAKES}
    texts = _held_out(captions)
    images = []
    for row, text in enumerate(texts):
        scene = parse_caption(text)
        placed = place(scene, rng)
        images.append(Image.fromarray(draw(placed)))
        for mistake in MISTAKES:
            if wrong := wrong_caption(scene, placed, mistake, rng):
                found[mistake].append((row, wrong.caption))
    pictures, right = judge.pictures(images), judge.captions(texts)
    cosine = (pictures * right).sum(1)
    caught = {}
    for mistake, cases in found.items():
        if cases:  # an object that stands twice is no caption
            rows = torch.tensor([row for row, _ in cases])
            other = (pictures[rows] * judge.captions([text for _, text in cases])).sum(1)
            caught[mistake] = Caught(float((cosine[rows] > other).float().mean()), len(cases))
    return caught


def retrieved(judge: Judge, captions: int) -> float:
    """Share of pictures whose own caption scores highest among those of all the others; captions are held out."""
    rng = random.Random(SEED)
    texts = _held_out(captions)
    images = [Image.fromarray(draw(place(parse_caption(text), rng))) for text in texts]
    nearest = (judge.pictures(images) @ judge.captions(texts).T).argmax(1)
    return float((nearest == torch.arange(captions)).float().mean())


def _held_out(count: int) -> list[str]:
    """Spread over the list, whose beginning has more of the short ones."""
    every = itertools.islice(sample_captions(HELD_OUT_SEED), HELD_OUT)
    return list(every)[:: HELD_OUT // count][:count]


def agreement(judge: Judge, cache: Cache, split: str) -> dict[str, Interval]:
    """Mean over prompts of Spearman's correlation among a prompt's pictures, with every exact reward by name."""
    samples = cache.samples[cache.samples["split"] == split]
    decoded = {
        sample: opened(data, cache.manifest.pixels).convert("RGB")
        for shard in sorted(samples["shard"].unique())
        for sample, data in cache.iter_images(shard)
    }
    images, prompts = [decoded[sample] for sample in samples["sample_id"]], samples["prompt"].tolist()
    cosine = (judge.pictures(images) * judge.captions(prompts)).sum(1).numpy()
    exact = score_all([create(name) for name in EXACT], images, prompts)
    ids = samples["prompt_id"].to_numpy()
    return {
        name: evaluate(cosine, reward.numpy(), ids, threshold=float(np.median(reward)))["srcc_within"]
        for name, reward in exact.items()
    }
