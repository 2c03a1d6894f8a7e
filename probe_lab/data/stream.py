"""An iterable of ready-made batches of whole prompt groups, split over ranks and DataLoader workers."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from itertools import pairwise

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import IterableDataset, get_worker_info

from probe_lab.cache.tensors import IntArray
from probe_lab.data.batch import Batch
from probe_lab.data.groups import Groups
from probe_lab.data.sample_order import batch_bounds, epoch_order, steps_of, worker_batches
from probe_lab.data.source import Source
from probe_lab.data.text_lookup import TextTable


class BatchStream(IterableDataset[Batch]):
    """The batches of one split that one rank sees in one epoch; over all ranks and workers every group once.

    `epoch` and `done` (batches of this epoch that were delivered before) are set before each iteration;
    workers get them with their copy of the stream. `len` is the number of batches of the whole epoch on this
    rank, the same on every rank. Use it with `DataLoader(stream, batch_size=None)`.

    With several `steps` each group is seen at one of them, see `sample_order.steps_of`.
    """

    def __init__(
        self,
        groups: Groups,
        source: Source,
        *,
        steps: Sequence[int],
        batch_prompts: int,
        seed: int = 0,
        shuffle: bool = False,
        oversample: float = 0.0,
        text: TextTable | None = None,
        scalars: Tensor | None = None,
        rank: int = 0,
        world_size: int = 1,
    ) -> None:
        self.epoch = 0
        self.done = 0
        self._groups = groups
        self._source = source
        self._steps = tuple(steps)
        self._seed = seed
        self._shuffle = shuffle
        self._oversample = oversample
        self._text = text
        self._scalars = scalars
        self._bounds = batch_bounds(len(groups), batch_prompts, rank, world_size)
        self._targets = torch.from_numpy(groups.targets)
        self._sample_id = torch.from_numpy(groups.sample_id)

    def __len__(self) -> int:
        return len(self._bounds) - 1

    def __iter__(self) -> Iterator[Batch]:
        info = get_worker_info()
        worker, workers = (info.id, info.num_workers) if info else (0, 1)
        batches = worker_batches(len(self), self.done, worker, workers)
        if not batches:
            return
        picked, window = epoch_order(
            self._groups,
            seed=self._seed,
            epoch=self.epoch,
            shuffle=self._shuffle,
            oversample=self._oversample,
            window_shards=self._source.window_shards,
        )
        mine = slice(int(self._bounds[batches.start]), int(self._bounds[batches.stop]))
        picked, window = picked[mine], window[mine]
        samples, size = _samples_of(self._groups, picked)
        group_of_sample = np.repeat(picked, size)
        step = steps_of(len(self._groups), self._steps, seed=self._seed, epoch=self.epoch)[group_of_sample]
        # Where windows and batches end, counted in samples of this worker.
        stop = np.append(0, np.cumsum(size))
        window_edges = stop[np.append(np.flatnonzero(np.diff(window, prepend=-1)), len(window))]
        batch_edges = stop[self._bounds[batches.start : batches.stop + 1] - mine.start]
        yield from self._read(samples, group_of_sample, step, window_edges.tolist(), batch_edges.tolist())

    def _read(
        self,
        samples: IntArray,
        group_of_sample: IntArray,
        step_of_sample: IntArray,
        window_edges: list[int],
        batch_edges: list[int],
    ) -> Iterator[Batch]:
        """Go through the windows, and emit each batch as soon as its last sample is there."""
        rows = torch.from_numpy(samples)
        columns = (
            self._targets.index_select(0, rows),
            torch.from_numpy(self._groups.prompt_id[group_of_sample]),
            self._sample_id.index_select(0, rows),
            torch.from_numpy(step_of_sample),
        )
        columns_of_batches = zip(*(column.split(np.diff(batch_edges).tolist()) for column in columns), strict=True)
        begun: list[dict[str, Tensor]] = []  # parts of a batch that began in earlier windows
        batch = 0
        windows = self._source.windows(self._groups, group_of_sample, samples, step_of_sample, window_edges)
        for (start, stop), window in zip(pairwise(window_edges), windows, strict=True):
            at = start
            while at < stop:
                end = min(stop, batch_edges[batch + 1])
                part = window.features(slice(at - start, end - start))
                at = end
                if end < batch_edges[batch + 1]:
                    begun.append(part)
                    continue
                if begun:
                    part = {tap: torch.cat([*(p[tap] for p in begun), part[tap]]) for tap in part}
                    begun = []
                # Copies and not views: a worker would send those of the whole epoch with each batch.
                yield self._batch(part, *(column.clone() for column in next(columns_of_batches)))
                batch += 1

    def _batch(
        self, features: dict[str, Tensor], targets: Tensor, prompt: Tensor, sample_id: Tensor, step: Tensor
    ) -> Batch:
        text, tokens, token_mask = self._text.rows(prompt) if self._text else (None, None, None)
        return Batch(
            features=features,
            targets=targets,
            group=prompt,
            sample_id=sample_id,
            step=step,
            text=text,
            tokens=tokens,
            token_mask=token_mask,
            scalars=None if self._scalars is None else self._scalars.index_select(0, sample_id),
        )


def _samples_of(groups: Groups, picked: IntArray) -> tuple[IntArray, IntArray]:
    """Positions in `groups` of the samples of some groups, group after group, and each one's size."""
    first = groups.start[picked]
    size = groups.start[picked + 1] - first
    before = np.cumsum(size) - size
    return np.arange(int(size.sum()), dtype=np.int64) + np.repeat(first - before, size), size
