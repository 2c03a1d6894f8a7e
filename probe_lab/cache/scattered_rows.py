"""Rows of an array in any order: the kernel copies each to its place, and nothing is copied again."""

from __future__ import annotations

import os
from collections.abc import Iterator

import numpy as np
from torch import Tensor

from probe_lab.cache.tensors import IntArray, OpenFile, TensorEntry, byte_view

GAP_BYTES = 128 * 1024
"""Rows that nobody wants are read with their neighbours where they are fewer bytes than this: a seek costs more."""
_VECTORS = os.sysconf("SC_IOV_MAX")
_UNWANTED = memoryview(bytearray(GAP_BYTES))
"""Where those go; nobody reads it."""


def read_scattered(file: OpenFile, entry: TensorEntry, rows: IntArray, out: Tensor, places: IntArray) -> None:
    """Row ``rows[i]`` of an array becomes row ``places[i]`` of ``out``, a contiguous CPU tensor of its dtype. ``rows``
    are in ascending order, and may repeat.

    Raises:
        CacheError: the file ends before.
    """
    for start, views in _reads(entry, rows, out, places):
        file.read_views(views, entry.start + start)


def _reads(entry: TensorEntry, rows: IntArray, out: Tensor, places: IntArray) -> Iterator[tuple[int, list[memoryview]]]:
    """First byte within the array, and where the bytes from there on go: one call of the kernel each."""
    size, target = entry.row_bytes, byte_view(out)
    # Neighbours in the file that are neighbours in memory too are one piece.
    cut = np.flatnonzero((rows[1:] - rows[:-1] != 1) | (places[1:] - places[:-1] != 1)) + 1
    first = np.concatenate([np.zeros(min(len(rows), 1), dtype=np.int64), cut])
    length = np.diff(first, append=len(rows)) * size
    begin, into = rows[first] * size, places[first] * size
    between = begin - np.concatenate([begin[:1], (begin + length)[:-1]])
    views: list[memoryview] = []
    start = 0
    pieces = (column.tolist() for column in (begin, between, into, into + length))
    for at, gap, of, to in zip(*pieces, strict=True):
        if views and (not 0 <= gap <= GAP_BYTES or len(views) > _VECTORS - 2):
            yield start, views
            views = []
        if not views:
            start = at
        elif gap:
            views.append(_UNWANTED[:gap])
        views.append(target[of:to])
    if views:
        yield start, views
