"""A small cache with a planted signal: one number per sample that sets its score and shows in every tap."""

from __future__ import annotations

import io
from pathlib import Path

import numpy as np
import pandas as pd
import torch
from PIL import Image

from probe_lab.cache import Cache, CacheWriter, Manifest, shard_layout, write_scores
from probe_lab.data import SplitFractions, split_of

PROMPTS, SEEDS, TOKENS, WIDTH = 120, 6, 5, 12
TAPS = {"up/attention": (TOKENS, 8, 8), "mid/activation": (6, 8, 8), "x0": (4, 16, 16), "latent": (4, 16, 16)}
FRACTIONS = SplitFractions(0.7, 0.1, 0.2)


def _arrays(signal: torch.Tensor, mask: torch.Tensor, generator: torch.Generator) -> dict[str, torch.Tensor]:
    """Raw arrays that show ``signal`` [n]: sharper attention, a brighter corner, a shifted latent.

    They show other things too that vary as much and mean nothing, so that an untrained probe does not see the
    signal.
    """

    def noise(*shape: int) -> torch.Tensor:
        return torch.randn(len(signal), *shape, generator=generator)

    spread = torch.exp(0.5 * signal)[:, None, None]
    maps = torch.softmax(noise(TOKENS, 64) * spread, dim=2).view(-1, TOKENS, 8, 8) * mask[:, :, None, None]
    activation = 3 + 2 * noise(6, 8, 8)
    activation[:, 2, :4, :4] += 2 * signal[:, None, None]
    activation[:, 3:, 2:6, 4:] += 2 * noise(3, 1, 1)
    x0 = noise(4, 16, 16)
    x0[:, 1, 8:] += signal[:, None, None]
    x0[:, 2:, :8] += noise(2, 1, 1)
    return {"up/attention": maps, "mid/activation": activation, "x0": x0, "latent": noise(4, 16, 16)}


def make_planted(folder: Path, steps: tuple[int, ...]) -> Cache:
    """Score = difficulty of the prompt (in its text) + signal of the sample (in the taps, less of it at earlier steps);
    ``other`` is its negative."""
    count = PROMPTS * SEEDS
    prompt_id = np.arange(count) // SEEDS
    prompts = [f"planted prompt {index}" for index in range(PROMPTS)]
    shard, row = shard_layout(count, SEEDS, 120)
    samples = pd.DataFrame(
        {
            "sample_id": np.arange(count),
            "prompt_id": prompt_id,
            "prompt": [prompts[index] for index in prompt_id],
            "seed": 100 + np.arange(count),
            "split": [split_of(prompts[index], FRACTIONS) for index in prompt_id],
            "shard": shard,
            "row": row,
        }
    )
    manifest = Manifest(
        name=folder.name,
        backbone="tiny-sd",
        scheduler="ddim",
        steps=25,
        guidance=2.0,
        height=64,
        width=64,
        dtype="float32",
        cache_dtype="float16",
        shard_size=120,
        captured_steps=steps,
        taps=dict(TAPS),
        prompts_sha256="00",
        seeds=SEEDS,
        count=count,
        seed=0,
        code_version="0",
    )
    generator = torch.Generator().manual_seed(7)
    difficulty = torch.randn(PROMPTS, generator=generator)
    signal = torch.randn(count, generator=generator)
    lengths = torch.randint(3, TOKENS + 1, (PROMPTS, 1), generator=generator)
    mask = torch.arange(TOKENS)[None] < lengths
    buffer = io.BytesIO()
    Image.new("RGB", (4, 4)).save(buffer, "PNG")

    writer = CacheWriter(folder, manifest, samples)
    for index in writer.pending():
        ids = torch.from_numpy(writer.samples_of(index)["sample_id"].to_numpy().copy())
        stored = {
            f"{step}/{tap}": array
            for step in steps
            for tap, array in _arrays(signal[ids] * step / 5, mask[ids // SEEDS], generator).items()
        }
        writer.write_shard(index, stored, [buffer.getvalue()] * len(ids), mask[ids // SEEDS])
    tokens = torch.randn(PROMPTS, TOKENS, WIDTH, generator=generator)
    embedding = torch.randn(PROMPTS, WIDTH, generator=generator)
    embedding[:, 0] = 3 * difficulty
    writer.write_text("backbone", {"embedding": embedding, "tokens": tokens, "token_mask": mask})
    score = (difficulty[prompt_id] + signal).numpy()
    for name, values in {"good": 5 + 2 * score, "other": -score}.items():
        write_scores(folder, name, np.arange(count), values, metadata={"version": "1"})
    return Cache(folder)
