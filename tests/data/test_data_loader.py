"""Batches that a worker process cannot hand over are neither passed over nor waited for."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest
import torch
from torch.utils.data import ChainDataset, IterableDataset

from probe_lab.data.loader import StreamLoader
from probe_lab.errors import DataError


class Stream(IterableDataset[Any]):
    """Three batches, of which those in ``lost`` cannot leave their process: nothing pickles a function like these."""

    def __init__(self, *lost: int) -> None:
        self._lost = lost

    def __len__(self) -> int:
        return 3

    def __iter__(self) -> Iterator[Any]:
        for number in range(3):
            yield (lambda: 0) if number in self._lost else torch.tensor(number)


@pytest.mark.parametrize("workers", [0, 1])
def test_all_batches_arrive_in_their_order(workers: int) -> None:
    assert [int(batch) for batch in StreamLoader(Stream(), num_workers=workers)] == [0, 1, 2]  # type: ignore[call-overload]


@pytest.mark.parametrize("lost", [(1,), (2,), (0, 1, 2)])
def test_a_batch_that_was_lost_is_an_error(lost: tuple[int, ...]) -> None:
    loader = StreamLoader(ChainDataset([Stream(*lost), Stream()]), num_workers=1)
    with pytest.raises(
        DataError, match=r"^one of the 1 processes of data.num_workers ended, for want of shared memory"
    ):
        list(loader)


class Truncated(Stream):
    """One whose second batch ends too early."""

    def __iter__(self) -> Iterator[Any]:
        yield torch.tensor(0)
        raise EOFError("the file ends here")


@pytest.mark.parametrize("workers", [0, 1])
def test_what_a_stream_raises_is_not_a_lost_process(workers: int) -> None:
    with pytest.raises(EOFError, match="the file ends here"):
        list(StreamLoader(Truncated(), num_workers=workers))
