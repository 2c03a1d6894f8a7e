"""From the images of a cache to what evaluators score: read by shard, decoded once each, by several threads."""

from __future__ import annotations

import os
import threading
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import Executor, ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass, field
from itertools import islice

import numpy as np
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor

from probe_lab.cache import Cache
from probe_lab.cache.picture import MOST_PIXELS, opened
from probe_lab.errors import CacheError
from probe_lab.evaluators.base import Evaluator, Prepared, prepared

_READ = 64
"""Images that are decoded between two looks at the size of a chunk."""
_THREADS = 16

Raw = tuple[int, str, bytes]
"""A sample: its id, its prompt, its picture as it is stored."""


@dataclass
class Chunk:
    """Pictures that wait to be scored, prepared for every evaluator; ``unreadable`` ones could not be decoded."""

    ids: list[int] = field(default_factory=list)
    prompts: list[str] = field(default_factory=list)
    inputs: list[Mapping[str, Prepared]] = field(default_factory=list)
    unreadable: list[int] = field(default_factory=list)
    nbytes: int = 0

    def add(self, raw: Raw, inputs: Mapping[str, Prepared] | None) -> None:
        if inputs is None:
            self.unreadable.append(raw[0])
            return
        self.ids.append(raw[0])
        self.prompts.append(raw[1])
        self.inputs.append(inputs)
        self.nbytes += sum(_size(each) for each in inputs.values())


@contextmanager
def chunks(
    cache: Cache, evaluators: Sequence[Evaluator], ids: NDArray[np.int64], limit: int
) -> Iterator[Iterator[Chunk]]:
    """The samples ``ids`` in chunks of about ``limit`` bytes; the next one is made while one is scored.

    CacheError when the images of a shard cannot be read at all.
    """
    stopped = threading.Event()
    with ThreadPoolExecutor(min(_THREADS, os.cpu_count() or 1)) as pool, ThreadPoolExecutor(1) as ahead:
        made = _made(cache, evaluators, ids, limit, pool, stopped)
        try:
            yield _ahead(made, ahead)
        finally:
            stopped.set()  # a chunk that nobody waits for is not finished


def decoded(data: bytes, most: int = MOST_PIXELS) -> Image.Image | None:
    """The picture, or None when it is broken or has more than ``most`` pixels."""
    try:
        image = opened(data, most)
        image.load()
    except MemoryError:
        raise
    except Exception:  # Pillow raises whatever its decoder met: OSError, SyntaxError, ValueError, struct.error
        return None
    return image


def raw_images(cache: Cache, ids: NDArray[np.int64]) -> Iterator[Raw]:
    """The stored pictures of samples of complete shards, shard by shard. CacheError for one that is not there."""
    rows = cache.samples.iloc[ids]
    for shard, of_shard in rows.groupby("shard"):
        prompts = dict(zip(of_shard["sample_id"].tolist(), of_shard["prompt"], strict=True))
        for sample, data in cache.iter_images(int(str(shard))):
            if sample in prompts:
                yield sample, prompts.pop(sample), data
        if prompts:
            raise CacheError(
                f"shard {shard} of {cache.folder} holds no image of sample {min(prompts)}: "
                "`probe-lab cache verify` lists what is damaged"
            )


def _made(
    cache: Cache,
    evaluators: Sequence[Evaluator],
    ids: NDArray[np.int64],
    limit: int,
    pool: Executor,
    stopped: threading.Event,
) -> Iterator[Chunk]:
    def made(raw: Raw) -> dict[str, Prepared] | None:
        image = decoded(raw[2], cache.manifest.pixels)
        return None if image is None else prepared(evaluators, image)

    stream, chunk = raw_images(cache, ids), Chunk()
    while (batch := list(islice(stream, _READ))) and not stopped.is_set():
        for raw, inputs in zip(batch, pool.map(made, batch), strict=True):
            chunk.add(raw, inputs)
        if chunk.nbytes >= limit:
            yield chunk
            chunk = Chunk()
    yield chunk


def _ahead(made: Iterator[Chunk], pool: Executor) -> Iterator[Chunk]:
    coming = pool.submit(next, made, None)
    while (chunk := coming.result()) is not None:
        coming = pool.submit(next, made, None)
        yield chunk


def _size(each: Prepared) -> int:
    if isinstance(each, Tensor):
        return each.nbytes
    return each.width * each.height * len(each.getbands())
