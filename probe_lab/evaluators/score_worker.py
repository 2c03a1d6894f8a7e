"""Scoring by the workers of an engine, which score whole shards."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from probe_lab.cache import Cache
from probe_lab.cache.manifest import manifest_path
from probe_lab.config import Engine, Scoring
from probe_lab.engines import Pool, Site, WorkerSpec, deaths_as, open_pool
from probe_lab.errors import ScoreError
from probe_lab.evaluators.base import Evaluator, create, families
from probe_lab.evaluators.lacking import Pass, by_shard
from probe_lab.evaluators.passes import Part, release, score_here

AGAIN = ": run the same command again"
"""After the death of a worker."""
scoring_workers = partial(WorkerSpec, called="a scoring process", if_killed=" (killed, or out of memory)")
"""The ``WorkerSpec`` of workers that score, whatever they score."""


@dataclass(frozen=True, eq=False)
class ScoreTask:
    """Samples ``ids`` of one shard, for evaluators whose models may be in memory together."""

    names: tuple[str, ...]
    ids: NDArray[np.int64]


@contextmanager
def scoring_pool(
    cache: Cache, passes: Sequence[Pass], scoring: Scoring, workers: int, engine: Engine
) -> Iterator[Iterator[Part]]:
    """Scores of each pass's evaluators for its samples, shard by shard, from up to ``workers`` workers, which start on
    entering.

    A worker keeps its models from shard to shard, and turns to others when all shards of these are taken.

    Raises:
        ConfigError: the engine is not there or cannot hold a worker, or a worker does not see the cache.
        ScoreError: what an evaluator cannot score, or the death of a worker.
    """
    tasks = _tasks(cache, passes, scoring)
    has_model = any(evaluator.has_model for members, _ in passes for evaluator in members)
    spec = scoring_workers(
        partial(ScoreWorker, cache.folder, scoring),
        min(workers, sum(map(len, tasks.values()))),
        devices=frozenset({("scoring.device", scoring.device)} if has_model else ()),
        reads=[manifest_path(cache.folder)],
    )
    with deaths_as(ScoreError, AGAIN), open_pool(engine, spec) as pool:
        yield _parts(pool, tasks)


def _parts(pool: Pool[Any], tasks: dict[tuple[str, ...], list[ScoreTask]]) -> Iterator[Part]:
    for _, parts in pool.results(tasks):
        yield from parts


def _tasks(cache: Cache, passes: Sequence[Pass], scoring: Scoring) -> dict[tuple[str, ...], list[ScoreTask]]:
    tasks: dict[tuple[str, ...], list[ScoreTask]] = defaultdict(list)
    for members, ids in passes:
        shards = by_shard(cache, ids)
        for names in _together(members, scoring):
            tasks[names] += [ScoreTask(names, shard) for shard in shards]
    return tasks


def _together(members: Sequence[Evaluator], scoring: Scoring) -> list[tuple[str, ...]]:
    """Names of evaluators that one worker holds at a time: all, or one family with a model and all those without."""
    if scoring.resident:
        return [tuple(each.name for each in members)]
    exact = tuple(each.name for each in members if not each.has_model)
    heavy = [tuple(each.name for each in family) for family in families([m for m in members if m.has_model])]
    return [(*exact, *heavy[0]), *heavy[1:]] if heavy else [exact]


class ScoreWorker:
    """The evaluators of one group of tasks."""

    def __init__(self, folder: Path, scoring: Scoring, site: Site) -> None:
        self._cache, self._beside = Cache(folder), site.beside
        # Released here, when the group changes.
        self._scoring = replace(scoring, device=site.device(scoring.device), resident=True)
        self._evaluators: list[Evaluator] = []

    def do(self, task: ScoreTask) -> list[Part]:
        """The parts of one shard."""
        if task.names != tuple(evaluator.name for evaluator in self._evaluators):
            release(self._evaluators)
            self._evaluators = [create(name, self._scoring) for name in task.names]
        return list(score_here(self._cache, self._evaluators, task.ids, self._scoring, self._beside))
