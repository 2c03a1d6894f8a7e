"""`probe-lab cache info`: what is in a cache."""

from __future__ import annotations

import math
from collections import Counter
from pathlib import Path

import numpy as np
from rich.table import Table
from rich.text import Text

from probe_lab.cache.faults import FAULT_WORDS
from probe_lab.cache.layout import PREVIEWED, judged_steps, scored_previews
from probe_lab.cache.reader import Cache

_NO_ID = "none: its files are from before they carried one, and only what else they say is compared"


def describe(folder: Path | str) -> dict[str, object]:
    """What `cache info` prints, from the small files only. CacheError when the folder is not such a cache."""
    cache = Cache(folder)
    manifest, done = cache.manifest, cache.complete_samples
    keys, item = manifest.keys(), manifest.array_dtype.itemsize
    files = [path for path in cache.folder.rglob("*") if path.is_file()]
    return {
        "name": manifest.name,
        "format_version": manifest.format_version,
        "backbone": manifest.backbone,
        "scheduler": manifest.scheduler,
        "steps": manifest.steps,
        "captured_steps": list(manifest.captured_steps),
        "taps": {tap: list(shape) for tap, shape in sorted(manifest.taps.items())},
        "cache_dtype": manifest.cache_dtype,
        "prompts": int(cache.samples["prompt_id"].nunique()),
        "seeds": manifest.seeds,
        "samples": len(cache.samples),
        "complete_samples": len(done),
        "images": len(done) if manifest.has_images else 0,
        "faults": dict(Counter(FAULT_WORDS[fault] for fault in cache.faults.values())),
        "splits": {str(name): int(count) for name, count in cache.samples["split"].value_counts().items()},
        "shards": int(cache.samples["shard"].nunique()),
        "complete_shards": len(cache.shards),
        "bytes": sum(path.stat().st_size for path in files),
        "bytes_per_key": {key: len(done) * math.prod(manifest.shape(key)) * item for key in keys},
        "evaluators": {name: _scored(cache, name) for name in cache.evaluators()},
        "previews": {
            str(step) if latent == PREVIEWED[0] else f"{step}/{latent}": ", ".join(cache.previewed(step, latent))
            for step, latent in scored_previews(cache.folder)
        },
        "labels": _labels(cache),
        "judges": judged_steps(cache.folder),
        "text_encoders": cache.text_encoders(),
        "code_version": manifest.code_version,
        "cache_id": cache.identity.id if cache.identity.carried else _NO_ID,
    }


def info_table(folder: Path | str) -> Table:
    """What ``describe`` finds, as a terminal table."""
    facts = describe(folder)
    table = Table(title=Text(str(folder)), title_justify="left", show_header=False)
    for name, value in facts.items():
        if name == "taps" or (name in ("faults", "labels", "judges") and not value):
            continue
        if isinstance(value, dict):
            shown = [(key, _size(size) if name == "bytes_per_key" else str(size)) for key, size in value.items()]
            text = "\n".join(f"{key}  {size}" for key, size in shown) or "none yet"
        elif isinstance(value, list):
            text = ", ".join(map(str, value)) or "none"
        else:
            text = _size(value) if name == "bytes" else str(value)
        table.add_row(name.replace("_", " "), Text(text))
    return table


def _size(value: object) -> str:
    assert isinstance(value, int)
    return f"{value / 1e6:,.1f} MB"


def _labels(cache: Cache) -> dict[str, str]:
    """The altered captions, the evaluators that scored each step's previews, or the images, under them, and how often
    the images were noised again."""
    labels = cache.labels
    if not labels.exist:
        return {}
    prompts = len(labels.captions) // labels.width
    captions = f"{labels.width - 1} altered of each of {prompts} prompts ({labels.settings.get('alter', 'unknown')})"
    renoised = {"renoised": str(len(labels.renoised_counts))} if labels.renoised_counts else {}
    return {"captions": captions} | {str(of): ", ".join(names) for of, names in labels.scored.items()} | renoised


def _scored(cache: Cache, evaluator: str) -> int:
    """Samples that have a score. ScoreError for a file that is damaged or another's."""
    return int((~np.isnan(cache.scores(evaluator))).sum())
