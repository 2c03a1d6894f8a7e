"""Prompts to images and tensors: plan, then fill the cache with one worker or several."""

from __future__ import annotations

import logging
from collections import Counter
from collections.abc import Callable, Hashable, Iterator, Sequence
from typing import Any

import pandas as pd

from probe_lab.backbones.family import has_patterns
from probe_lab.backbones.pipelines import load_pipeline
from probe_lab.cache import Cache, CacheWriter, Manifest, require_same
from probe_lab.cache.faults import faults_note, require_pictures
from probe_lab.cache.layout import complete_shards
from probe_lab.capture.text_embeddings import ENCODER
from probe_lab.config import Experiment
from probe_lab.engines import Lost, Pool, Said, deaths_as, open_pool
from probe_lab.engines.local import shared_threads
from probe_lab.errors import CaptureError
from probe_lab.generation.fill import manifest_of
from probe_lab.generation.generation_worker import PlanTask, generation_workers, workers_of
from probe_lab.generation.measured_plan import Plan, make_plan
from probe_lab.generation.prompts import sample_table
from probe_lab.processes import terminated_as_interrupt
from probe_lab.progress import OnProgress

_log = logging.getLogger(__name__)


def generate(
    experiment: Experiment,
    on_progress: OnProgress = lambda done, total: None,
    announce: Callable[[Plan], None] = lambda plan: None,
) -> None:
    """Fill the experiment's cache; what complete shards hold is not generated again.

    ``announce`` is given the plan before the first image; ``on_progress(images done, images in all)`` follows.
    With ``workers`` > 1 as many workers of the engine share the shards: processes of this machine share its cores, one
    per card at most, and what a lost actor of a cluster generated is generated again. On the CPU, the cache does not
    depend on how many, nor on where.

    Raises:
        CacheError: another experiment's cache lies there, the disk cannot hold the plan, a tensor overflows, or, at
            the end, no image is a picture.
        CaptureError: a tap or a step that the backbone or the schedule lacks, or a worker died.
        ConfigError: an engine that is not there, or on which no worker finds a place.
        KeyboardInterrupt: after Ctrl-C or SIGTERM; the other processes are stopped, complete shards are kept.
    """
    samples = sample_table(experiment)
    if is_complete(experiment, samples):
        on_progress(len(samples), len(samples))
        _tell_faults(experiment)
        return
    _refuse_another(experiment, samples)
    spec = generation_workers(experiment, samples["shard"].nunique())
    again = deaths_as(CaptureError, "; the same command continues")
    with terminated_as_interrupt(), again, open_pool(experiment.engine, spec) as pool:
        _generate(experiment, samples, pool, on_progress, announce)
    _tell_faults(experiment)


def _tell_faults(experiment: Experiment) -> None:
    """Warn of images that are no pictures. CacheError where none is one."""
    cache = Cache(experiment.cache_folder)
    require_pictures(cache)
    if note := faults_note(cache):
        _log.warning(note)


def _generate(
    experiment: Experiment,
    samples: pd.DataFrame,
    pool: Pool[Any],
    on_progress: OnProgress,
    announce: Callable[[Plan], None],
) -> None:
    # Of several workers, another one may get the shard.
    shard = _first_missing(experiment, samples) if pool.size == 1 else None
    plan: Plan = pool.one(PlanTask(samples, pool.size, shard))
    announce(plan)
    if not (experiment.cache_folder / "manifest.json").exists():
        plan.require_space(experiment.cache_folder)  # before anything is written
    manifest = manifest_of(experiment, plan.shapes, samples)
    writer = CacheWriter(experiment.cache_folder, manifest, samples, texts=[ENCODER])
    pending = writer.pending()
    for shard, objection in writer.spoilt().items():
        _log.warning("shard %d is generated again: %s", shard, objection)
    plan.require_space(experiment.cache_folder, len(pending) / samples["shard"].nunique())
    pool.one("text")

    done = len(samples) - sum(len(writer.samples_of(shard)) for shard in pending)

    def advance(images: int) -> None:
        nonlocal done
        done += images
        on_progress(done, len(samples))

    advance(0)
    for images in reported(pool, pending):
        advance(images)


def _first_missing(experiment: Experiment, samples: pd.DataFrame) -> int | None:
    """A shard that is certainly filled; none where the cache has them all, spoilt ones among them."""
    missing = set(samples["shard"].unique().tolist()) - set(complete_shards(experiment.cache_folder))
    return min(missing, default=None)


def reported(pool: Pool[Any], tasks: Sequence[Hashable]) -> Iterator[int]:
    """Images done, as workers report them of any task, below 0 for those that were lost; the first error is raised."""
    done = Counter[Hashable]()
    for event in pool.run({None: tasks}):
        if isinstance(event, Said):
            done[event.task] += event.value
            yield event.value
        elif isinstance(event, Lost):
            yield -done.pop(event.task, 0)
        elif event.error is not None:
            raise event.error


def plan_generation(experiment: Experiment) -> Plan:
    """What ``generate`` would take, without touching the cache."""
    samples = sample_table(experiment)
    workers = workers_of(experiment, samples["shard"].nunique())
    with shared_threads(workers):
        pipe = load_pipeline(experiment.backbone, experiment.sampling)
        return make_plan(experiment, pipe, samples, workers)[0]


def is_complete(experiment: Experiment, samples: pd.DataFrame) -> bool:
    """Whether this very cache is there with all its shards, told from its files alone: no model is loaded."""
    folder = experiment.cache_folder
    if not (folder / "manifest.json").exists():
        return False
    stored = Manifest.load(folder)
    wanted = manifest_of(experiment, stored.taps, samples)
    asked = experiment.capture.taps  # patterns are compared as they are written, in the manifest's further settings
    if not has_patterns(asked) and set(stored.taps) != set(asked):
        return False
    if set(stored.difference(wanted)) - {"code_version", "name"}:
        return False
    return Cache(folder).has_text(ENCODER) and not CacheWriter(folder, stored, samples).pending()


def _refuse_another(experiment: Experiment, samples: pd.DataFrame) -> None:
    """``CacheError`` for another experiment's cache, before a model is loaded; its writer compares the taps too."""
    folder = experiment.cache_folder
    if (folder / "manifest.json").exists():
        stored = Manifest.load(folder)
        wanted = manifest_of(experiment, stored.taps, samples)
        require_same(folder, stored.renamed(wanted.name), wanted)
