"""Runs a sweep: lays out its cells, trains those that are not finished, collects and tracks the results."""

from __future__ import annotations

import contextlib
import fcntl
import math
import os
import shutil
import sys
from collections.abc import Callable, Collection, Iterator, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from probe_lab.cache.files import remove_leftovers
from probe_lab.config import Experiment
from probe_lab.errors import ReportError, SweepError
from probe_lab.processes import terminated_as_interrupt
from probe_lab.runs import FinishedCell, Measure, Runs, is_finished
from probe_lab.runs.failures import FAILURES, Failure, cannot_write, read_failures, write_failures
from probe_lab.runs.table import RESULTS, collect, write_results
from probe_lab.sweep.cell_pool import cell_outcomes
from probe_lab.sweep.cell_states import standing_of
from probe_lab.sweep.equivalent_cells import recognised
from probe_lab.sweep.grid import Cell, cells
from probe_lab.sweep.halving import rungs_of
from probe_lab.sweep.sibling_cells import adopt
from probe_lab.sweep.sweep_bar import SweepProgress
from probe_lab.sweep.worker import PARTIAL, CellTrainer, Outcome, ProbeTrainer
from probe_lab.tracking import Tracker, track

if TYPE_CHECKING:
    from probe_lab.previews.decoding import Previewer

_HEADLINE = "srcc_within"
_LOCK = ".lock"


@dataclass(frozen=True)
class SweepSummary:
    """Names of cells: trained now, finished before (here, or ``adopted`` from another experiment), failed; those of
    ``done`` that were ``stopped`` early by halving, and ``reduced`` to smaller batches as memory ran out; ``pending``
    are those that a dry run would train. Of ``edge`` a ridge penalty was chosen at the end of its grid. ``tracked`` is
    where people see the runs: a link, or a command."""

    done: tuple[str, ...] = ()
    skipped: tuple[str, ...] = ()
    adopted: tuple[str, ...] = ()
    failed: tuple[Failure, ...] = ()
    stopped: tuple[str, ...] = ()
    reduced: tuple[str, ...] = ()
    pending: tuple[str, ...] = ()
    edge: tuple[str, ...] = ()
    tracked: str = ""

    @property
    def cells(self) -> tuple[str, ...]:
        """The finished cells."""
        return (*self.skipped, *self.adopted, *self.done)

    @property
    def text(self) -> str:
        """The cells of a dry run, or what came out of a sweep, for people."""
        if self.pending:
            return "\n".join((*self.pending, f"{len(self.pending)} cells to train, {len(self.skipped)} finished"))
        counts = [f"{len(self.done)} cells trained, {len(self.skipped)} were finished, {len(self.failed)} failed"]
        if self.adopted:
            counts.append(f"{len(self.adopted)} taken from another experiment that had trained them")
        if self.stopped:
            counts.append(f"{len(self.stopped)} of the trained ones stopped early by halving")
        if self.reduced:
            counts.append(
                f"{len(self.reduced)} of the trained ones in smaller batches than asked for, as memory ran out"
            )
        if self.edge:
            counts.append(
                f"{len(self.edge)} ridge regressions of the trained ones chose the last penalty of their grid and "
                f"might do better beyond it ({', '.join(self.edge)})"
            )
        tracked = [f"in MLflow: {self.tracked}"] if self.tracked else []
        return "\n".join((*(f"failed {f.cell}: {f.error}" for f in self.failed), "; ".join(counts), *tracked))


def run_sweep(
    experiment: Experiment,
    *,
    preview_factory: Callable[[Experiment], Previewer] | None = None,
    dry_run: bool = False,
    trainer: CellTrainer | None = None,
) -> SweepSummary:
    """Train every cell of the experiment that is not finished, into ``experiment.runs_folder``.

    The results of several sweeps and trainings of an experiment stand side by side in its ``results.parquet``: all
    finished cells, but for those whose cache has changed since. A finished cell that differs from a planned one only in
    keys that its model does not read is that cell. Cells that another experiment of the same runs has
    finished are copied from it; those that successive halving stopped count as finished only where the sweep halves,
    and those whose samples or scores the cache no longer holds are trained again.
    ``trainer`` replaces the training of probes, and with it ``preview_factory``; both are pickled to worker processes.

    Raises:
        ConfigError, CacheError, ScoreError: a cell cannot be trained from what there is; nothing has been
        started.
        SweepError: every cell failed, the folder cannot be written, or another sweep is running in it.
        KeyboardInterrupt: after Ctrl-C or SIGTERM; workers are stopped, finished cells are kept, and a
            message says how to continue.
    """
    folder = experiment.runs_folder
    plan = recognised(cells(experiment), folder)
    trainer = trainer or ProbeTrainer(preview_factory, with_trainer=not experiment.sweep)
    standing = standing_of(experiment, plan)
    skipped, taken = tuple(standing.kept), standing.taken
    pending = [cell for cell in plan if cell.name not in standing.kept]
    if dry_run:
        return SweepSummary(skipped=skipped, pending=tuple(cell.name for cell in pending))
    pending = [cell for cell in pending if cell.name not in taken]
    if standing.again:
        print(standing.again, file=sys.stderr)
    if pending:
        trainer.check(pending)
    with _alone_in(folder):
        adopt(taken, folder)
        outcomes, tracked = _run(experiment, plan, pending, trainer, standing.outdated)
    done = tuple(outcome.cell for outcome in outcomes if not outcome.error)
    trained = Runs(folder).read(folder / name for name in done)
    return SweepSummary(
        done,
        skipped,
        tuple(taken),
        failed=tuple(_failure(outcome) for outcome in outcomes if outcome.error),
        stopped=tuple(cell.name for cell in trained if cell.halved),
        reduced=tuple(cell.name for cell in trained if cell.reduced),
        edge=tuple(cell.name for cell in trained if any(choice["edge"] for choice in cell.content.get("ridge", ()))),
        tracked=tracked,
    )


def _run(
    experiment: Experiment,
    plan: Sequence[Cell],
    pending: Sequence[Cell],
    trainer: CellTrainer,
    outdated: Collection[str],
) -> tuple[list[Outcome], str]:
    """Train ``pending``, and write the results of all finished cells but the ``outdated`` ones whatever happens; what
    became of each, and where the runs are tracked."""
    folder = experiment.runs_folder
    outcomes: list[Outcome] = []
    finished = len(plan) - len(pending)
    try:
        with terminated_as_interrupt(), track(experiment, plan, {cell.name for cell in pending}) as tracker:
            try:
                with _engine(experiment, plan, pending, trainer) as trained:
                    tracker.start()  # after the engine: while there is no other thread, its workers can be forked
                    for outcome in _tracked(experiment, pending, finished, trained, tracker):
                        outcomes.append(outcome)
            finally:
                _write(experiment, plan, pending, outcomes, outdated)
            if pending and not finished and all(outcome.error for outcome in outcomes):
                raise SweepError(
                    f"all {len(plan)} cells failed, the first with: {outcomes[0].error} "
                    f"(see {folder / FAILURES}; the same command tries them again)"
                )
    except KeyboardInterrupt:
        finished += sum(not outcome.error for outcome in outcomes)
        print(f"\n{finished} of {len(plan)} cells are finished and kept in {folder}", file=sys.stderr)
        raise
    return outcomes, tracker.place


def _engine(
    experiment: Experiment, plan: Sequence[Cell], pending: Sequence[Cell], trainer: CellTrainer
) -> AbstractContextManager[Iterator[Outcome]]:
    """What trains the cells, and gives their outcomes as they come."""
    if not pending:
        return contextlib.nullcontext(iter(()))
    folder, workers = experiment.runs_folder, experiment.workers
    rungs = rungs_of(experiment.halving, plan, folder, but={cell.name for cell in pending})
    return cell_outcomes(pending, folder, engine=experiment.engine, workers=workers, trainer=trainer, rungs=rungs)


def _failure(outcome: Outcome) -> Failure:
    return Failure(outcome.cell, outcome.error, outcome.trace)


def _tracked(
    experiment: Experiment, pending: Sequence[Cell], skipped: int, outcomes: Iterator[Outcome], tracker: Tracker
) -> Iterator[Outcome]:
    """Each outcome is shown and tracked before it is handed on."""
    if not pending:
        return
    folder, evaluator = experiment.runs_folder, pending[0].experiment.probe_evaluators[0]
    with SweepProgress(len(pending), skipped=skipped, label=f"{evaluator} val {_HEADLINE}") as shown:
        for outcome in outcomes:
            shown.advance(outcome, None if outcome.error else _headline(folder / outcome.cell, evaluator))
            if not outcome.error:
                tracker.cell_finished()
            yield outcome


def _headline(cell_folder: Path, evaluator: str) -> tuple[float, float, float] | None:
    """On validation: the best of a list is chosen by what it shows."""
    cell, measure = FinishedCell.read(cell_folder), Measure("val", evaluator, _HEADLINE)
    estimate = cell.number(measure, "estimate")
    if math.isnan(estimate):
        return None
    return estimate, cell.number(measure, "lower"), cell.number(measure, "upper")


def _write(
    experiment: Experiment,
    plan: Sequence[Cell],
    pending: Sequence[Cell],
    outcomes: Sequence[Outcome],
    outdated: Collection[str],
) -> None:
    folder = experiment.runs_folder
    shutil.rmtree(folder / PARTIAL, ignore_errors=True)
    keep_others = not experiment.sweep  # one more cell beside a sweep's: what failed there has still failed
    own, tried = {cell.name for cell in plan}, {outcome.cell for outcome in outcomes}
    left = {cell.name for cell in pending} - tried  # an interrupted sweep did not come to them
    try:
        recorded = read_failures(folder)
    except ReportError:  # it is written anew
        recorded = []
    earlier = [
        failure
        for failure in recorded
        if failure.cell in left or (keep_others and failure.cell not in own and not is_finished(folder / failure.cell))
    ]
    write_failures(folder, [*earlier, *(_failure(outcome) for outcome in outcomes if outcome.error)])
    table = collect(folder, plan, without=outdated)
    if len(table):
        write_results(folder, table)
    else:
        (folder / RESULTS).unlink(missing_ok=True)  # of cells that are gone


@contextlib.contextmanager
def _alone_in(folder: Path) -> Iterator[None]:
    """Hold the runs folder: two sweeps in it would train the same cells. What a killed one left behind is
    removed."""
    try:
        folder.mkdir(parents=True, exist_ok=True)
        remove_leftovers(folder)
        lock = os.open(folder / _LOCK, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o666)
    except OSError as error:
        raise cannot_write(folder, error) from error
    try:
        with contextlib.suppress(OSError):  # a cluster file system without locks
            try:
                fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError as error:
                raise SweepError(
                    f"another sweep or training runs in {folder}: wait for it, or set name=NAME"
                ) from error
        shutil.rmtree(folder / PARTIAL, ignore_errors=True)
        yield
    finally:
        os.close(lock)
