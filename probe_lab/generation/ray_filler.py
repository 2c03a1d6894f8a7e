"""Generation on a Ray cluster: actors with a pipeline each, which take the shards of prompt ranges."""

from __future__ import annotations

import contextlib
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial
from typing import Literal

import pandas as pd

from probe_lab.backbones.pipelines import load_pipeline
from probe_lab.cache import Cache, CacheWriter, Manifest
from probe_lab.config import Experiment
from probe_lab.engines import Ended, Lost, Pool, Said, ray_cluster, require_gpus, token_in
from probe_lab.errors import CacheError
from probe_lab.generation.fill import fill_shards, fill_text
from probe_lab.generation.measured_plan import Plan, make_plan
from probe_lab.generation.workers import Job, on_device


@contextlib.contextmanager
def ray_filler(experiment: Experiment, shards: int) -> Iterator[RayFiller]:
    """Actors that load their pipelines at once; all end with the block.

    Raises:
        ConfigError: the cluster does not answer or cannot hold a worker, or the device needs GPUs that none reserves.
    """
    device = experiment.sampling.device
    require_gpus(experiment.engine, "sampling.device", device)
    mine = "cuda" if device.startswith("cuda") else device  # an actor sees its own cards, counted from 0
    make = partial(GenerationWorker, on_device(experiment, mine))
    size = min(experiment.workers, shards)
    with (
        ray_cluster(experiment.engine) as cluster,
        token_in(experiment.cache_folder) as token,
        Pool(cluster, make, size, [token]) as pool,
    ):
        yield RayFiller(pool)


@dataclass(frozen=True)
class _PlanTask:
    samples: pd.DataFrame
    workers: int


_Task = _PlanTask | Literal["text"] | int
"""Make the plan, encode the text, or fill the shard of this number."""


@dataclass(frozen=True)
class RayFiller:
    """Has a pool do what ``LocalFiller`` does: the first process needs neither model nor GPU."""

    pool: Pool

    def plan(self, samples: pd.DataFrame) -> Plan:
        made: Plan = self.pool.one(_PlanTask(samples, self.pool.size))
        return made

    def fill_text(self, writer: CacheWriter) -> None:
        self.pool.one("text")

    def fill(self, writer: CacheWriter, job: Job, advance: Callable[[int], None]) -> None:
        """Errors: of the first shard that cannot be generated, or whose workers died three times."""
        reported = Counter[int]()
        for event in self.pool.run({None: job.shards}):
            if isinstance(event, Said):
                reported[event.task] += event.value
                advance(event.value)
            elif isinstance(event, Lost):
                advance(-reported.pop(event.task, 0))
            elif isinstance(event, Ended) and event.error is not None:
                raise event.error


class GenerationWorker:
    """One pipeline in an actor. Manifest and samples are those of the cache on the shared file system."""

    def __init__(self, experiment: Experiment) -> None:
        self._experiment = experiment
        self._pipe = load_pipeline(experiment.backbone, experiment.sampling)
        self._writer: CacheWriter | None = None

    def do(self, task: _Task) -> Iterator[Plan | int]:
        """Yields the plan, or the images of each batch of a shard."""
        if isinstance(task, _PlanTask):
            yield make_plan(self._experiment, self._pipe, task.samples, task.workers)
        elif task == "text":
            fill_text(self._experiment, self._pipe, self._open())
        else:
            yield from self._fill(task)

    def _fill(self, shard: int) -> Iterator[int]:
        """Another worker's shard may be complete after all: it was lost with the last word unsaid."""
        writer = self._open()
        if shard not in writer.pending():
            yield len(writer.samples_of(shard))
            return
        try:
            yield from fill_shards(self._experiment, self._pipe, writer, [shard])
        except CacheError:
            if shard in writer.pending():
                raise

    def _open(self) -> CacheWriter:
        if self._writer is None:
            folder = self._experiment.cache_folder
            self._writer = CacheWriter(folder, Manifest.load(folder), Cache(folder).samples)
        return self._writer
