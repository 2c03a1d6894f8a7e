"""Where prompts come from, and the table of samples that a cache of them holds."""

from __future__ import annotations

import hashlib
import itertools
from pathlib import Path

import pandas as pd

from probe_lab.cache import shard_layout
from probe_lab.config import Experiment, Prompts
from probe_lab.data.splits import split_of
from probe_lab.errors import ConfigError
from probe_lab.shapes.captions import sample_captions

CAPTION_SEED = 1_000_000
"""Experiments draw their captions from other seeds than the tiny backbones' training pictures."""


def read_prompts(prompts: Prompts, seed: int) -> list[str]:
    """At most ``prompts.count`` distinct prompts, in the order of their source.

    Raises:
        ConfigError: the file is missing or holds no prompt.
    """
    if prompts.source == "shapes":
        return list(itertools.islice(sample_captions(CAPTION_SEED + seed), prompts.count))
    try:
        lines = Path(prompts.path).read_text(encoding="utf-8").splitlines()
    except OSError as error:
        raise ConfigError(
            f"prompts.path '{prompts.path}' cannot be read ({error.strerror}): name a text file"
        ) from error
    distinct = list(dict.fromkeys(line.strip() for line in lines if line.strip()))
    if not distinct:
        raise ConfigError(f"prompts.path '{prompts.path}' holds no prompt: write one per line")
    return distinct[: prompts.count]


def sample_seed(prompt: str, index: int, seed: int) -> int:
    """The generator seed of a prompt's ``index``-th sample, below 2³¹.

    It depends on the prompt: were seeds shared, the same few noises would stand in every split, and a probe could
    learn by heart which of them is lucky.
    """
    digest = hashlib.sha256(f"{seed}\n{index}\n{prompt}".encode()).digest()
    return int.from_bytes(digest[:4], "big") >> 1


def sample_table(experiment: Experiment) -> pd.DataFrame:
    """``samples.parquet`` of an experiment: prompt-major, whole prompts per shard."""
    prompts = read_prompts(experiment.prompts, experiment.seed)
    seeds = experiment.prompts.seeds
    splits = [split_of(prompt, experiment.data.split) for prompt in prompts]
    rows = [
        (prompt_id * seeds + index, prompt_id, prompt, sample_seed(prompt, index, experiment.seed), splits[prompt_id])
        for prompt_id, prompt in enumerate(prompts)
        for index in range(seeds)
    ]
    table = pd.DataFrame(rows, columns=["sample_id", "prompt_id", "prompt", "seed", "split"])
    table["shard"], table["row"] = shard_layout(len(table), seeds, experiment.cache.shard_size)
    return table
