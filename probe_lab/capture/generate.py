"""Prompts to images and tensors: plan, then fill the cache with one process or several."""

from __future__ import annotations

from collections.abc import Callable

import pandas as pd
import torch

from probe_lab.cache import Cache, CacheWriter, Manifest, require_same
from probe_lab.capture.family import has_patterns
from probe_lab.capture.fill import manifest_of
from probe_lab.capture.pipelines import load_pipeline
from probe_lab.capture.plan import Plan, make_plan
from probe_lab.capture.prompts import sample_table
from probe_lab.capture.text import ENCODER, encode_prompts
from probe_lab.capture.truncation import token_limits, truncated
from probe_lab.capture.workers import Crew, Job, devices_of, on_device, shared_cores
from probe_lab.config import Experiment


def generate(experiment: Experiment, on_progress: Callable[[int, int], None], announce: Callable[[Plan], None]) -> None:
    """Fill the experiment's cache; what complete shards hold is not generated again.

    ``announce`` is given the plan before the first image; ``on_progress(images done, images in all)`` follows.
    With ``workers`` > 1 as many processes (one per card at most) share the shards and the cores; on the CPU, the cache
    does not depend on how many.

    Raises:
        CacheError: another experiment's cache lies there, the disk cannot hold the plan, or a tensor overflows.
        CaptureError: a tap or a step that the backbone or the schedule lacks, or a worker died.
    """
    samples = sample_table(experiment)
    if is_complete(experiment, samples):
        on_progress(len(samples), len(samples))
        return
    _refuse_another(experiment, samples)
    devices = devices_of(experiment, samples["shard"].nunique())
    # The further processes start first: they load their models while this one makes the plan.
    with shared_cores(len(devices)), Crew(experiment, devices[1:]) as crew:
        _generate(on_device(experiment, devices[0]), samples, crew, on_progress, announce)


def _generate(
    experiment: Experiment,
    samples: pd.DataFrame,
    crew: Crew,
    on_progress: Callable[[int, int], None],
    announce: Callable[[Plan], None],
) -> None:
    pipe = load_pipeline(experiment.backbone, experiment.sampling)
    plan = make_plan(experiment, pipe, samples, crew.size)
    announce(plan)
    if not (experiment.cache_folder / "manifest.json").exists():
        plan.require_space(experiment.cache_folder)  # before anything is written
    writer = CacheWriter(experiment.cache_folder, manifest_of(experiment, plan.shapes, samples), samples)
    pending = writer.pending()
    plan.require_space(experiment.cache_folder, len(pending) / samples["shard"].nunique())
    prompts = samples.drop_duplicates("prompt_id")["prompt"].tolist()
    text = encode_prompts(pipe, experiment.sampling, prompts, length=experiment.capture.tokens)
    cut = torch.tensor(truncated(token_limits(pipe, experiment.sampling), prompts))
    writer.write_text(ENCODER, text | {"truncated": cut})

    done = len(samples) - sum(len(writer.samples_of(shard)) for shard in pending)

    def advance(images: int) -> None:
        nonlocal done
        done += images
        on_progress(done, len(samples))

    advance(0)
    crew.fill(pipe, writer, Job(plan.shapes, samples, pending), advance)


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
    if set(stored.difference(wanted)) - {"code_version"}:
        return False
    has_text = ENCODER in Cache(folder).text_encoders()
    return has_text and not CacheWriter(folder, stored, samples).pending()


def _refuse_another(experiment: Experiment, samples: pd.DataFrame) -> None:
    """``CacheError`` for another experiment's cache, before a model is loaded; its writer compares the taps too."""
    folder = experiment.cache_folder
    if (folder / "manifest.json").exists():
        stored = Manifest.load(folder)
        require_same(folder, stored, manifest_of(experiment, stored.taps, samples))
