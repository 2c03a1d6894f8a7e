"""Readers of one array, for `benchmarks.reading`: batches in order as they are stored, and batches for a training."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import TypeVar

import numpy as np
import torch
from safetensors import safe_open
from torch import Tensor

from benchmarks.reading_formats import BATCH, KEY, SEEDS, SHAPE, SHARD, STEP, TAP, npy_name
from probe_lab.cache import Cache
from probe_lab.data import Batch, ProbeDataModule, SplitFractions

_Item = TypeVar("_Item")
Passes = Callable[[], Iterator[_Item]]
"""Every call is one pass over all samples."""


def memcpy(source: Tensor) -> Passes[Tensor]:
    def read() -> Iterator[Tensor]:
        for start in range(0, len(source), BATCH):
            yield source[start : start + BATCH].clone()

    return read


def cache_rows(folder: Path) -> Passes[Tensor]:
    cache = Cache(folder)

    def read() -> Iterator[Tensor]:
        for shard in cache.shards:
            for start in range(0, cache.rows(shard), BATCH):
                yield cache.read(KEY, shard, slice(start, start + BATCH))

    return read


def cache_shards(folder: Path) -> Passes[Tensor]:
    cache = Cache(folder)
    buffer = torch.empty((SHARD, *SHAPE), dtype=torch.float16)

    def read() -> Iterator[Tensor]:
        for shard in cache.shards:
            yield from cache.read(KEY, shard, out=buffer[: cache.rows(shard)]).split(BATCH)

    return read


def npy(folder: Path) -> Passes[Tensor]:
    """A mapped file; the rows are copied, as all others' are."""
    array = np.load(folder / npy_name(KEY), mmap_mode="r")

    def read() -> Iterator[Tensor]:
        for start in range(0, len(array), BATCH):
            yield torch.from_numpy(np.array(array[start : start + BATCH]))

    return read


def safetensors_slices(folder: Path) -> Passes[Tensor]:
    """safetensors' own slices, of our shards."""
    slices = [safe_open(path, "pt").get_slice(KEY) for path in sorted((folder / "shards").glob("*.safetensors"))]

    def read() -> Iterator[Tensor]:
        for array in slices:
            for start in range(0, array.get_shape()[0], BATCH):
                yield array[start : start + BATCH]

    return read


def torch_files(folder: Path) -> Passes[Tensor]:
    paths = sorted(folder.iterdir())

    def read() -> Iterator[Tensor]:
        for path in paths:
            yield torch.load(path, weights_only=True)[KEY]

    return read


def litdata(folder: Path) -> Passes[Tensor]:
    import litdata

    dataset = litdata.StreamingDataset(str(folder), shuffle=False)
    return lambda: _stacked(item[KEY] for item in dataset)


def webdataset(folder: Path) -> Passes[Tensor]:
    """It skips the files of the other arrays."""
    import webdataset

    name = npy_name(KEY)
    urls = [str(path) for path in sorted(folder.iterdir())]
    dataset = webdataset.WebDataset(urls, shardshuffle=False, select_files=lambda file: file.endswith(name)).decode()
    return lambda: _stacked(torch.from_numpy(item[name]) for item in dataset)


def _stacked(samples: Iterator[Tensor]) -> Iterator[Tensor]:
    rows: list[Tensor] = []
    for row in samples:
        rows.append(row)
        if len(rows) == BATCH:
            yield torch.stack(rows)
            rows = []


def module(folder: Path, residency: str) -> Passes[Batch]:
    """The data module, as a training has it: another order in every epoch."""
    data = ProbeDataModule(
        Cache(folder),
        step=STEP,
        taps=[TAP],
        evaluators=["score"],
        batch_prompts=BATCH // SEEDS,
        fractions=SplitFractions(1.0, 0.0, 0.0),
        residency=residency,  # type: ignore[arg-type]
    )
    epoch = -1

    def read() -> Iterator[Batch]:
        nonlocal epoch
        epoch += 1
        data.set_epoch(epoch)
        yield from data.train_dataloader()

    return read


def shuffled(rows_of: Callable[[Tensor], Tensor], targets: Tensor) -> Passes[Batch]:
    """What the data module gives, by hand: whole prompts in a new order each time, float32, with their scores and ids.

    ``rows_of`` gives the stored rows [k, C, H, W] of prompts [k / SEEDS], ``targets`` are [n, 1].
    """
    generator = torch.Generator().manual_seed(0)

    def read() -> Iterator[Batch]:
        for prompts in torch.randperm(len(targets) // SEEDS, generator=generator).split(BATCH // SEEDS):
            ids = (prompts[:, None] * SEEDS + torch.arange(SEEDS)).flatten()
            features = {TAP: rows_of(prompts).float()}
            step = torch.full_like(ids, STEP)
            yield Batch(features, targets[ids], prompts.repeat_interleave(SEEDS), ids, step)

    return read


def shuffled_memcpy(source: Callable[[], Tensor], targets: Tensor) -> Passes[Batch]:
    """The same bytes, float32 and in the order of the batches already, copied from memory: the ceiling."""
    ids = torch.randperm(len(targets) // SEEDS, generator=torch.Generator().manual_seed(0))
    ids = (ids[:, None] * SEEDS + torch.arange(SEEDS)).flatten()
    made = Batch({TAP: source()[ids].float()}, targets[ids], ids // SEEDS, ids, torch.full_like(ids, STEP))

    def read() -> Iterator[Batch]:
        for start in range(0, len(ids), BATCH):
            rows = slice(start, start + BATCH)
            columns = (column[rows].clone() for column in (made.targets, made.group, made.sample_id, made.step))
            yield Batch({TAP: made.features[TAP][rows].clone()}, *columns)

    return read


def shuffled_npy(folder: Path, targets: Tensor) -> Passes[Batch]:
    array = np.load(folder / npy_name(KEY), mmap_mode="r")
    by_prompt = array.reshape(-1, SEEDS, *SHAPE)
    return shuffled(lambda prompts: torch.from_numpy(by_prompt[prompts.numpy()]).flatten(0, 1), targets)


def shuffled_safetensors(folder: Path, targets: Tensor) -> Passes[Batch]:
    slices = [safe_open(path, "pt").get_slice(KEY) for path in sorted((folder / "shards").glob("*.safetensors"))]

    def rows_of(prompts: Tensor) -> Tensor:
        starts = [divmod(prompt * SEEDS, SHARD) for prompt in prompts.tolist()]
        return torch.cat([slices[shard][row : row + SEEDS] for shard, row in starts])

    return shuffled(rows_of, targets)


def shuffled_memory(source: Callable[[], Tensor], targets: Tensor) -> Passes[Batch]:
    """The whole array in memory, loaded by the first pass."""
    loaded: list[Tensor] = []

    def rows_of(prompts: Tensor) -> Tensor:
        if not loaded:
            loaded.append(source().unflatten(0, (-1, SEEDS)))
        return loaded[0][prompts].flatten(0, 1)

    return shuffled(rows_of, targets)


def stored(folder: Path, source: Tensor) -> dict[str, Callable[[], Passes[Tensor]]]:
    """By name, what opens a reader of batches in order, float16."""
    return {
        "memcpy": partial(memcpy, source),
        "probe_lab reader": partial(cache_rows, folder / "cache"),
        "probe_lab shard slices": partial(cache_shards, folder / "cache"),
        "npy, mapped": partial(npy, folder / "npy"),
        "safetensors get_slice": partial(safetensors_slices, folder / "cache"),
        "torch.save": partial(torch_files, folder / "torch"),
        "litdata": partial(litdata, folder / "litdata"),
        "webdataset": partial(webdataset, folder / "webdataset"),
    }


def for_training(folder: Path, targets: Tensor) -> dict[str, Callable[[], Passes[Batch]]]:
    """By name, what opens a reader of shuffled prompts, float32, with scores and ids."""
    path = folder / "npy" / npy_name(KEY)
    return {
        "probe_lab stream": partial(module, folder / "cache", "stream"),
        "probe_lab memory": partial(module, folder / "cache", "memory"),
        "memcpy": partial(shuffled_memcpy, lambda: torch.from_numpy(np.load(path)), targets),
        "npy, mapped": partial(shuffled_npy, folder / "npy", targets),
        "npy, in memory": partial(shuffled_memory, lambda: torch.from_numpy(np.load(path)), targets),
        "safetensors get_slice": partial(shuffled_safetensors, folder / "cache", targets),
    }


def require_same(name: str, batches: Iterator[Tensor], source: Tensor) -> None:
    """AssertionError where a reader gave other arrays than were written, or not all of its samples."""
    start = 0
    for batch in batches:
        if not torch.equal(batch, source[start : start + BATCH]):
            raise AssertionError(f"{name} gave other arrays than were written")
        start += len(batch)
    if start != len(source):
        raise AssertionError(f"{name} gave {start} samples of {len(source)}")


def require_trainable(name: str, batches: Iterator[Batch], source: Tensor, targets: Tensor) -> None:
    """AssertionError where batches for a training are not what was written, or no shuffled whole prompts."""
    seen = []
    for batch in batches:
        seen.append(batch.sample_id)
        if not (
            torch.equal(batch.features[TAP], source[batch.sample_id].float())
            and torch.equal(batch.targets, targets[batch.sample_id])
            and torch.equal(batch.group, batch.sample_id // SEEDS)
        ):
            raise AssertionError(f"{name} gave other arrays, scores or prompts than were written")
    ids = torch.cat(seen)
    if not torch.equal(ids.sort().values, torch.arange(len(source))):
        raise AssertionError(f"{name} did not give every sample once")
    if torch.equal(ids, torch.arange(len(source))):
        raise AssertionError(f"{name} did not shuffle")
