"""labels/renoised/<number>/<shard>.safetensors: finished training pictures that were noised again.

A file holds ``sample_id`` int64 [n] in order, ``step`` int64 [n], the captured step at which each was noised, and what
one denoiser call made of it, ``x0`` [n, C, h, w] in the dtype of the cache's arrays. There is a file for each shard,
and a set of them for each fresh noise, whose ``number`` counts from 0.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from probe_lab.cache.identity import Identity
from probe_lab.cache.label_files import AGAIN, Captions
from probe_lab.cache.layout import is_number, numbers, renoised_folder, renoised_path
from probe_lab.cache.scores import UNREADABLE_IMAGES, unreadable_images
from probe_lab.cache.tensor_files import CHECKSUM, write_tensor_file
from probe_lab.cache.tensor_rows import TensorRows
from probe_lab.errors import CacheError

PROMPTS = "prompts_sha256"
"""Metadata key: the training prompts that the pictures are of."""


def write_renoised(
    folder: Path,
    number: int,
    shard: int,
    ids: npt.NDArray[np.int64],
    steps: npt.NDArray[np.int64],
    x0: Tensor,
    metadata: Mapping[str, str],
    identity: Identity,
) -> None:
    """Replace a file, whole or not at all. CacheError for values that are not finite, or when it cannot be written."""
    finite = x0.isfinite().flatten(1).all(1)
    if not finite.all():
        first = int((~finite).nonzero()[0])
        raise CacheError(
            f"sample {ids[first]}, noised as at step {steps[first]}, has an x0 that does not fit {x0.dtype}: NaN or "
            "infinity; set sampling.dtype or cache.dtype to float32 and generate another cache"
        )
    tensors = {"sample_id": torch.tensor(ids), "step": torch.tensor(steps), "x0": x0.contiguous()}
    write_tensor_file(folder, renoised_path(folder, number, shard), tensors, metadata, identity)


class RenoisedShard:
    """One file. It is compared with its checksum now, and its x0 are read when they are asked for.

    Raises:
        CacheError: it is missing, damaged, another cache's, of prompts that are not the ``captions``', or holds
            something else than such arrays.
    """

    def __init__(self, folder: Path, number: int, shard: int, identity: Identity | None, captions: Captions) -> None:
        path = renoised_path(folder, number, shard)
        self.path, self.rows = path, TensorRows(folder, path, identity)
        self.metadata = self.rows.metadata
        objection = ""
        if self.metadata.get(PROMPTS) != captions.prompts_sha256:
            objection = "it is of other training prompts than those of labels/captions.parquet"
        else:
            ids, steps = (self.rows.whole(name) for name in ("sample_id", "step"))
            alike = ids.dtype == steps.dtype == torch.int64 and ids.shape == steps.shape == self.rows.shape("x0")[:1]
            if not alike:
                objection = "it does not hold sample_id int64 [n], step int64 [n] and x0 [n, C, h, w]"
        if objection:
            raise CacheError(f"{path} is not what belongs there: {objection}; {AGAIN}")
        self.ids: npt.NDArray[np.int64] = ids.numpy()
        self.steps: npt.NDArray[np.int64] = steps.numpy()

    @property
    def settings(self) -> dict[str, str]:
        """What made it, the same in all files of a cache."""
        return {key: text for key, text in self.metadata.items() if key not in (CHECKSUM, UNREADABLE_IMAGES)}

    def objection(self, other: RenoisedShard) -> str:
        """In which settings this file differs from another one; "" where they are the same."""
        own, others = self.settings, other.settings
        differing = [key for key in sorted({*own, *others}) if own.get(key) != others.get(key)]
        listed = "; ".join(f"{key} is {own.get(key)}, there {others.get(key)}" for key in differing)
        return listed and f"it was made by other settings than {other.path}: {listed}"

    @property
    def unreadable(self) -> set[int]:
        """Samples that are left out because their image is broken."""
        return unreadable_images(self.metadata)


@dataclass(frozen=True, eq=False)
class Renoised:
    """All pictures of a cache with one fresh noise each: samples ``ids`` int64 [n] in order, and the ``steps`` int64
    [n] at which they were noised."""

    ids: npt.NDArray[np.int64]
    steps: npt.NDArray[np.int64]
    shards: tuple[RenoisedShard, ...]

    @classmethod
    def of(cls, shards: Iterable[RenoisedShard]) -> Renoised:
        """CacheError for shards that were made by different settings."""
        files = tuple(shards)
        require_same_settings(files)
        return cls(np.concatenate([file.ids for file in files]), np.concatenate([file.steps for file in files]), files)

    def x0(self, rows: npt.ArrayLike) -> Tensor:
        """The x0 of these rows, at least one, [k, C, h, w] in the stored dtype, read from the disk."""
        wanted = np.asarray(rows, dtype=np.int64)
        sizes = np.array([len(shard.ids) for shard in self.shards])
        ends = np.cumsum(sizes)
        places = np.searchsorted(ends, wanted, side="right")
        firsts = ends - sizes
        return torch.cat(
            [
                self.shards[place].rows.read("x0", torch.tensor([int(row - firsts[place])]))
                for place, row in zip(places.tolist(), wanted.tolist(), strict=True)
            ]
        )


def require_same_settings(shards: Sequence[RenoisedShard]) -> None:
    """CacheError for the first file that other settings made than those before it."""
    for shard in shards[1:]:
        if objection := shard.objection(shards[0]):
            raise CacheError(f"{shard.path} is not what belongs there: {objection}; {AGAIN}")


def stored_renoised(folder: Path) -> dict[int, list[int]]:
    """The shards that have a file, by number; numbers without any are left out."""
    places = {int(path.name): path for path in renoised_folder(folder).glob("*") if is_number(path.name)}
    stored = {number: numbers(places[number], ".safetensors") for number in sorted(places)}
    return {number: shards for number, shards in stored.items() if shards}
