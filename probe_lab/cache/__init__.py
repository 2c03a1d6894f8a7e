"""The on-disk cache of generated images and tensors (format version 1, described in docs/cache.md)."""

from probe_lab.cache.describe import describe
from probe_lab.cache.files import require_space, sha256_of
from probe_lab.cache.manifest import FORMAT_VERSION, IMAGES, Manifest
from probe_lab.cache.mismatch import require_same
from probe_lab.cache.problems import Problem
from probe_lab.cache.reader import Cache
from probe_lab.cache.samples import shard_layout
from probe_lab.cache.scores import write_scores
from probe_lab.cache.verify import verify
from probe_lab.cache.writer import CacheWriter

__all__ = [
    "FORMAT_VERSION",
    "IMAGES",
    "Cache",
    "CacheWriter",
    "Manifest",
    "Problem",
    "describe",
    "require_same",
    "require_space",
    "sha256_of",
    "shard_layout",
    "verify",
    "write_scores",
]
