"""Scoring in several processes that share the cores: for evaluators without a model."""

from __future__ import annotations

import signal
from collections.abc import Callable, Generator, Sequence
from concurrent.futures import ProcessPoolExecutor, as_completed
from concurrent.futures.process import BrokenProcessPool
from multiprocessing import active_children
from typing import Any, TypeVar

import torch

from probe_lab.errors import ScoreError
from probe_lab.processes import READ_AGAIN, begin_worker, cores, ending, spawn_context

T = TypeVar("T")


def scored_apart(workers: int, task: Callable[..., T], jobs: Sequence[tuple[Any, ...]]) -> Generator[tuple[int, T]]:
    """The position of each job and ``task(*job)``, as they come from up to ``workers`` processes.

    Closing it early leaves no process behind. ScoreError when a process dies; other errors are those of ``task``.
    """
    size = max(1, min(workers, len(jobs)))
    threads = max(1, cores() // size)
    # spawn: a forked child would inherit torch's thread pools in an unknown state.
    context = spawn_context()
    others = set(active_children())
    with ProcessPoolExecutor(size, mp_context=context, initializer=_begin, initargs=(threads,)) as pool:
        positions = {pool.submit(task, *job): position for position, job in enumerate(jobs)}
        processes = set(active_children()) - others
        try:
            for done in as_completed(positions):
                yield positions[done], done.result()
        except BrokenProcessPool as error:
            codes = {process.exitcode for process in processes} - {None, 0}
            raise ScoreError(_death(codes)) from error
        finally:
            pool.shutdown(cancel_futures=True)  # what is under way ends, nothing else begins


def _death(codes: set[int | None]) -> str:
    """One sentence from the exit codes of processes of which one died; the pool ends all others by SIGTERM."""
    own = [code for code in codes if code not in (None, -signal.SIGTERM)] or [-signal.SIGTERM]
    if READ_AGAIN in own:
        return f"a scoring process ended {ending(READ_AGAIN)}"
    hint = " (killed, or out of memory)" if -signal.SIGKILL in own else ""
    return f"a scoring process ended {ending(own[0] or 0)}{hint}: run the same command again"


def _begin(threads: int) -> None:
    begin_worker()
    torch.set_num_threads(threads)
