"""Several local processes that fill one cache, each its own shards."""

from __future__ import annotations

import contextlib
import multiprocessing
import os
import queue
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from multiprocessing.process import BaseProcess
from multiprocessing.queues import Queue

import pandas as pd
import torch

from probe_lab.cache import CacheWriter
from probe_lab.capture.fill import fill_shards, manifest_of
from probe_lab.capture.pipelines import load_pipeline
from probe_lab.config import Experiment
from probe_lab.errors import CaptureError, ProbeLabError

Event = int | ProbeLabError | None
"""What a worker reports: images done, the error that ended it, or None when its share is done."""


def devices_of(experiment: Experiment, shards: int) -> list[str]:
    """The device of each generating process: ``workers`` of them on the CPU, one per card with ``cuda``.

    Another device (``cuda:1``, ``mps``) is one process's. No process is without a shard.
    """
    device, workers = experiment.sampling.device, min(experiment.workers, shards)
    if experiment.sampling.on_cpu:
        return [device] * workers
    cards = torch.cuda.device_count() if device == "cuda" else 0
    return [f"cuda:{card}" for card in range(min(workers, cards))] or [device]


@contextlib.contextmanager
def shared_cores(workers: int) -> Iterator[None]:
    """One thread per core over all processes inside: more would wait for each other."""
    before = torch.get_num_threads()
    torch.set_num_threads(max(1, (os.cpu_count() or 1) // workers))
    try:
        yield
    finally:
        torch.set_num_threads(before)


def fill_in_processes(
    experiment: Experiment,
    shapes: dict[str, tuple[int, ...]],
    samples: pd.DataFrame,
    shards: Sequence[int],
    devices: Sequence[str],
    advance: Callable[[int], None],
) -> None:
    """Fill ``shards`` with one process per entry of ``devices``, which take turns at the shards.

    The first error stops all; finished shards stay. ``shapes`` maps a tap to its [C, H, W].

    Raises:
        ProbeLabError: what stopped a process; ``CaptureError`` when it was killed.
    """
    context = multiprocessing.get_context("spawn")
    events: Queue[Event] = context.Queue()
    processes = [
        context.Process(
            target=_worker,
            args=(_on(experiment, device), shapes, samples, shards[i :: len(devices)], len(devices), events),
            daemon=True,
        )
        for i, device in enumerate(devices)
    ]
    try:
        for process in processes:
            process.start()
        running = len(processes)
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


def _on(experiment: Experiment, device: str) -> Experiment:
    return replace(experiment, sampling=replace(experiment.sampling, device=device))


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
    samples: pd.DataFrame,
    shards: Sequence[int],
    workers: int,
    events: Queue[Event],
) -> None:
    try:
        with shared_cores(workers):
            writer = CacheWriter(experiment.cache_folder, manifest_of(experiment, shapes, samples), samples)
            pipe = load_pipeline(experiment.backbone, experiment.sampling)
            fill_shards(experiment, pipe, writer, shards, events.put)
    except ProbeLabError as error:
        events.put(error)
    else:
        events.put(None)
