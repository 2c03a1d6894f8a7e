"""Rows scattered by the kernel are those that indexing gives, whatever is asked and however little comes at once."""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from safetensors.torch import save_file

from probe_lab.cache import scattered_rows
from probe_lab.cache.scattered_rows import read_scattered
from probe_lab.cache.tensors import OpenFile
from probe_lab.errors import CacheError

ROWS, WIDTH = 40, 7
ARRAY = torch.arange(ROWS * WIDTH, dtype=torch.float32).reshape(ROWS, WIDTH)


@pytest.fixture(scope="module")
def file(tmp_path_factory: pytest.TempPathFactory) -> OpenFile:
    path = tmp_path_factory.mktemp("scatter") / "arrays.safetensors"
    save_file({"a": torch.zeros(3), "b": ARRAY, "c": ARRAY.to(torch.bfloat16)}, path)
    return OpenFile(str(path))


def scattered(file: OpenFile, rows: np.ndarray, places: np.ndarray, key: str = "b") -> torch.Tensor:
    entry = file.header.entries[key]
    out = torch.full((len(rows) + 2, WIDTH), -1.0, dtype=entry.dtype)
    read_scattered(file, entry, rows, out, places)
    return out


@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    rows=st.lists(st.integers(0, ROWS - 1), max_size=30),
    gap=st.sampled_from([0, 4 * WIDTH, 20 * WIDTH, 2**17]),
    vectors=st.sampled_from([3, 8, 1024]),
    most=st.sampled_from([5, 100, 2**31]),
    shuffle=st.randoms(use_true_random=False),
)
def test_it_is_indexing(file: OpenFile, rows: list[int], gap: int, vectors: int, most: int, shuffle: object) -> None:
    """Also with few views in a call, and where a call gives less than was asked for."""
    real = os.preadv

    def preadv(handle: int, views: Sequence[memoryview], start: int) -> int:
        assert len(views) <= vectors
        given: list[memoryview] = []
        left = most
        for view in views:
            given.append(memoryview(view).cast("B")[:left])
            left -= given[-1].nbytes
            if not left:
                break
        return real(handle, given, start)

    places = list(range(1, len(rows) + 1))
    shuffle.shuffle(places)  # type: ignore[attr-defined]
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(scattered_rows, "GAP_BYTES", gap)
        patch.setattr(scattered_rows, "_VECTORS", vectors)
        patch.setattr(os, "preadv", preadv)
        out = scattered(file, np.array(sorted(rows), dtype=np.int64), np.array(places, dtype=np.int64))
    expected = torch.full_like(out, -1.0)
    expected[places] = ARRAY[sorted(rows)]
    assert torch.equal(out, expected)


def test_neighbours_are_one_call_and_so_are_those_with_a_small_gap(
    file: OpenFile, monkeypatch: pytest.MonkeyPatch
) -> None:
    calls: list[int] = []
    real = OpenFile.read_views

    def read_views(self: OpenFile, views: Sequence[memoryview], start: int) -> None:
        calls.append(len(views))
        real(self, views, start)

    monkeypatch.setattr(OpenFile, "read_views", read_views)
    scattered(file, np.arange(10), np.arange(10))
    assert calls == [1]
    calls.clear()
    scattered(file, np.array([0, 1, 5, 6]), np.array([2, 3, 0, 1]))
    assert calls == [3]  # two pieces and what is between them
    calls.clear()
    monkeypatch.setattr(scattered_rows, "GAP_BYTES", 2 * WIDTH * 4)
    scattered(file, np.array([0, 1, 5, 6]), np.array([2, 3, 0, 1]))
    assert calls == [1, 1]


def test_types_that_numpy_lacks(file: OpenFile) -> None:
    out = scattered(file, np.array([3, 30]), np.array([1, 0]), "c")
    assert torch.equal(out[:2], ARRAY[[30, 3]].to(torch.bfloat16))


def test_a_file_that_ends_before_is_damaged(tmp_path: Path) -> None:
    path = tmp_path / "arrays.safetensors"
    save_file({"b": ARRAY}, path)
    file = OpenFile(str(path))
    os.truncate(path, path.stat().st_size - 3)
    with pytest.raises(CacheError, match="it is truncated"):
        scattered(file, np.array([0, ROWS - 1]), np.array([0, 1]))
