"""Scoring in several processes that share the cores: for evaluators without a model."""

from __future__ import annotations

import multiprocessing
from collections.abc import Callable, Generator, Sequence
from concurrent.futures import ProcessPoolExecutor, as_completed
from concurrent.futures.process import BrokenProcessPool
from typing import Any, TypeVar

import torch

from probe_lab.errors import ScoreError
from probe_lab.processes import begin_worker, cores

T = TypeVar("T")


def scored_apart(workers: int, task: Callable[..., T], jobs: Sequence[tuple[Any, ...]]) -> Generator[tuple[int, T]]:
    """The position of each job and ``task(*job)``, as they come from up to ``workers`` processes.

    Closing it early leaves no process behind. ScoreError when a process dies; other errors are those of ``task``.
    """
    size = max(1, min(workers, len(jobs)))
    threads = max(1, cores() // size)
    # spawn: a forked child would inherit torch's thread pools in an unknown state.
    context = multiprocessing.get_context("spawn")
    with ProcessPoolExecutor(size, mp_context=context, initializer=_begin, initargs=(threads,)) as pool:
        positions = {pool.submit(task, *job): position for position, job in enumerate(jobs)}
        try:
            for done in as_completed(positions):
                yield positions[done], done.result()
        except BrokenProcessPool as error:
            raise ScoreError("a scoring process died (killed, or out of memory): run the same command again") from error
        finally:
            pool.shutdown(cancel_futures=True)  # what is under way ends, nothing else begins


def _begin(threads: int) -> None:
    begin_worker()
    torch.set_num_threads(threads)
