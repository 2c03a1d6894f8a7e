"""The DataLoaders of a stream: no batch is lost, and those of training are counted, so that a run can be resumed inside
an epoch."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from multiprocessing.queues import Queue
from typing import Any, cast

import torch
from torch.utils.data import DataLoader, IterableDataset

from probe_lab.data.batch import Batch
from probe_lab.data.stream import BatchStream
from probe_lab.errors import DataError

Layout = dict[str, int | float | str]


@dataclass
class EpochProgress:
    """How far training is on this rank: `position` of the `batches` of `epoch` were delivered.

    The next iteration skips `resume` batches. `layout` is all that decides which samples those were.
    """

    epoch: int = 0
    position: int = 0
    resume: int = 0
    batches: int = 0
    layout: Layout = field(default_factory=dict)

    def set_epoch(self, epoch: int) -> None:
        """Choose the order of the next iteration. The epoch of a loaded state keeps its position."""
        if epoch != self.epoch:
            self.epoch, self.position, self.resume = epoch, 0, 0

    def begin(self, batches: int, layout: Layout) -> int:
        """How many batches this iteration skips. DataError when they were made in another way than now."""
        for name, now in layout.items():
            before = self.layout.get(name)
            if self.resume and before != now:
                raise DataError(
                    f"the checkpoint is inside epoch {self.epoch} with {name}={before}, and this run has "
                    f"{now}: resume with the same value, or from a checkpoint of the end of an epoch"
                )
        self.position, self.resume, self.batches, self.layout = self.resume, 0, batches, layout
        return self.position

    def state_dict(self) -> dict[str, Any]:
        """Plain values only: a checkpoint that holds them loads with `weights_only=True`."""
        ended = 0 < self.batches <= self.position
        return {
            "epoch": self.epoch + ended,
            "position": 0 if ended else self.position,
            "batches": self.batches,
            "layout": dict(self.layout),
        }

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        self.epoch, self.position, self.batches = state["epoch"], state["position"], state["batches"]
        self.resume, self.layout = self.position, dict(state["layout"])


class StreamLoader(DataLoader[Batch]):
    """Iterates a stream. DataError where one of its processes dies, or cannot hand over a batch for want of shared
    memory or file handles: PyTorch would pass over that batch, or wait for it without end.

    ``options`` are a DataLoader's: Lightning makes a loader again from them for predictions.
    """

    def __init__(self, dataset: IterableDataset[Batch], *, num_workers: int, **options: Any) -> None:
        options |= {"batch_size": None, "worker_init_fn": _end_when_a_batch_is_lost}
        super().__init__(dataset, num_workers=num_workers, **options)

    def __iter__(self) -> Iterator[Batch]:  # type: ignore[override]
        if self.num_workers == 0:  # a DataLoader's own iterator, which adds nothing then, takes half as long again
            torch.empty((), dtype=torch.int64).random_(generator=self.generator)  # as it does, with any workers
            yield from cast(IterableDataset[Batch], self.dataset)
            return
        try:
            try:
                yield from super().__iter__()
            except (ConnectionError, EOFError) as error:
                if str(error).startswith("Caught "):  # what the stream itself raised in its process
                    raise
                raise self._lost(error) from error
        except RuntimeError as error:  # from a handler of signals, which may interrupt the lines above too
            if not str(error).startswith("DataLoader worker (pid"):
                raise
            raise self._lost(error) from error

    def _lost(self, error: Exception) -> DataError:
        return DataError(
            f"one of the {self.num_workers} processes of data.num_workers ended, for want of shared memory "
            f"(/dev/shm), file handles or memory: set data.num_workers=0, or give them more ({error})"
        )


def _end_when_a_batch_is_lost(worker: int) -> None:
    """In a process of a loader: what cannot be put into a queue ends it, which its parent sees."""

    def end(error: Exception, batch: object) -> None:
        os._exit(1)

    Queue._on_queue_feeder_error = staticmethod(end)  # type: ignore[attr-defined]


class TrainLoader(StreamLoader):
    """Iterates the training stream in the order of `current_epoch()`, and counts the batches.

    Only what was delivered counts, not what workers have prefetched: a state that is saved after a batch
    resumes with the next one. `state_dict` and `load_state_dict` are those of the data module; Lightning
    looks for them here too.
    """

    def __init__(
        self,
        stream: BatchStream,
        *,
        num_workers: int,
        progress: EpochProgress,
        layout: Layout,
        current_epoch: Callable[[], int],
    ) -> None:
        super().__init__(stream, num_workers=num_workers)
        self._stream = stream
        self._progress = progress
        self._layout = layout
        self._current_epoch = current_epoch

    def __iter__(self) -> Iterator[Batch]:  # type: ignore[override]
        # Lightning makes its first iterator before it restores the epoch; a generator asks only when used.
        self._progress.set_epoch(self._current_epoch())
        self._stream.done = self._progress.begin(len(self), self._layout)
        self._stream.epoch = self._progress.epoch
        for batch in super().__iter__():
            self._progress.position += 1
            yield batch

    def state_dict(self) -> dict[str, Any]:
        return self._progress.state_dict()

    def load_state_dict(self, state: dict[str, Any]) -> None:
        self._progress.load_state_dict(state)
