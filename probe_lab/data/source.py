"""Where the rows of a batch come from: rows of shards, a window at a time."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from itertools import pairwise
from typing import Protocol

import numpy as np
import torch
from torch import Tensor

from probe_lab.cache import Cache
from probe_lab.cache.tensors import IntArray
from probe_lab.data.groups import Groups

Keys = Mapping[int, Mapping[str, str]]
"""Step -> tap string -> key of the array."""


class Window(Protocol):
    """The samples of some shards, in the order in which they were asked for."""

    def features(self, chosen: slice) -> dict[str, Tensor]:
        """Tap -> float32 [n, C, H, W] of some of them, each at its step, in tensors that nobody else has."""


class Source(Protocol):
    """Gives the arrays of samples, window by window, of `window_shards` shards each (None: of all)."""

    window_shards: int | None

    def windows(
        self, groups: Groups, picked: IntArray, samples: IntArray, step: IntArray, edges: Sequence[int]
    ) -> Iterator[Window]:
        """Those of samples[edges[i]:edges[i + 1]], for each i, which are valid until the next window.

        `samples` are positions in `groups`, `picked` the group of each, and `step` the step that each is seen at.
        """


class ShardSource:
    """Reads one window of shards into one buffer per tap, in the order of the batches, which the next window
    overwrites.

    Memory per iteration: `window_shards` shards of the taps that are read, whatever the size of the cache; where
    prompts are oversampled, as much more as those of a window are repeated.
    """

    def __init__(self, cache: Cache, keys: Keys, window_shards: int = 2) -> None:
        self.window_shards: int | None = window_shards
        self._cache = cache
        self._keys = keys
        self._dtype = cache.manifest.array_dtype
        self._shapes = {tap: cache.manifest.shape(key) for of_step in keys.values() for tap, key in of_step.items()}

    def windows(
        self, groups: Groups, picked: IntArray, samples: IntArray, step: IntArray, edges: Sequence[int]
    ) -> Iterator[Window]:
        # Of this iteration alone: validation runs while an epoch of training is half read.
        buffers: dict[str, Tensor] = {}
        for start, stop in pairwise(edges):
            part = slice(start, stop)
            self._fill(buffers, groups.shard[picked[part]], groups.row[samples[part]], step[part])
            yield _Buffered(buffers)

    def _fill(self, buffers: dict[str, Tensor], shard: IntArray, row: IntArray, step: IntArray) -> None:
        for tap, shape in self._shapes.items():
            if tap not in buffers or len(buffers[tap]) < len(row):
                buffers.pop(tap, None)  # freed before its successor is allocated
                buffers[tap] = torch.empty((len(row), *shape), dtype=self._dtype)
        order = np.lexsort((row, shard, step))
        step, shard = step[order], shard[order]
        cut = np.flatnonzero((shard[1:] != shard[:-1]) | (step[1:] != step[:-1])) + 1
        for first, last in pairwise([0, *cut.tolist(), len(order)]):
            here = order[first:last]
            for tap, key in self._keys[int(step[first])].items():
                self._cache.read_rows(key, int(shard[first]), row[here], buffers[tap], here)


class _Buffered:
    def __init__(self, buffers: Mapping[str, Tensor]) -> None:
        self._buffers = buffers

    def features(self, chosen: slice) -> dict[str, Tensor]:
        return {tap: buffer[chosen].to(torch.float32, copy=True) for tap, buffer in self._buffers.items()}
