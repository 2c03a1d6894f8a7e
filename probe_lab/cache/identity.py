"""Which cache a file belongs to, and what it is there: kept inside each file, compared by whoever opens it."""

from __future__ import annotations

import dataclasses
import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass

import pandas as pd

from probe_lab.cache.manifest import IMAGES, Manifest

PREFIX = "probe_lab."
"""Of the keys of a file's metadata that are ours; the others are the caller's."""
CACHE = PREFIX + "cache"
FILE = PREFIX + "file"
CONTENT = PREFIX + "sha256"
TEXTS = PREFIX + "texts"
"""Of samples.parquet: the text encoders, parted by commas, whose text belongs to the cache."""
_COLUMNS = ("sample_id", "prompt_id", "seed", "shard", "row")


def cache_id(manifest: Manifest, samples: pd.DataFrame) -> str:
    """32 hex digits of what makes the arrays of a cache: its manifest but for its name, the code version and whether
    images were drawn, and its samples but for the split.

    Two processes that fill one cache agree on it, and so does the same command run again.
    """
    facts = dataclasses.asdict(manifest)
    del facts["code_version"], facts["name"]
    facts["extra"].pop(IMAGES, None)
    digest = hashlib.sha256(json.dumps(facts, sort_keys=True).encode())
    for name in _COLUMNS:
        digest.update(samples[name].to_numpy("int64").tobytes())
    digest.update("\0".join(samples["prompt"].tolist()).encode())
    return digest.hexdigest()[:32]


def prompts_sha256(samples: pd.DataFrame) -> str:
    """``prompts_sha256`` of a manifest: of the prompts in their order, a line each."""
    prompts = samples.drop_duplicates("prompt_id")["prompt"]
    return hashlib.sha256("\n".join(prompts.tolist()).encode()).hexdigest()


def is_checksum(text: str) -> bool:
    """Whether it is a SHA-256; caches that are made up by hand have other words in its place, or zeros."""
    return len(text) == 64 and not set(text) - set("0123456789abcdef") and set(text) != {"0"}


@dataclass(frozen=True)
class Identity:
    """``id`` as ``cache_id`` gives it. ``carried``: samples.parquet carries it; the files of older caches carry none,
    and only what else they say is compared."""

    id: str
    carried: bool

    def marks(self, place: str = "") -> dict[str, str]:
        """What a file keeps in its metadata; ``place`` is where it lies in the cache, "" for a file whose sidecar says
        so."""
        return {CACHE: self.id} | ({FILE: place} if place else {})

    def objection(self, metadata: Mapping[str, str], place: str = "") -> str:
        """Why a file with this metadata does not belong at ``place``; "" where nothing says so."""
        if CACHE not in metadata:
            return ""
        if metadata[CACHE] != self.id:
            return f"it belongs to another cache (of the id {metadata[CACHE][:8]}, and this one is {self.id[:8]})"
        if metadata.get(FILE, "") != place:
            return f"it is {metadata.get(FILE) or 'another file'} of this cache, moved or copied here"
        return ""


def callers(metadata: Mapping[str, str]) -> dict[str, str]:
    """Metadata without the keys that are ours."""
    return {key: value for key, value in metadata.items() if not key.startswith(PREFIX)}
