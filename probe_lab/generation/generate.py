"""Prompts to images and tensors: plan, then fill the cache with one process or several."""

from __future__ import annotations

import logging
from collections.abc import Callable

import pandas as pd

from probe_lab.backbones.family import has_patterns
from probe_lab.backbones.pipelines import load_pipeline
from probe_lab.cache import Cache, CacheWriter, Manifest, require_same
from probe_lab.cache.faults import faults_note, require_pictures
from probe_lab.capture.text_embeddings import ENCODER
from probe_lab.config import Experiment
from probe_lab.generation.fill import manifest_of
from probe_lab.generation.measured_plan import Plan, make_plan
from probe_lab.generation.prompts import sample_table
from probe_lab.generation.workers import Crew, Filler, Job, LocalFiller, devices_of, on_device, shared_cores
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
    With ``workers`` > 1 as many processes (one per card at most) share the shards and the cores; with ``engine.name``
    ray they are actors of its cluster, and what a lost one generated is generated again. On the CPU, the cache does not
    depend on how many, nor on where.

    Raises:
        CacheError: another experiment's cache lies there, the disk cannot hold the plan, a tensor overflows, or, at
            the end, no image is a picture.
        CaptureError: a tap or a step that the backbone or the schedule lacks, or a worker died.
        ConfigError: a Ray cluster that is not there, or on which no worker finds a place.
        KeyboardInterrupt: after Ctrl-C or SIGTERM; the other processes are stopped, complete shards are kept.
    """
    samples = sample_table(experiment)
    if is_complete(experiment, samples):
        on_progress(len(samples), len(samples))
        _tell_faults(experiment)
        return
    _refuse_another(experiment, samples)
    shards = samples["shard"].nunique()
    with terminated_as_interrupt():
        if experiment.engine.name == "local":
            _generate_here(experiment, samples, shards, on_progress, announce)
        else:
            from probe_lab.generation.ray_filler import ray_filler

            with ray_filler(experiment, shards) as filler:
                _generate(experiment, samples, filler, on_progress, announce)
    _tell_faults(experiment)


def _tell_faults(experiment: Experiment) -> None:
    """Warn of images that are no pictures. CacheError where none is one."""
    cache = Cache(experiment.cache_folder)
    require_pictures(cache)
    if note := faults_note(cache):
        _log.warning(note)


def _generate_here(
    experiment: Experiment,
    samples: pd.DataFrame,
    shards: int,
    on_progress: OnProgress,
    announce: Callable[[Plan], None],
) -> None:
    devices = devices_of(experiment, shards)
    # The further processes start first: they load their models while this one makes the plan.
    with shared_cores(len(devices)), Crew(experiment, devices[1:]) as crew:
        first = on_device(experiment, devices[0])
        pipe = load_pipeline(first.backbone, first.sampling)
        _generate(first, samples, LocalFiller(first, pipe, crew), on_progress, announce)


def _generate(
    experiment: Experiment,
    samples: pd.DataFrame,
    filler: Filler,
    on_progress: OnProgress,
    announce: Callable[[Plan], None],
) -> None:
    plan = filler.plan(samples)
    announce(plan)
    if not (experiment.cache_folder / "manifest.json").exists():
        plan.require_space(experiment.cache_folder)  # before anything is written
    manifest = manifest_of(experiment, plan.shapes, samples)
    writer = CacheWriter(experiment.cache_folder, manifest, samples, texts=[ENCODER])
    pending = writer.pending()
    for shard, objection in writer.spoilt().items():
        _log.warning("shard %d is generated again: %s", shard, objection)
    plan.require_space(experiment.cache_folder, len(pending) / samples["shard"].nunique())
    filler.fill_text(writer)

    done = len(samples) - sum(len(writer.samples_of(shard)) for shard in pending)

    def advance(images: int) -> None:
        nonlocal done
        done += images
        on_progress(done, len(samples))

    advance(0)
    filler.fill(writer, Job(plan.shapes, samples, pending), advance)


def plan_generation(experiment: Experiment) -> Plan:
    """What ``generate`` would take, without touching the cache."""
    samples = sample_table(experiment)
    workers = len(devices_of(experiment, samples["shard"].nunique()))
    with shared_cores(workers):
        pipe = load_pipeline(experiment.backbone, experiment.sampling)
        return make_plan(experiment, pipe, samples, workers)


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
