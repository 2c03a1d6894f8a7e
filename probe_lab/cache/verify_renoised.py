"""What is wrong with the pictures of a cache that were noised again."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import numpy as np
import torch

from probe_lab.cache.identity import Identity
from probe_lab.cache.label_files import Captions
from probe_lab.cache.layout import renoised_folder, renoised_path
from probe_lab.cache.problems import Problem, problem, runs
from probe_lab.cache.renoised import RenoisedShard, stored_renoised
from probe_lab.errors import CacheError

_AGAIN = "run `probe-lab score` again"
_AT_ONCE = 64
"""Rows that are looked at together."""


def renoised_problems(
    folder: Path, identity: Identity | None, captions: Captions, samples: set[int]
) -> Iterator[Problem]:
    """``samples``: those whose finished pictures have labels. An ``identity`` of None is not compared."""
    first: RenoisedShard | None = None
    for number, shards in stored_renoised(folder).items():
        missing, readable = set(samples), True
        for shard in shards:
            path = renoised_path(folder, number, shard)
            try:
                stored = RenoisedShard(folder, number, shard, identity, captions)
            except CacheError as error:
                readable = False
                yield problem(folder, path, str(error))
                continue
            first = first or stored
            if objection := stored.objection(first):
                yield problem(folder, path, f"{objection}: {_AGAIN}")
            missing -= set(stored.ids.tolist()) | stored.unreadable
            yield from _problems(folder, path, stored, samples)
        if readable:
            for start, last in runs(sorted(missing)):
                what = f"sample {start} was" if start == last else f"samples {start} to {last} were"
                place = renoised_folder(folder) / str(number)
                yield problem(folder, place, f"{what} not noised again: {_AGAIN}", start)


def _problems(folder: Path, path: Path, stored: RenoisedShard, samples: set[int]) -> Iterator[Problem]:
    for sample in sorted(set(stored.ids.tolist()) - samples):
        yield problem(folder, path, f"sample {sample} is of no training prompt, or has no picture: {_AGAIN}", sample)
    if (np.diff(stored.ids) <= 0).any():
        yield problem(folder, path, f"its samples are not in order, or one is there twice: {_AGAIN}")
    for start in range(0, len(stored.ids), _AT_ONCE):
        rows = torch.arange(start, min(start + _AT_ONCE, len(stored.ids)))
        for row in rows[~stored.rows.read("x0", rows).isfinite().flatten(1).all(1)].tolist():
            yield problem(folder, path, f"the x0 of sample {stored.ids[row]} is not finite", row)
