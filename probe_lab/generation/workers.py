"""Several local processes that fill one cache, each its own shards."""

from __future__ import annotations

import contextlib
import os
import queue
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from multiprocessing.process import BaseProcess
from multiprocessing.queues import Queue
from multiprocessing.sharedctypes import Synchronized
from typing import Protocol, Self

import pandas as pd
import torch
from diffusers import DiffusionPipeline

from probe_lab.backbones.pipelines import load_pipeline
from probe_lab.cache import CacheWriter
from probe_lab.config import Experiment
from probe_lab.errors import CaptureError, ProbeLabError
from probe_lab.generation.fill import fill_shards, fill_text, manifest_of
from probe_lab.generation.measured_plan import Plan, make_plan
from probe_lab.processes import begin_worker, ending, interrupts_held, start_context

Event = int | ProbeLabError
"""What a process reports: images done, the error that ended it, or ``DONE`` when no shard is left."""

DONE, NOTHING = 0, -1


class Filler(Protocol):
    """Processes that generate together, wherever they are."""

    def plan(self, samples: pd.DataFrame) -> Plan:
        """What all samples will take."""

    def fill_text(self, writer: CacheWriter) -> None:
        """Store the text of all prompts."""

    def fill(self, writer: CacheWriter, job: Job, advance: Callable[[int], None]) -> None:
        """Fill the shards of ``job``; ``advance(images)`` after every batch, below 0 for images that were lost."""


@dataclass(frozen=True)
class Job:
    """What the processes of a generation share: [C, H, W] of each tap, the samples, the shards to fill."""

    shapes: dict[str, tuple[int, ...]]
    samples: pd.DataFrame
    shards: Sequence[int]


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
    torch.set_num_threads(max(1, before // workers))  # of those that this process was given
    try:
        yield
    finally:
        torch.set_num_threads(before)


class Crew:
    """This process and one further on each of ``devices``, which fill a cache together.

    Once entered, the further ones load their pipelines and wait. Each process takes the next shard when it is free.
    """

    def __init__(self, experiment: Experiment, devices: Sequence[str]) -> None:
        context = start_context(on_cpu=experiment.sampling.on_cpu, threads=torch.get_num_threads())
        self._experiment = experiment
        self._taken = context.Value("i", 0)
        self._jobs: Queue[Job] = context.Queue()
        self._events: Queue[Event] = context.Queue()
        self._processes: list[BaseProcess] = [
            context.Process(
                target=_work,
                args=(on_device(experiment, device), 1 + len(devices), self._taken, self._jobs, self._events),
                daemon=True,
            )
            for device in devices
        ]

    @property
    def size(self) -> int:
        """Processes, this one included."""
        return 1 + len(self._processes)

    def __enter__(self) -> Self:
        with interrupts_held():
            for process in self._processes:
                process.start()
        return self

    def __exit__(self, *_: object) -> None:
        for process in self._processes:
            process.terminate()
            process.join()
        for channel in (self._jobs, self._events):
            channel.close()
            channel.cancel_join_thread()  # a process that is gone reads nothing any more

    def fill(
        self,
        pipe: DiffusionPipeline,
        writer: CacheWriter,
        job: Job,
        advance: Callable[[int], None],
    ) -> None:
        """Fill the shards of ``job``; ``advance(images)`` after every batch of any process.

        The first error stops all; finished shards stay.

        Raises:
            ProbeLabError: what stopped a process; ``CaptureError`` when it was killed.
        """
        running = len(self._processes)
        for _ in self._processes:
            self._jobs.put(job)

        def receive(*, wait: bool) -> None:
            nonlocal running
            while running:
                event = self._next_event(wait)
                if event == NOTHING:
                    return
                if isinstance(event, ProbeLabError):
                    raise event
                if event == DONE:
                    running -= 1
                else:
                    advance(event)

        free = _free(job.shards, self._taken, self._require_alive)
        with contextlib.closing(fill_shards(self._experiment, pipe, writer, free)) as batches:
            for images in batches:
                advance(images)
                receive(wait=False)
        receive(wait=True)
        for process in self._processes:
            process.join()  # in their own time: a process that is stopped while it ends leaves semaphores behind

    def _next_event(self, wait: bool) -> Event:
        """The next report; a process that was killed sends none, so exit codes are looked at in between."""
        while True:
            try:
                return self._events.get(timeout=1.0 if wait else 0.0)
            except queue.Empty:
                self._require_alive()
                if not wait:
                    return NOTHING

    def _require_alive(self) -> None:
        """CaptureError when a further process was killed."""
        dead = [process for process in self._processes if process.exitcode not in (None, 0)]
        if dead:
            how = ending(dead[0].exitcode or 0)
            raise CaptureError(f"a generating process ended {how}; the same command continues") from None


@dataclass(frozen=True)
class LocalFiller:
    """This process with its pipeline, and the further ones of its crew."""

    experiment: Experiment
    pipe: DiffusionPipeline
    crew: Crew

    def plan(self, samples: pd.DataFrame) -> Plan:
        return make_plan(self.experiment, self.pipe, samples, self.crew.size)

    def fill_text(self, writer: CacheWriter) -> None:
        fill_text(self.experiment, self.pipe, writer)

    def fill(self, writer: CacheWriter, job: Job, advance: Callable[[int], None]) -> None:
        self.crew.fill(self.pipe, writer, job, advance)


def _free(shards: Sequence[int], taken: Synchronized[int], require_alive: Callable[[], None]) -> Iterator[int]:
    """The shards that no process has taken, one at a time.

    A process that is killed while it takes one never gives the lock back: ``require_alive`` raises then.
    """
    lock = taken.get_lock()
    while True:
        while not lock.acquire(timeout=1.0):
            require_alive()
        position = taken.value
        taken.value += 1
        lock.release()
        if position >= len(shards):
            return
        yield shards[position]


def _stay() -> None:
    """A further process waits: the first one ends it."""


def on_device(experiment: Experiment, device: str) -> Experiment:
    """The experiment of one process."""
    return replace(experiment, sampling=replace(experiment.sampling, device=device))


def _work(
    experiment: Experiment, processes: int, taken: Synchronized[int], jobs: Queue[Job], events: Queue[Event]
) -> None:
    begin_worker()
    os.environ["TOKENIZERS_PARALLELISM"] = "false"  # it has no cores for that, and a fork is warned of it
    try:
        with shared_cores(processes):
            pipe = load_pipeline(experiment.backbone, experiment.sampling)
            job = jobs.get()
            writer = CacheWriter(experiment.cache_folder, manifest_of(experiment, job.shapes, job.samples), job.samples)
            for images in fill_shards(experiment, pipe, writer, _free(job.shards, taken, _stay)):
                events.put(images)
    except ProbeLabError as error:
        events.put(error)
    else:
        events.put(DONE)
