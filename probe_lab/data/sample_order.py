"""Who reads what, when: pure functions from (seed, epoch, rank, worker) to an order of prompt groups."""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
import numpy.typing as npt
import pandas as pd

from probe_lab.cache.tensors import IntArray
from probe_lab.data.groups import Groups


def epoch_order(
    groups: Groups, *, seed: int, epoch: int, shuffle: bool, oversample: float, window_shards: int | None
) -> tuple[IntArray, IntArray]:
    """Group indices in the order of one epoch, and for each the window of shards that it is read from.

    Shuffled: the shards are permuted and cut into windows of `window_shards` (None: one window of all); the
    groups of a window are permuted among themselves, so a reader needs one window at a time. Not shuffled:
    cache order, one shard at a time. The same (seed, epoch) gives the same order on every rank and in every
    process.
    """
    picked = np.arange(len(groups), dtype=np.int64)
    shards, dense = np.unique(groups.shard, return_inverse=True)
    if not shuffle:
        return picked, np.zeros_like(picked) if window_shards is None else dense
    rng = np.random.default_rng((seed, epoch))
    if oversample > 0:
        picked = np.repeat(picked, repeats(groups.mean_target(), oversample, rng))
    window = rng.permutation(len(shards))[dense[picked]] // (window_shards or max(len(shards), 1))
    order = np.lexsort((rng.random(len(picked)), window))
    return picked[order], window[order]


def repeats(score: npt.NDArray[np.float64], oversample: float, rng: np.random.Generator) -> IntArray:
    """How often each of G groups is seen in one epoch of (exactly) G groups, [G].

    A group has the weight 1 + oversample · r, r its rank by score from the top: 0 for the highest mean score,
    1 for the lowest, ties share their mean rank. Expected repeats are the weights divided by their mean;
    systematic sampling gives each group the whole number below or above, so with `oversample` 1 the lowest is
    seen 4/3 times per epoch on average, and the highest in 2 of 3 epochs. With 0 every group is seen exactly
    once.
    """
    count = len(score)
    rank = pd.Series(score).rank(ascending=False).to_numpy() - 1
    weight = 1 + oversample * rank / max(count - 1, 1)
    mixed = rng.permutation(count)  # else neighbours in the cache would never be drawn independently
    edges = np.cumsum(weight[mixed]) * (count / weight.sum())
    edges[-1] = count  # exactly, whatever the rounding of the sum
    drawn = np.diff(np.floor(edges + rng.random()), prepend=0.0).astype(np.int64)
    found = np.empty(count, dtype=np.int64)
    found[mixed] = drawn
    return found


def steps_of(groups: int, steps: Sequence[int], *, seed: int, epoch: int) -> IntArray:
    """The step at which each of G groups is seen in one epoch, [G]: all samples of a prompt at the same one.

    Each group goes through all n ``steps`` in turn, from a random one of them, so n epochs show it once at each step,
    and in every epoch the steps are equally frequent, to within one group. The same on every rank and in every process.
    """
    if len(steps) == 1:
        return np.full(groups, steps[0], dtype=np.int64)
    first = np.random.default_rng((seed, 1, 1)).permutation(groups)
    return np.asarray(steps, dtype=np.int64)[(first + epoch) % len(steps)]


def batch_bounds(groups: int, batch_prompts: int, rank: int, world_size: int) -> IntArray:
    """Where the batches of a rank begin and end in the epoch order, [batches + 1].

    Every rank takes a contiguous part of the order, equal to within one group, and cuts it into the same
    number of batches, equal to within one group and never above `batch_prompts`. So no sample is dropped,
    padded or seen twice, in training or in evaluation, and no rank waits for another; 17 prompts in batches
    of 16 are 8 and 9.
    """
    if groups == 0:
        return np.zeros(1, dtype=np.int64)
    first, last = groups * rank // world_size, groups * (rank + 1) // world_size
    batches = math.ceil(math.ceil(groups / world_size) / batch_prompts)
    return first + np.arange(batches + 1, dtype=np.int64) * (last - first) // batches


def worker_batches(batches: int, done: int, worker: int, workers: int) -> range:
    """Which batches of a rank (positions in `batch_bounds`) a worker makes, after `done` were delivered.

    A worker takes neighbouring batches, so that workers share no shards, and the DataLoader asks them in
    turn: the i-th batch that it delivers comes from the part i % workers. After a resume the turn begins anew
    at worker 0, which therefore continues the part whose turn it is.
    """
    part = (worker + done) % workers
    size = batches // workers
    first = part * size + min(part, batches % workers)
    delivered = (done - part + workers - 1) // workers
    return range(first + delivered, first + size + (part < batches % workers))
