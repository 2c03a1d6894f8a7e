"""The prompt groups of each split: which samples belong together, where they lie, and their targets."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from probe_lab.cache import Cache
from probe_lab.cache.tensors import IntArray
from probe_lab.data.splits import SPLITS, Split, SplitFractions, splits_of


@dataclass(frozen=True, eq=False)
class Groups:
    """G prompt groups of one split, S samples, in cache order; group g is start[g]:start[g+1].

    `prompt_id` and `shard` [G]; `start` [G+1]; per sample [S]: `sample_id`, its `row` in its shard, its
    `resident_row` in `Cache.read_all`; `targets` float32 [S, E], never NaN. `left_out` counts the samples of
    the split that have no score of one of the evaluators, or whose shard is not complete; a prompt without
    any sample left is not a group.
    """

    prompt_id: IntArray
    shard: IntArray
    start: IntArray
    sample_id: IntArray
    row: IntArray
    resident_row: IntArray
    targets: npt.NDArray[np.float32]
    left_out: int

    def __len__(self) -> int:
        return len(self.prompt_id)

    def mean_target(self) -> npt.NDArray[np.float64]:
        """Mean score of each group by the first evaluator, [G]."""
        sums = np.add.reduceat(self.targets[:, 0].astype(np.float64), self.start[:-1])
        return sums / np.diff(self.start)


def prompt_groups(cache: Cache, evaluators: Sequence[str], fractions: SplitFractions) -> dict[Split, Groups]:
    """The groups of all three splits. ScoreError (from the cache) for an evaluator that has no scores."""
    samples = cache.samples
    targets = np.stack([cache.scores(evaluator) for evaluator in evaluators], axis=1)
    complete = samples["shard"].isin(cache.shards).to_numpy()
    usable = complete & ~np.isnan(targets).any(axis=1)
    resident_row = np.cumsum(complete) - 1

    splits = splits_of(samples, fractions).to_numpy()

    prompt_id = samples["prompt_id"].to_numpy()
    shard, row = samples["shard"].to_numpy(), samples["row"].to_numpy()
    found: dict[Split, Groups] = {}
    for split in SPLITS:
        of_split = splits == split
        chosen = np.flatnonzero(of_split & usable)  # prompt-major, so the seeds of a prompt are neighbours
        first = np.flatnonzero(np.diff(prompt_id[chosen], prepend=-1))
        found[split] = Groups(
            prompt_id=prompt_id[chosen][first],
            shard=shard[chosen][first],
            start=np.append(first, len(chosen)),
            sample_id=chosen,
            row=row[chosen],
            resident_row=resident_row[chosen],
            targets=targets[chosen],
            left_out=int(of_split.sum() - len(chosen)),
        )
    return found


def some_of(groups: Groups, prompts: int, seed: int) -> Groups:
    """So many of the groups, in cache order. Of one seed, fewer are always among more: which they are depends on the
    hash of (seed, prompt id) alone."""
    order = [hashlib.sha256(f"{seed}/{prompt}".encode()).digest() for prompt in groups.prompt_id.tolist()]
    chosen = np.sort(np.array(sorted(range(len(groups)), key=order.__getitem__)[:prompts], dtype=np.int64))
    sizes = np.diff(groups.start)
    kept = np.repeat(np.isin(np.arange(len(groups)), chosen), sizes)
    return Groups(
        prompt_id=groups.prompt_id[chosen],
        shard=groups.shard[chosen],
        start=np.append(0, np.cumsum(sizes[chosen])),
        sample_id=groups.sample_id[kept],
        row=groups.row[kept],
        resident_row=groups.resident_row[kept],
        targets=groups.targets[kept],
        left_out=groups.left_out,
    )
