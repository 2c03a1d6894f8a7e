"""The two files that say what a cache is, manifest.json and samples.parquet: read together, compared, identified."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import pandas as pd

from probe_lab.cache.identity import CACHE, TEXTS, Identity, cache_id, is_checksum, prompts_sha256
from probe_lab.cache.layout import SAMPLES
from probe_lab.cache.manifest import Manifest
from probe_lab.cache.samples import load_table, to_frame
from probe_lab.cache.tables import table_metadata
from probe_lab.errors import CacheError


@dataclass(frozen=True, eq=False)
class Opened:
    """A cache as its two small files describe it. ``texts``: the encoders whose text belongs to it, where it says."""

    manifest: Manifest
    samples: pd.DataFrame
    identity: Identity
    texts: tuple[str, ...]

    @property
    def prompts(self) -> int:
        return int(self.samples["prompt_id"].nunique())


def open_cache(folder: Path) -> Opened:
    """CacheError for a file that is missing, damaged, of another format version, or not of the other's cache."""
    manifest = Manifest.load(folder)
    table = load_table(folder / SAMPLES)
    samples, metadata = to_frame(table), table_metadata(table)
    identity = Identity(cache_id(manifest, samples), carried=CACHE in metadata)
    for objection in objections(manifest, samples, metadata, identity):
        raise CacheError(f"{folder / SAMPLES} {objection}")
    return Opened(manifest, samples, identity, tuple(filter(None, metadata.get(TEXTS, "").split(","))))


def objections(manifest: Manifest, samples: pd.DataFrame, metadata: Mapping[str, str], identity: Identity) -> list[str]:
    """Why a valid sample table with this metadata is not that of the manifest, in words that follow its name.

    ``identity`` is what the two together give.
    """
    again = "put the files of one cache together again, or generate it again"
    if len(samples) != manifest.count:
        return [f"has {len(samples)} rows and the manifest counts {manifest.count}: generate the cache again"]
    if is_checksum(manifest.prompts_sha256) and prompts_sha256(samples) != manifest.prompts_sha256:
        return [f"has other prompts than manifest.json says (sha256 differs): {again}"]
    if objection := identity.objection(metadata, SAMPLES):
        return [f"and manifest.json are not of one cache, or one of them changed ({objection}): {again}"]
    return []
