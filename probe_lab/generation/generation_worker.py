"""What one worker of a generation does: load a pipeline once, then make the plan, encode the text, or fill shards."""

from __future__ import annotations

from collections.abc import Generator
from dataclasses import dataclass, replace
from functools import partial
from typing import Literal

import pandas as pd
import torch

from probe_lab.backbones.pipelines import load_pipeline
from probe_lab.cache import Cache, CacheWriter, Manifest
from probe_lab.config import Experiment
from probe_lab.engines import Site, WorkerSpec, engine_of
from probe_lab.errors import CacheError
from probe_lab.generation.fill import Drawn, fill_shards, fill_text
from probe_lab.generation.measured_plan import Plan, make_plan


@dataclass(frozen=True)
class PlanTask:
    """Say what all samples will take, with so many workers. ``shard`` is what this worker fills next, if known."""

    samples: pd.DataFrame
    workers: int
    shard: int | None


Task = PlanTask | Literal["text"] | int
"""Make the plan, encode and store the text of all prompts, or fill the shard of this number."""


def generation_workers(experiment: Experiment, shards: int) -> WorkerSpec:
    """Workers with a pipeline each. On this machine, this process is one of them: it loads and plans while others
    start."""
    return WorkerSpec(
        partial(GenerationWorker, experiment),
        workers_of(experiment, shards),
        devices=frozenset({("sampling.device", experiment.sampling.device)}),
        writes=experiment.cache_folder,
        takes_part=True,
        called="a generating process",
    )


def workers_of(experiment: Experiment, shards: int) -> int:
    """How many generate: of ``workers`` on this machine as many as asked on the CPU, one per card with ``cuda``.

    Another device (``cuda:1``, ``mps``) is one process's. No worker is without a shard.
    """
    device, workers = experiment.sampling.device, min(experiment.workers, shards)
    if experiment.sampling.on_cpu or not engine_of(experiment.engine).shares_machine:
        return workers
    return max(1, min(workers, torch.cuda.device_count())) if device == "cuda" else 1


class GenerationWorker:
    """One pipeline. Manifest and samples are those of the cache on disk."""

    def __init__(self, experiment: Experiment, site: Site) -> None:
        sampling = replace(experiment.sampling, device=site.device(experiment.sampling.device))
        self._experiment = replace(experiment, sampling=sampling)
        self._pipe = load_pipeline(experiment.backbone, sampling)
        self._writer: CacheWriter | None = None
        self._drawn: Drawn = {}  # the batch that the plan was made with

    def do(self, task: Task) -> Plan | Generator[int] | None:
        """The plan, or the images of each batch of a shard."""
        if isinstance(task, PlanTask):
            plan, self._drawn = make_plan(self._experiment, self._pipe, task.samples, task.workers, task.shard)
            return plan
        if task == "text":
            fill_text(self._experiment, self._pipe, self._open())
            return None
        return self._fill(task)

    def _fill(self, shard: int) -> Generator[int]:
        writer = self._open()
        try:
            yield from fill_shards(self._experiment, self._pipe, writer, [shard], self._drawn)
        except CacheError:
            if shard in writer.pending():  # else another worker had completed it, and was lost before it said so
                raise

    def _open(self) -> CacheWriter:
        if self._writer is None:
            folder = self._experiment.cache_folder
            self._writer = CacheWriter(folder, Manifest.load(folder), Cache(folder).samples)
        return self._writer
