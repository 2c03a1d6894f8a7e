"""Arrays that are loaded once and stay: for a slice that fits into memory, and cells that share it."""

from __future__ import annotations

import math
import os
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path

import torch
from torch import Tensor

from probe_lab.cache import Cache, Manifest
from probe_lab.cache.tensors import IntArray
from probe_lab.data.groups import Groups
from probe_lab.data.source import Keys, Window
from probe_lab.errors import DataError

_CGROUP_LIMIT = Path("/sys/fs/cgroup/memory.max")


@dataclass(frozen=True, eq=False)
class ResidentArrays:
    """Whole arrays of one cache: key "<step>/<tap string>" -> [n, C, H, W], stored dtype, one device.

    n are the samples of the complete shards, as in `Cache.read_all`. Nothing writes to them: any number of
    data modules, with other evaluators, splits and taps, can share one.
    """

    manifest: Manifest
    arrays: Mapping[str, Tensor]

    @property
    def nbytes(self) -> int:
        return sum(array.nbytes for array in self.arrays.values())

    def check(self, cache: Cache, keys: Iterable[str]) -> None:
        """DataError when these are arrays of another cache, or lack a key."""
        if self.manifest != cache.manifest:
            raise DataError(
                f"the resident arrays are of the cache {self.manifest.name!r} and the data module reads "
                f"{cache.manifest.name!r}: call load_resident with the cache that is trained on"
            )
        count = len(cache.complete_samples)
        for key in keys:
            if key not in self.arrays or len(self.arrays[key]) != count:
                raise DataError(
                    f"the resident arrays do not hold {key!r} for all {count} samples: call load_resident "
                    "again, with every array that the probe reads"
                )


def load_resident(cache: Cache, keys: Iterable[str], device: torch.device | str = "cpu") -> ResidentArrays:
    """Read whole arrays, each one contiguous tensor. CacheError for a key that the cache lacks."""
    return ResidentArrays(cache.manifest, {key: cache.read_all(key).to(device) for key in dict.fromkeys(keys)})


class ResidentSource:
    """Rows of resident arrays: one window that holds everything."""

    window_shards: int | None = None

    def __init__(self, resident: ResidentArrays, keys: Keys) -> None:
        self._arrays = {
            step: {tap: resident.arrays[key] for tap, key in of_step.items()} for step, of_step in keys.items()
        }
        self._device = next(array.device for of_step in self._arrays.values() for array in of_step.values())

    def windows(
        self, groups: Groups, picked: IntArray, samples: IntArray, step: IntArray, edges: Sequence[int]
    ) -> Iterator[Window]:
        for start, stop in pairwise(edges):
            part = slice(start, stop)
            rows, steps = torch.from_numpy(groups.resident_row[samples[part]]), torch.from_numpy(step[part])
            yield _Rows(self._arrays, rows.to(self._device), steps.to(self._device))


class _Rows:
    def __init__(self, arrays: Mapping[int, Mapping[str, Tensor]], rows: Tensor, step: Tensor) -> None:
        self._arrays, self._rows, self._step = arrays, rows, step

    def features(self, chosen: slice) -> dict[str, Tensor]:
        rows = self._rows[chosen]
        if len(self._arrays) == 1:
            (arrays,) = self._arrays.values()
            return {tap: array.index_select(0, rows).float() for tap, array in arrays.items()}
        features: dict[str, Tensor] = {}
        for step, arrays in self._arrays.items():
            here = (self._step[chosen] == step).nonzero().squeeze(1)
            for tap, array in arrays.items():
                values = array.index_select(0, rows.index_select(0, here)).float()
                features.setdefault(tap, values.new_empty(len(rows), *values.shape[1:]))[here] = values
        return features


def fits_in_memory(cache: Cache, keys: Iterable[str], processes: int) -> bool:
    """Whether one copy of the arrays per process takes at most a quarter of the available memory."""
    manifest = cache.manifest
    row = sum(math.prod(manifest.shape(key)) * manifest.array_dtype.itemsize for key in keys)
    return row * len(cache.complete_samples) * processes <= available_memory() // 4


def available_memory() -> int:
    """Bytes that can be allocated without swapping, within the container's limit where there is one."""
    if Path("/proc/meminfo").exists():
        # SC_AVPHYS_PAGES leaves out the page cache, which a streamed cache fills and the system gives back.
        lines = dict(line.split(":") for line in Path("/proc/meminfo").read_text().splitlines())
        available = int(lines["MemAvailable"].split()[0]) * 1024
    else:  # macOS has no figure of what is free
        available = os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE") // 2
    limit = _CGROUP_LIMIT.read_text().strip() if _CGROUP_LIMIT.exists() else "max"
    return available if limit == "max" else min(available, int(limit))
