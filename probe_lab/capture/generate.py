"""Prompts to images and tensors: plan, then fill the cache with one process or several."""

from __future__ import annotations

import contextlib
import multiprocessing
import os
import queue
from collections.abc import Callable, Iterator, Sequence
from multiprocessing.process import BaseProcess
from multiprocessing.queues import Queue

import pandas as pd
import torch

from probe_lab.cache import Cache, CacheWriter, Manifest
from probe_lab.capture.fill import fill_shards, manifest_of
from probe_lab.capture.pipelines import load_pipeline
from probe_lab.capture.plan import Plan, make_plan
from probe_lab.capture.prompts import sample_table
from probe_lab.capture.text import ENCODER, encode_prompts
from probe_lab.config import Experiment
from probe_lab.errors import CaptureError, ProbeLabError

Event = int | ProbeLabError | None
"""What a worker reports: images done, the error that ended it, or None when its share is done."""


def generate(experiment: Experiment, on_progress: Callable[[int, int], None], announce: Callable[[Plan], None]) -> None:
    """Fill the experiment's cache; what complete shards hold is not generated again.

    ``announce`` is given the plan before the first image; ``on_progress(images done, images in all)`` follows.
    With ``workers`` > 1 as many processes share the shards and the cores; the cache does not depend on how many.

    Raises:
        CacheError: another experiment's cache lies there, the disk cannot hold the plan, or a tensor overflows.
        CaptureError: a tap or a step that the backbone or the schedule lacks, or a worker died.
    """
    samples = sample_table(experiment)
    if is_complete(experiment, samples):
        on_progress(len(samples), len(samples))
        return
    workers = min(experiment.workers, samples["shard"].nunique())
    with shared_cores(workers):
        _generate(experiment, samples, workers, on_progress, announce)


def _generate(
    experiment: Experiment,
    samples: pd.DataFrame,
    workers: int,
    on_progress: Callable[[int, int], None],
    announce: Callable[[Plan], None],
) -> None:
    pipe = load_pipeline(experiment.backbone, experiment.sampling)
    plan = make_plan(experiment, pipe, samples, workers)
    announce(plan)
    if not (experiment.cache_folder / "manifest.json").exists():
        plan.require_space(experiment.cache_folder)  # before anything is written
    writer = CacheWriter(experiment.cache_folder, manifest_of(experiment, plan.shapes, samples), samples)
    pending = writer.pending()
    plan.require_space(experiment.cache_folder, len(pending) / samples["shard"].nunique())
    prompts = samples.drop_duplicates("prompt_id")["prompt"].tolist()
    writer.write_text(ENCODER, encode_prompts(pipe, prompts))

    done = len(samples) - sum(len(writer.samples_of(shard)) for shard in pending)

    def advance(images: int) -> None:
        nonlocal done
        done += images
        on_progress(done, len(samples))

    advance(0)
    if workers > 1:
        del pipe
        _fill_in_processes(experiment, plan, pending, workers, advance)
    else:
        fill_shards(experiment, pipe, writer, pending, advance)


def plan_generation(experiment: Experiment) -> Plan:
    """What ``generate`` would take, without touching the cache."""
    samples = sample_table(experiment)
    workers = min(experiment.workers, samples["shard"].nunique())
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
    if set(stored.taps) != set(experiment.capture.taps) or set(stored.difference(wanted)) - {"code_version"}:
        return False
    has_text = ENCODER in Cache(folder).text_encoders()
    return has_text and not CacheWriter(folder, stored, samples).pending()


@contextlib.contextmanager
def shared_cores(workers: int) -> Iterator[None]:
    """One thread per core over all processes inside: more would wait for each other."""
    before = torch.get_num_threads()
    torch.set_num_threads(max(1, (os.cpu_count() or 1) // workers))
    try:
        yield
    finally:
        torch.set_num_threads(before)


def _fill_in_processes(
    experiment: Experiment, plan: Plan, shards: Sequence[int], workers: int, advance: Callable[[int], None]
) -> None:
    """Every worker takes each ``workers``-th shard; the first error stops all, finished shards stay."""
    context = multiprocessing.get_context("spawn")
    events: Queue[Event] = context.Queue()
    processes = [
        context.Process(
            target=_worker, args=(experiment, plan.shapes, shards[i::workers], workers, events), daemon=True
        )
        for i in range(workers)
    ]
    try:
        for process in processes:
            process.start()
        running = workers
        while running:
            event = _next_event(events, processes)
            if isinstance(event, ProbeLabError):
                raise event
            if event is None:
                running -= 1
            else:
                advance(event)
        for process in processes:
            process.join()  # in their own time: a process that is stopped while it ends leaves semaphores behind
    finally:
        for process in processes:
            process.terminate()
            process.join()
        events.close()
        events.join_thread()


def _next_event(events: Queue[Event], processes: Sequence[BaseProcess]) -> Event:
    """The next report; a worker that was killed sends none, so its exit code is looked at in between."""
    while True:
        try:
            return events.get(timeout=1.0)
        except queue.Empty:
            dead = [process for process in processes if process.exitcode not in (None, 0)]
            if dead:
                raise CaptureError(
                    f"a generating process died with exit code {dead[0].exitcode}: the same command continues"
                ) from None


def _worker(
    experiment: Experiment,
    shapes: dict[str, tuple[int, ...]],
    shards: Sequence[int],
    workers: int,
    events: Queue[Event],
) -> None:
    samples = sample_table(experiment)
    try:
        with shared_cores(workers):
            writer = CacheWriter(experiment.cache_folder, manifest_of(experiment, shapes, samples), samples)
            pipe = load_pipeline(experiment.backbone, experiment.sampling)
            fill_shards(experiment, pipe, writer, shards, events.put)
    except ProbeLabError as error:
        events.put(error)
    else:
        events.put(None)
