"""Scoring on a Ray cluster: actors that score whole shards, with one model each at a time."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from probe_lab.cache import Cache
from probe_lab.cache.manifest import manifest_path
from probe_lab.config import Engine, Scoring
from probe_lab.engines import Lost, Pool, Said, ray_cluster, require_gpus, same_file
from probe_lab.evaluators.base import Evaluator, create, families
from probe_lab.evaluators.passes import Part, release, score_here


@dataclass(frozen=True, eq=False)
class ScoreTask:
    """Samples ``ids`` of one shard, for evaluators whose models may be in memory together."""

    names: tuple[str, ...]
    ids: NDArray[np.int64]


def score_on_ray(
    cache: Cache,
    passes: Sequence[tuple[Sequence[Evaluator], NDArray[np.int64]]],
    scoring: Scoring,
    workers: int,
    engine: Engine,
) -> Iterator[Part]:
    """Scores of each pass's evaluators for its samples, shard by shard, from up to ``workers`` actors.

    An actor keeps its models from shard to shard, and turns to others when all shards of these are taken.

    Raises:
        ConfigError: the cluster does not answer or cannot hold a worker, or a node does not see the cache.
        ScoreError: what an evaluator cannot score; WorkerDied: three workers died at one shard.
    """
    groups = _groups(cache, passes, scoring)
    if not groups:
        return
    if any(each.has_model for members, _ in passes for each in members):
        require_gpus(engine, "scoring.device", scoring.device)
    size = min(workers, sum(map(len, groups.values())))
    with ray_cluster(engine) as cluster:
        shared = [same_file(manifest_path(cache.folder))]
        with Pool(cluster, partial(ScoreWorker, cache.folder, scoring), size, shared) as pool:
            yield from _parts(pool, groups)


def _groups(
    cache: Cache, passes: Sequence[tuple[Sequence[Evaluator], NDArray[np.int64]]], scoring: Scoring
) -> dict[tuple[str, ...], list[ScoreTask]]:
    groups: dict[tuple[str, ...], list[ScoreTask]] = defaultdict(list)
    for members, ids in passes:
        shards = [each.to_numpy() for _, each in cache.samples.iloc[ids].groupby("shard")["sample_id"]]
        for names in _together(members, scoring):
            groups[names] += [ScoreTask(names, each) for each in shards]
    return groups


def _together(members: Sequence[Evaluator], scoring: Scoring) -> list[tuple[str, ...]]:
    """Names of evaluators that one actor holds at a time: all, or one family with a model and all those without."""
    if scoring.resident:
        return [tuple(each.name for each in members)]
    exact = tuple(each.name for each in members if not each.has_model)
    heavy = [tuple(each.name for each in family) for family in families([m for m in members if m.has_model])]
    return [(*exact, *heavy[0]), *heavy[1:]] if heavy else [exact]


def _parts(pool: Pool, groups: dict[tuple[str, ...], list[ScoreTask]]) -> Iterator[Part]:
    """The parts of a shard once all are there: those of a lost worker come again."""
    found: dict[int, list[Part]] = defaultdict(list)
    for event in pool.run(groups):
        if isinstance(event, Said):
            found[id(event.task)].append(event.value)
        elif isinstance(event, Lost):
            found.pop(id(event.task), None)
        elif event.error is not None:
            raise event.error
        else:
            yield from found.pop(id(event.task), [])


class ScoreWorker:
    """The evaluators of one group, in an actor."""

    def __init__(self, folder: Path, scoring: Scoring) -> None:
        device = "cuda" if scoring.device.startswith("cuda") else scoring.device  # an actor counts its cards from 0
        self._cache = Cache(folder)
        self._scoring = replace(scoring, device=device, resident=True)  # released here, when the group changes
        self._evaluators: list[Evaluator] = []

    def do(self, task: ScoreTask) -> Iterator[Part]:
        """The parts of one shard."""
        if task.names != tuple(each.name for each in self._evaluators):
            release(self._evaluators)
            self._evaluators = [create(name, self._scoring) for name in task.names]
        yield from score_here(self._cache, self._evaluators, task.ids, self._scoring)
