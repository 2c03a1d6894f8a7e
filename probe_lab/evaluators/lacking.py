"""What is not scored yet: which evaluators lack which samples, and which of them can be scored together."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from probe_lab.cache import Cache
from probe_lab.evaluators.base import Evaluator

Pass = tuple[Sequence[Evaluator], NDArray[np.int64]]
"""Evaluators, and the samples that they have to score."""


class Ledger(Protocol):
    """What one evaluator has scored: ``pending`` samples [n] have no score yet, ``save`` keeps the others."""

    evaluator: Evaluator

    @property
    def pending(self) -> NDArray[np.int64]: ...

    def save(self) -> None: ...


def passes(ledgers: Sequence[Ledger]) -> Iterator[Pass]:
    """One for each set of evaluators that lack the same samples: usually one, so that no picture is decoded twice."""
    pending = [ledger.pending for ledger in ledgers]
    samples = np.unique(np.concatenate([np.empty(0, dtype=np.int64), *pending]))
    lacks = np.array([np.isin(samples, ids) for ids in pending])
    kinds, kind_of = np.unique(lacks, axis=1, return_inverse=True)
    for index, kind in enumerate(kinds.T):
        members = [ledger.evaluator for ledger, member in zip(ledgers, kind, strict=True) if member]
        yield members, samples[kind_of.reshape(-1) == index]


def by_shard(cache: Cache, ids: NDArray[np.int64]) -> list[NDArray[np.int64]]:
    """The samples ``ids`` [n], those of each shard apart."""
    return [of_shard.to_numpy() for _, of_shard in cache.samples.iloc[ids].groupby("shard")["sample_id"]]
