"""Where the rows of a batch come from: slices of shards, a window at a time."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from itertools import pairwise
from typing import Protocol

import numpy as np
import torch
from torch import Tensor

from probe_lab.cache import Cache
from probe_lab.data.groups import Groups, IntArray

# Wanted stretches of a shard closer than this are read as one: the bytes between cost less than a seek.
_GAP_BYTES = 128 * 1024

Window = tuple[Mapping[str, Tensor], Tensor]


class Source(Protocol):
    """Gives the rows of samples, window by window, of `window_shards` shards each (None: of all)."""

    window_shards: int | None

    def windows(self, groups: Groups, picked: IntArray, samples: IntArray, edges: Sequence[int]) -> Iterator[Window]:
        """For samples[edges[i]:edges[i + 1]], each i: arrays [k, C, H, W] per tap, and each sample's row.

        `samples` are positions in `groups`, `picked` the group of each. Arrays have the stored dtype and are
        valid until the next window; rows are int64 on their device.
        """


class ShardSource:
    """Reads one window of shards as slices into one buffer per tap, which the next window overwrites.

    Memory per iteration: `window_shards` shards of the taps that are read, whatever the size of the cache.
    """

    def __init__(self, cache: Cache, keys: Mapping[str, str], window_shards: int = 2) -> None:
        self.window_shards: int | None = window_shards
        self._cache = cache
        self._keys = dict(keys)  # tap string -> key of the array
        self._dtype = cache.manifest.array_dtype
        self._shapes = {tap: cache.manifest.shape(key) for tap, key in self._keys.items()}
        largest = max(math.prod(shape) for shape in self._shapes.values()) * self._dtype.itemsize
        self._gap = _GAP_BYTES // largest

    def windows(self, groups: Groups, picked: IntArray, samples: IntArray, edges: Sequence[int]) -> Iterator[Window]:
        # Of this iteration alone: validation runs while an epoch of training is half read.
        buffers: dict[str, Tensor] = {}
        for start, stop in pairwise(edges):
            part = slice(start, stop)
            yield buffers, self._read(buffers, groups.shard[picked[part]], groups.row[samples[part]])

    def _read(self, buffers: dict[str, Tensor], shard: IntArray, row: IntArray) -> Tensor:
        """Fill the buffers with these rows of these shards; where each one is, int64 [n]."""
        order = np.lexsort((row, shard))
        shard, row = shard[order], row[order]
        begins = (np.diff(shard, prepend=-1) != 0) | (np.diff(row, prepend=row[:1]) > self._gap + 1)
        first = np.flatnonzero(begins)
        last = np.append(first[1:], len(row)) - 1
        size = row[last] + 1 - row[first]
        offset = np.cumsum(size) - size
        for tap, shape in self._shapes.items():
            if tap not in buffers or len(buffers[tap]) < size.sum():
                buffers.pop(tap, None)  # freed before its successor is allocated
                buffers[tap] = torch.empty((int(size.sum()), *shape), dtype=self._dtype)
        for run in range(len(first)):
            rows = slice(int(row[first[run]]), int(row[last[run]]) + 1)
            target = slice(int(offset[run]), int(offset[run] + size[run]))
            for tap, key in self._keys.items():
                self._cache.read(key, int(shard[first[run]]), rows, out=buffers[tap][target])
        position = np.empty(len(row), dtype=np.int64)
        position[order] = row + np.repeat(offset - row[first], last + 1 - first)
        return torch.from_numpy(position)
