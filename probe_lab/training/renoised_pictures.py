"""Finished pictures that were noised again, as further examples of a picture judge."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt
from torch import Tensor

from probe_lab.cache import Cache
from probe_lab.cache.renoised import require_same_settings
from probe_lab.errors import ProbeError


class RenoisedPictures:
    """The x0 of ``count`` fresh noises of each picture, which are read when they are drawn. ``digests`` are the
    checksums of their files, in order.

    Raises:
        CacheError: the cache has fewer, or they are damaged, of other training prompts, or made by different settings.
        ProbeError: they are noised as at other steps than ``steps``.
    """

    def __init__(self, cache: Cache, count: int, steps: Sequence[int]) -> None:
        self._noises = [cache.labels.renoised(number) for number in range(count)]
        shards = [shard for noise in self._noises for shard in noise.shards]
        require_same_settings(shards)
        self.digests = [shard.rows.sha256 for shard in shards]
        others = {step for noise in self._noises for step in noise.steps.tolist()} - set(steps)
        if others:
            raise ProbeError(
                f"pictures of {cache.folder} are noised as at step {min(others)}, and 'labels.steps' names "
                f"{', '.join(map(str, steps))}: run `probe-lab score` with these"
            )

    def require(self, ids: npt.NDArray[np.int64]) -> None:
        """ProbeError for a sample that was not noised again."""
        for noise in self._noises:
            missing = ids[~np.isin(ids, noise.ids)]
            if len(missing):
                raise ProbeError(
                    f"sample {missing[0]} has labels and was not noised again: run `probe-lab score` again"
                )

    def drawn(self, rng: np.random.Generator, ids: npt.NDArray[np.int64]) -> tuple[int, Tensor]:
        """The step and the x0 ``[n, C, H, W]`` float32 of one of the noises, of samples ``ids`` [n] of a prompt."""
        noise = self._noises[rng.integers(len(self._noises))]
        rows = np.searchsorted(noise.ids, ids)
        return int(noise.steps[rows[0]]), noise.x0(rows).float()
