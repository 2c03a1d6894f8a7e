"""Where prompts come from, and the table of samples that a cache of them holds."""

from __future__ import annotations

import hashlib
import itertools
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

import pandas as pd

from probe_lab.cache import shard_layout
from probe_lab.capture.prompt_hub import hub_files
from probe_lab.capture.prompt_sources import file_captions, parquet_captions
from probe_lab.config import Experiment, Prompts
from probe_lab.data.splits import split_of
from probe_lab.errors import ConfigError
from probe_lab.shapes.captions import sample_captions

CAPTION_SEED = 1_000_000
"""Experiments draw their captions from other seeds than the tiny backbones' training pictures."""


@dataclass(frozen=True)
class PromptSet:
    """Distinct prompts, none empty, and how many captions of the source did not become one.

    ``left_out`` counts the distinct prompts beyond ``prompts.count``.
    """

    prompts: tuple[str, ...]
    empty: int = 0
    duplicates: int = 0
    left_out: int = 0

    def note(self, wanted: int) -> str:
        """One line for the terminal; empty when the source gave what was asked for and nothing was dropped."""
        dropped = [f"{n} {what}" for n, what in ((self.empty, "empty"), (self.duplicates, "duplicate")) if n]
        parts = [f"dropped {' and '.join(dropped)}"] if dropped else []
        if len(self.prompts) < wanted:
            parts.append(f"the source has no more (prompts.count={wanted})")
        elif self.left_out and parts:
            parts.append(f"{self.left_out} more left out")
        return f"prompts: {len(self.prompts)} kept, {', '.join(parts)}" if parts else ""


def collect_prompts(prompts: Prompts, seed: int) -> PromptSet:
    """The prompts of an experiment with the seed ``seed``, in the order of their source unless shuffled.

    Raises:
        ConfigError: the source cannot be read or holds no prompt.
    """
    if prompts.source == "shapes":
        return PromptSet(tuple(itertools.islice(sample_captions(CAPTION_SEED + seed), prompts.count)))
    chosen = choose_prompts(_captions(prompts), prompts.count, seed if prompts.shuffle else None)
    if not chosen.prompts:
        raise ConfigError(
            f"prompts.path '{prompts.path}' holds no prompt: write one per line of a text, row of a table "
            "or annotation of a COCO file"
        )
    return chosen


def read_prompts(prompts: Prompts, seed: int) -> list[str]:
    """The prompts of :func:`collect_prompts` alone."""
    return list(collect_prompts(prompts, seed).prompts)


def choose_prompts(captions: Iterable[str], count: int, shuffle: int | None = None) -> PromptSet:
    """At most ``count`` distinct captions, the first of each, in their order or in one that ``shuffle`` seeds.

    White space is one blank everywhere, as text encoders read it: the same caption must not be in two splits.
    """
    cleaned = [" ".join(caption.split()) for caption in captions]
    filled = [caption for caption in cleaned if caption]
    distinct = list(dict.fromkeys(filled))
    if shuffle is not None:
        # By a hash of each prompt: which ones are drawn does not depend on how the source is ordered.
        distinct.sort(key=lambda prompt: hashlib.sha256(f"shuffle\n{shuffle}\n{prompt}".encode()).digest())
    return PromptSet(
        prompts=tuple(distinct[:count]),
        empty=len(cleaned) - len(filled),
        duplicates=len(filled) - len(distinct),
        left_out=max(0, len(distinct) - count),
    )


def _captions(prompts: Prompts) -> list[str]:
    if prompts.source == "hub":
        files = hub_files(prompts.path, prompts.split, prompts.revision)
        return [caption for file in files for caption in parquet_captions(file, prompts.column, prompts.per_image)]
    return file_captions(Path(prompts.path).expanduser(), prompts.column, prompts.per_image)


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
