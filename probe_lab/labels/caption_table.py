"""The captions under which the training pictures of a cache are scored: made once."""

from __future__ import annotations

import hashlib

import pandas as pd

from probe_lab.cache import Cache
from probe_lab.cache.label_files import Captions, read_captions, write_captions
from probe_lab.config import Experiment
from probe_lab.data.canonical import meaning
from probe_lab.data.splits import splits_of
from probe_lab.errors import CacheError, ConfigError
from probe_lab.labels.alteration import MADE_BY, Alteration, HeldOut, alter


def stored_captions(experiment: Experiment, cache: Cache) -> tuple[Captions, bool]:
    """The captions of the experiment's ``labels``, and whether they had to be made and stored.

    Raises:
        ConfigError: no training prompt, one that has too few other captions, or ``prompts.exclude`` names nothing.
        CacheError: they cannot be written.
    """
    prompts = cache.samples.drop_duplicates("prompt_id")
    trained = (splits_of(prompts, experiment.data.split) == "train").to_numpy()
    if not trained.any():
        raise ConfigError(
            f"the cache {cache.folder} has no training prompts to label (data.split: {experiment.data.split}): raise "
            "data.split.train"
        )
    held_out = {meaning(prompt) for prompt in prompts["prompt"][~trained]}
    settings = _settings(experiment, held_out)
    try:
        stored = read_captions(cache.folder, cache.identity)
    except CacheError:  # none, or they are damaged
        stored = None
    if stored is not None and stored.settings == settings:
        return stored, False
    captions = Captions(_table(experiment, prompts[trained], held_out), settings)
    write_captions(cache.folder, captions, cache.identity)
    return captions, True


def _table(experiment: Experiment, prompts: pd.DataFrame, held_out: set[str]) -> pd.DataFrame:
    altered = alter(
        prompts["prompt"].tolist(),
        experiment.labels.captions,
        _alteration(experiment),
        HeldOut(held_out, experiment.data.split),
        seed=experiment.seed,
    )
    rows = [
        (prompt_id, caption, text, edit)
        for prompt_id, prompt in zip(prompts["prompt_id"].tolist(), prompts["prompt"], strict=True)
        for caption, (text, edit) in enumerate([(prompt, ""), *((other.text, other.edit) for other in altered[prompt])])
    ]
    return pd.DataFrame(rows, columns=["prompt_id", "caption", "prompt", "edit"])


def _alteration(experiment: Experiment) -> Alteration:
    wanted = experiment.labels.alter
    if wanted != "auto":
        return wanted
    return "grammar" if experiment.prompts.source == "shapes" else "words and prompts"


def _settings(experiment: Experiment, held_out: set[str]) -> dict[str, str]:
    """All that decides the captions, beside the cache."""
    return {
        "captions": str(experiment.labels.captions),
        "alter": _alteration(experiment),
        "seed": str(experiment.seed),
        "split": str(experiment.data.split),
        "held_out_sha256": hashlib.sha256("\0".join(sorted(held_out)).encode()).hexdigest(),
        "made_by": MADE_BY,
    }
