"""Where prompts come from, and the table of samples that a cache of them holds."""

from __future__ import annotations

import hashlib
import itertools
from collections.abc import Iterable
from dataclasses import dataclass, replace
from pathlib import Path

import pandas as pd

from probe_lab.cache import shard_layout
from probe_lab.cache.layout import SAMPLES
from probe_lab.cache.samples import IMAGE_ID, load_samples
from probe_lab.config import Experiment, Prompts, load_experiment
from probe_lab.data.canonical import canonical, meaning
from probe_lab.data.splits import splits_of
from probe_lab.errors import ConfigError
from probe_lab.generation.caption_sources import SOURCES
from probe_lab.generation.prompt_choice import PromptSet, choose_prompts
from probe_lab.generation.prompt_sources import SUFFIXES, file_captions
from probe_lab.generation.prompt_text import Caption

__all__ = [
    "PromptSet",
    "choose_prompts",
    "collect_prompts",
    "excluded_meanings",
    "read_prompts",
    "sample_seed",
    "sample_table",
]


def collect_prompts(prompts: Prompts, seed: int) -> PromptSet:
    """The prompts of an experiment with the seed ``seed``, in the order of their source unless shuffled.

    Raises:
        ConfigError: the source cannot be read or holds no prompt, or ``prompts.exclude`` names something else.
    """
    return _collected(prompts, seed, _Excluding({}))


def read_prompts(prompts: Prompts, seed: int) -> list[str]:
    """The prompts of :func:`collect_prompts` alone."""
    return list(collect_prompts(prompts, seed).prompts)


@dataclass(frozen=True)
class _Excluding:
    """Prompts of the experiments that were read, by name, since several may exclude the same one; and ``within``, those
    whose ``prompts.exclude`` led here."""

    read: dict[str, tuple[str, ...]]
    within: tuple[str, ...] = ()


def _collected(prompts: Prompts, seed: int, excluding: _Excluding) -> PromptSet:
    excluded = _meanings(prompts, excluding)
    source = SOURCES.get(prompts.source)
    captions = source.captions(prompts, seed)
    if source.is_endless:
        return _first(captions, prompts.count, excluded)
    chosen = choose_prompts(captions, prompts.count, seed if prompts.shuffle else None, excluded)
    if not chosen.prompts:
        place = f"prompts.path '{prompts.path}'" if prompts.path else f"prompts.source={prompts.source}"
        raise ConfigError(
            f"{place} holds no prompt{' that is not excluded' if chosen.excluded else ''}: write "
            "one per line of a text, row of a table or annotation of a COCO file"
        )
    return chosen


def excluded_meanings(prompts: Prompts) -> set[str]:
    """What the prompts say that ``prompts.exclude`` names. ConfigError where an entry names nothing."""
    return _meanings(prompts, _Excluding({}))


def _meanings(prompts: Prompts, excluding: _Excluding) -> set[str]:
    return {meaning(prompt) for entry in prompts.exclude for prompt in _named_by(entry, prompts, excluding)}


def _first(captions: Iterable[Caption], count: int, excluded: set[str]) -> PromptSet:
    """The first ``count`` captions of an endless source, whose captions differ, that say nothing of ``excluded``."""
    prompts: list[str] = []
    passed_over = 0
    for caption in captions:
        if len(prompts) == count:
            break
        if excluded and meaning(caption.text) in excluded:
            passed_over += 1
        else:
            prompts.append(caption.text)
    return PromptSet(tuple(prompts), excluded=passed_over)


def _named_by(entry: str, prompts: Prompts, excluding: _Excluding) -> Iterable[str]:
    """The prompts that an entry of ``prompts.exclude`` stands for: ``shapes:SEED:COUNT``, a file, a cache, or an
    experiment."""
    path = Path(entry).expanduser()
    if entry.startswith("shapes:"):
        seed, count = _seed_and_count(entry)
        return (caption.text for caption in itertools.islice(SOURCES.get("shapes").captions(prompts, seed), count))
    if (path / SAMPLES).is_file():
        return load_samples(path / SAMPLES)["prompt"].unique()
    if path.suffix.lower() in SUFFIXES:
        read = replace(prompts, source="file", path=entry, per_image="all", split="")
        return (caption.text for caption in file_captions(path, read))
    return _of_experiment(entry, excluding)


def _of_experiment(name: str, excluding: _Excluding) -> tuple[str, ...]:
    if name in excluding.within:
        raise ConfigError(f"'prompts.exclude' leads from '{name}' back to itself: leave one of the entries out")
    if name not in excluding.read:
        try:
            experiment = load_experiment(name)
        except ConfigError as error:
            raise ConfigError(
                f"'prompts.exclude' names '{name}', which is no file of prompts, cache folder, shapes:SEED:COUNT or "
                f"experiment ({error})"
            ) from error
        inner = replace(excluding, within=(*excluding.within, name))
        excluding.read[name] = _collected(experiment.prompts, experiment.seed, inner).prompts
    return excluding.read[name]


def _seed_and_count(entry: str) -> tuple[int, int]:
    _, *numbers = entry.split(":")
    if len(numbers) != 2 or not all(number.isdecimal() for number in numbers):
        raise ConfigError(
            f"'prompts.exclude' names '{entry}': write shapes:SEED:COUNT, shapes:0:2000 for the first 2000 captions of "
            "the experiment seed 0"
        )
    return int(numbers[0]), int(numbers[1])


def sample_seed(prompt: str, index: int, seed: int) -> int:
    """The generator seed of a prompt's ``index``-th sample, below 2³¹.

    It depends on the prompt's canonical form: were seeds shared, the same few noises would stand in every split, and a
    probe could learn by heart which of them is lucky.
    """
    digest = hashlib.sha256(f"{seed}\n{index}\n{canonical(prompt)}".encode()).digest()
    return int.from_bytes(digest[:4], "big") >> 1


def sample_table(experiment: Experiment) -> pd.DataFrame:
    """``samples.parquet`` of an experiment: prompt-major, whole prompts per shard."""
    chosen = collect_prompts(experiment.prompts, experiment.seed)
    seeds = experiment.prompts.seeds
    splits = splits_of(prompt_table(chosen), experiment.data.split)
    rows = [
        (prompt_id * seeds + index, prompt_id, prompt, sample_seed(prompt, index, experiment.seed), splits[prompt_id])
        for prompt_id, prompt in enumerate(chosen.prompts)
        for index in range(seeds)
    ]
    table = pd.DataFrame(rows, columns=["sample_id", "prompt_id", "prompt", "seed", "split"])
    table["shard"], table["row"] = shard_layout(len(table), seeds, experiment.cache.shard_size)
    if any(chosen.image_ids):
        table[IMAGE_ID.name] = [image for image in chosen.image_ids for _ in range(seeds)]
    return table


def prompt_table(chosen: PromptSet) -> pd.DataFrame:
    """A row per prompt, with the image that it describes where the source names images."""
    images = {IMAGE_ID.name: list(chosen.image_ids)} if any(chosen.image_ids) else {}
    return pd.DataFrame({"prompt": list(chosen.prompts), **images})
