"""Rows of a tensor file that is too large for memory, read from the disk when they are asked for."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from probe_lab.cache.identity import Identity, callers
from probe_lab.cache.scattered_rows import read_scattered
from probe_lab.cache.tensor_files import checksum_objection
from probe_lab.cache.tensors import OpenFile, TensorEntry
from probe_lab.errors import CacheError


class TensorRows:
    """The arrays of a file of ``tensor_files``, which all have as many rows (first axis).

    The whole file is compared with its checksum once, a few MB at a time; then only rows are read. An ``identity`` of
    None is not compared; ``again`` is what an error tells to do.

    Raises:
        CacheError: it is missing, damaged, another cache's, or its arrays have not ``rows`` rows.
    """

    def __init__(
        self, folder: Path, path: Path, identity: Identity | None, rows: int | None = None, *, again: str = ""
    ) -> None:
        self._file = OpenFile(str(path))
        self.sha256 = self._file.content_sha256()
        stored = self._file.header.metadata
        self.metadata: Mapping[str, str] = callers(stored)
        objection = checksum_objection(self.sha256, stored, path.relative_to(folder).as_posix(), identity)
        for name, entry in self._entries.items():
            if not objection and rows is not None and entry.shape[:1] != (rows,):
                objection = f"{name} has the shape {entry.shape} where {rows} rows belong"
        if objection:
            raise CacheError(f"{path} is not what belongs there: {objection}{again and f': {again}'}")

    @property
    def _entries(self) -> dict[str, TensorEntry]:
        return self._file.header.entries

    @property
    def names(self) -> list[str]:
        """Of the arrays."""
        return list(self._entries)

    def nbytes(self, name: str) -> int:
        """Of the whole array. CacheError for an array that is not there."""
        return self._entry(name).size

    def shape(self, name: str) -> tuple[int, ...]:
        """Of the whole array. CacheError for an array that is not there."""
        return self._entry(name).shape

    def dtype(self, name: str) -> torch.dtype:
        """Of the stored values. CacheError for an array that is not there."""
        return self._entry(name).dtype

    def read(self, name: str, rows: Tensor) -> Tensor:
        """The rows ``rows``, int64 of any shape, of an array: [*rows.shape, …] in the stored dtype; each is read once.

        CacheError for an array that is not there, or a file that became shorter.
        """
        entry = self._entry(name)
        distinct, place = rows.flatten().unique(return_inverse=True)
        values = torch.empty((len(distinct), *entry.shape[1:]), dtype=entry.dtype)
        read_scattered(self._file, entry, distinct.numpy(), values, np.arange(len(distinct)))
        return values[place].unflatten(0, rows.shape)

    def whole(self, name: str) -> Tensor:
        """An array that fits in memory. Errors as in ``read``."""
        entry = self._entry(name)
        out = torch.empty(entry.shape, dtype=entry.dtype)
        self._file.read_into(out, entry.start)
        return out

    def _entry(self, name: str) -> TensorEntry:
        if name not in self._entries:
            raise CacheError(f"{self._file.path} has no array {name!r}: it has {', '.join(self._entries)}")
        return self._entries[name]
