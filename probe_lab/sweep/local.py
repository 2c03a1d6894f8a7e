"""The ``local`` engine: cells in a few worker processes, those that share arrays over one resident copy."""

from __future__ import annotations

import contextlib
import os
import signal
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from multiprocessing import connection, resource_tracker
from multiprocessing.context import SpawnContext
from multiprocessing.process import BaseProcess
from pathlib import Path

from probe_lab.errors import SweepError
from probe_lab.probes.kinds import kind_of
from probe_lab.processes import READ_AGAIN, cores, ending, environment, interrupts_held, start_context, visible_cards
from probe_lab.runs.files import finished_at
from probe_lab.sweep.grid import Cell, group_by_arrays
from probe_lab.sweep.halving import Rungs
from probe_lab.sweep.worker import CellTrainer, Outcome, Ready, Rung, work

_THREAD_VARIABLES = ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS")
_STARTS = 3
"""A worker that dies this many times before it is ready will never start."""
_PATIENCE = 5.0
"""Seconds that a worker gets to end by itself."""


@contextlib.contextmanager
def local_engine(
    cells: Sequence[Cell], folder: Path, *, workers: int, trainer: CellTrainer, rungs: Rungs | None = None
) -> Iterator[Iterator[Outcome]]:
    """Up to ``workers`` processes that train cells into ``folder``/<cell>; the outcomes as they arrive.

    They start on entering: a process without threads can fork them, which costs nothing. ``rungs`` decides which
    cells are trained to their end, None: all.

    A worker holds the arrays of one group at a time and trains the group's cells one after the other; when
    every group is taken, idle workers help with the largest. Where cells are trained on several devices, a worker
    counts as so many. A worker that dies costs the cell that it was training. However the block ends, no worker is
    left.

    Raises:
        SweepError: workers cannot be started.
    """
    at_once, together = at_once_of(cells, workers), devices_of(cells)
    pool = _Pool(cells, folder, at_once, together, trainer, rungs)
    try:
        pool.start()
        yield pool.run()
    finally:
        pool.stop()


def devices_of(cells: Iterable[Cell]) -> int:
    """The most devices that one of the cells is trained on, which is what a worker counts as."""
    return max((cell.experiment.trainer.devices for cell in cells), default=1)


def at_once_of(cells: Sequence[Cell], workers: int) -> int:
    """How many of the cells ``workers`` train at the same time."""
    return min(max(1, workers // devices_of(cells)), len(cells))


@dataclass
class _Worker:
    process: BaseProcess
    pipe: connection.Connection
    cards: Sequence[str] = ()
    ready: bool = False
    cell: Cell | None = None
    earlier: int | None = None
    group: tuple[str, ...] | None = None
    refusal: str = ""


class _Pool:
    """The workers, and the cells that none of them has yet."""

    def __init__(
        self,
        cells: Sequence[Cell],
        folder: Path,
        workers: int,
        together: int,
        trainer: CellTrainer,
        rungs: Rungs | None,
    ) -> None:
        self._waiting = group_by_arrays(cells)
        self._size = workers
        self._threads = _threads(workers)
        self._arguments = (trainer, folder, workers, self._threads, rungs is not None)
        self._rungs = rungs
        self._on_cpu = all(cell.experiment.trainer.accelerator == "cpu" for cell in cells)
        self._cards = [] if self._on_cpu else visible_cards()
        self._together = together
        self._folder = folder
        self._workers: list[_Worker] = []
        self._false_starts = 0

    def start(self) -> None:
        """One worker per waiting cell that no starting worker will take."""
        starting = sum(not worker.ready for worker in self._workers)
        for _ in range(min(self._size - len(self._workers), self._left() - starting)):
            self._workers.append(self._start())

    def _left(self) -> int:
        return sum(len(group) for group in self._waiting.values())

    def run(self) -> Iterator[Outcome]:
        while True:
            self.start()
            if not self._left() and all(worker.cell is None for worker in self._workers):
                return
            ends = {worker.pipe: worker for worker in self._workers if worker.cell is not None or not worker.ready}
            for end in connection.wait(list(ends)):
                outcome = self._hear(ends[end])  # type: ignore[index]  # what wait returns is what it was given
                if outcome is not None:
                    yield outcome

    def _hear(self, worker: _Worker) -> Outcome | None:
        """Take one message of a worker and give it the next cell; the end of its pipe means that it died."""
        try:
            message: Ready | Rung | Outcome = worker.pipe.recv()
        except (EOFError, OSError):
            return self._bury(worker)
        if isinstance(message, Rung):
            assert self._rungs is not None
            with contextlib.suppress(BrokenPipeError):
                worker.pipe.send(self._rungs.goes_on(message.cell, message.epoch, message.value))
            return None
        if isinstance(message, Ready) and message.error:
            worker.refusal = message.error
            return None  # the end of its pipe follows
        worker.ready = True
        self._false_starts = 0
        self._assign(worker)
        return message if isinstance(message, Outcome) else None

    def _assign(self, worker: _Worker) -> None:
        worker.cell = None
        group = self._next_group(worker)
        if group is None:
            return
        worker.group, worker.cell = group, self._waiting[group].pop(0)
        worker.earlier = self._written(worker.cell)
        if not self._waiting[group]:
            del self._waiting[group]
        with contextlib.suppress(BrokenPipeError):  # it died just now; its pipe's end tells
            worker.pipe.send(worker.cell)

    def _next_group(self, worker: _Worker) -> tuple[str, ...] | None:
        """The group whose arrays the worker holds, or else the largest one, untaken ones first. Previews, which take
        longest, come first and what takes no time last, so that the workers end together."""
        if worker.group in self._waiting:
            return worker.group
        taken = {other.group for other in self._workers if other.cell is not None}

        def priority(group: tuple[str, ...]) -> tuple[bool, bool, bool, int]:
            cells = self._waiting[group]
            kinds = [kind_of(cell.experiment.probe.model) for cell in cells]
            quick, decodes = all(kind.is_quick for kind in kinds), any(kind.decodes for kind in kinds)
            return not quick, decodes, group not in taken, len(cells)

        return max(self._waiting, key=priority, default=None)

    def _bury(self, worker: _Worker) -> Outcome | None:
        """What the end of a worker means for its cell. One that has let go of its pipe and does not end is killed."""
        _end(worker.process)
        self._workers.remove(worker)
        worker.pipe.close()
        code, cell = worker.process.exitcode or 0, worker.cell
        how = ending(code)
        if not worker.ready:
            self._false_starts += 1
            if self._false_starts == _STARTS:
                why = worker.refusal or ("" if code == READ_AGAIN else "see their messages above")
                raise SweepError(f"worker processes end before they are ready, {how}{why and ': '}{why}")
        if cell is None:
            return None
        if self._written(cell) not in (None, worker.earlier):
            return Outcome(cell.name, 0.0)  # it died between the last file and its message
        hint = "; out of memory? lower workers, or set data.residency=stream" if code == -signal.SIGKILL else ""
        return Outcome(cell.name, 0.0, f"its worker process ended {how}{hint}")

    def _written(self, cell: Cell) -> int | None:
        """When the cell was finished, in nanoseconds; one that is trained again lies there until it is replaced."""
        return finished_at(self._folder / cell.name)

    def _start(self) -> _Worker:
        context = start_context(on_cpu=self._on_cpu, threads=self._threads)
        ours, theirs = context.Pipe()
        process = context.Process(target=work, args=(theirs, *self._arguments))
        if isinstance(context, SpawnContext):
            resource_tracker.ensure_running()  # its own start would let Ctrl-C through
        cards = self._free_cards()
        limits = dict.fromkeys(_THREAD_VARIABLES, str(self._threads))  # read when numeric libraries are imported
        if cards:
            limits["CUDA_VISIBLE_DEVICES"] = ",".join(cards)
        with environment(limits), interrupts_held():
            process.start()
        theirs.close()  # so that the pipe ends with the worker
        return _Worker(process, ours, cards)

    def _free_cards(self) -> list[str]:
        """The GPUs that the fewest workers use, as many as one training takes; none without any."""
        used = [card for worker in self._workers for card in worker.cards]
        return sorted(self._cards, key=used.count)[: self._together]

    def stop(self) -> None:
        """End every worker: idle ones by themselves, busy ones by a signal."""
        for worker in self._workers:
            if worker.ready and worker.cell is None:
                with contextlib.suppress(OSError):
                    worker.pipe.send(None)
            else:
                worker.process.terminate()
        for worker in self._workers:
            _end(worker.process)
            worker.pipe.close()
        self._workers.clear()


def _end(process: BaseProcess) -> None:
    """Wait for the end of a process that is about to end, and see to it."""
    process.join(_PATIENCE)
    if process.is_alive():
        process.kill()
        process.join()


def _threads(workers: int) -> int:
    """Threads of one worker: its share of the cores that this process may use, or less where the user chose
    so."""
    chosen = os.environ.get("OMP_NUM_THREADS", "")
    share = max(1, cores() // max(workers, 1))
    return min(share, int(chosen)) if chosen.isdigit() and int(chosen) > 0 else share
