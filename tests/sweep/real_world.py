"""A real, tiny cache with a planted score, and an experiment over it."""

from __future__ import annotations

import base64
from pathlib import Path

import numpy as np
import pandas as pd
import torch
from omegaconf import OmegaConf

from probe_lab.cache import CacheWriter, Manifest, shard_layout, write_scores
from probe_lab.config import Experiment, build_experiment
from probe_lab.data import SplitFractions, split_of

PROMPTS, SEEDS, TOKENS = 24, 4, 3
TAPS = {"up/attention": (TOKENS, 8, 8), "mid/activation": (4, 8, 8), "latent": (4, 8, 8), "x0": (4, 8, 8)}
FRACTIONS = {"train": 0.5, "val": 0.25, "test": 0.25}
PNG = base64.b64decode("iVBORw0KGgoAAAANSUhEUgAAAAEAAAABCAAAAAA6fptVAAAACklEQVR4nGNgAAAAAgABSK+kcQAAAABJRU5ErkJggg==")


def make_cache(folder: Path) -> None:
    """The cache "tiny" in ``folder``/data_cache: a sample's score is the mean of its x0 and shows in its activation."""
    count = PROMPTS * SEEDS
    prompt_id = np.arange(count) // SEEDS
    prompts = [f"a red circle, number {value}" for value in range(PROMPTS)]
    shard, row = shard_layout(count, SEEDS, 32)
    samples = pd.DataFrame(
        {
            "sample_id": np.arange(count),
            "prompt_id": prompt_id,
            "prompt": [prompts[value] for value in prompt_id],
            "seed": np.arange(count),
            "split": [split_of(prompts[value], SplitFractions(**FRACTIONS)) for value in prompt_id],
            "shard": shard,
            "row": row,
        }
    )
    manifest = Manifest(
        name="tiny", backbone="tiny-sd", scheduler="ddim", steps=25, guidance=2.0, height=64, width=64,
        dtype="float32", cache_dtype="float32", shard_size=32, captured_steps=(1, 5), taps=dict(TAPS),
        prompts_sha256="00", seeds=SEEDS, count=count, seed=0, code_version="0",
    )  # fmt: skip
    generator = torch.Generator().manual_seed(3)
    score = torch.randn(count, generator=generator)
    arrays = {f"{s}/{tap}": torch.randn(count, *TAPS[tap], generator=generator) for s in (1, 5) for tap in TAPS}
    for step in (1, 5):
        arrays[f"{step}/up/attention"] = arrays[f"{step}/up/attention"].flatten(2).softmax(2).view(-1, TOKENS, 8, 8)
        arrays[f"{step}/mid/activation"][:, 0] += score[:, None, None]
        arrays[f"{step}/x0"] = score[:, None, None, None].expand(count, *TAPS["x0"]).contiguous()
    writer = CacheWriter(folder / "data_cache" / "tiny", manifest, samples)
    for number in writer.pending():
        ids = writer.samples_of(number)["sample_id"].tolist()
        mask = torch.ones(len(ids), TOKENS, dtype=torch.bool)
        writer.write_shard(number, {key: a[ids].contiguous() for key, a in arrays.items()}, [PNG] * len(ids), mask)
    text = torch.randn(PROMPTS, TOKENS, 8, generator=generator)
    mask = torch.ones(PROMPTS, TOKENS, dtype=torch.bool)
    writer.write_text("backbone", {"embedding": text.mean(1), "tokens": text, "token_mask": mask})
    for name in ("good", "other"):
        metadata = {"version": "1"}
        write_scores(folder / "data_cache" / "tiny", name, np.arange(count), score.numpy(), metadata=metadata)


def make_experiment(root: Path, runs: Path) -> Experiment:
    """A sweep of every model over that cache."""
    content = {
        "name": "tiny",
        "backbone": "tiny-sd",
        "prompts": {"count": PROMPTS, "seeds": SEEDS},
        "capture": {"steps": [1, 5], "taps": list(TAPS)},
        "evaluators": ["good", "other"],
        "data": {"batch_prompts": 4, "split": FRACTIONS},
        "probe": {"taps": ["mid/activation"], "width": 8, "depth": 1, "embedding": 8, "text": "pooled"},
        "trainer": {"max_epochs": 2},
        "tracking": {"uri": ""},
        "runs": str(runs),
        "cache": {"root": str(root / "data_cache")},
        "sweep": [
            {"probe.step": [1, 5], "probe.taps": ["mid/activation", "x0"]},
            {"probe.model": ["prompt_only", "noisy_latent", "linear", "x0_preview", "shuffled_labels"]},
            {"probe.model": ["attention_entropy"], "probe.taps": ["up/attention"]},
        ],
    }
    return build_experiment(OmegaConf.create(content), OmegaConf.create({}))
