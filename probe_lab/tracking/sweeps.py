"""What a sweep and a report call: a tracker that takes their cells and files, and says at the end what has to wait."""

from __future__ import annotations

import logging
import os
from collections.abc import Collection, Iterator, Sequence
from contextlib import contextmanager
from functools import partial
from pathlib import Path

from probe_lab.config import Experiment
from probe_lab.runs import is_finished
from probe_lab.tracking.background import Background
from probe_lab.tracking.backlog import Backlog
from probe_lab.tracking.entries import CellRun, Entry, Status
from probe_lab.tracking.ledger import Ledger, has_owner
from probe_lab.tracking.sending import Session
from probe_lab.tracking.store import Store
from probe_lab.tracking.values import place_tags

_log = logging.getLogger(__name__)

PATIENCE: dict[Status, float] = {"FINISHED": 600.0, "FAILED": 30.0, "KILLED": 10.0}
"""Seconds that a sweep waits at its end for what is still to be logged, by how it ended."""


class Tracker:
    """Takes the cells of one sweep; made by ``track``. It never waits and never raises; without a ``background`` it
    does nothing."""

    def __init__(self, background: Background | None = None, experiment: Experiment | None = None) -> None:
        self._background = background
        self._places = place_tags(experiment.stored()) if experiment is not None else {}

    @property
    def active(self) -> bool:
        """Whether runs are being logged."""
        return self._background is not None

    def log_cell(self, run: CellRun) -> None:
        """Log a finished cell from its files: tags, parameters, metrics per epoch, final metrics, artifacts. Once."""
        if self._background is not None:
            self._background.put(Entry("cell", run.name, run.tags))

    def log_failure(self, run: CellRun, error: str) -> None:
        """Log a cell that could not be trained as a FAILED run with its error as a tag."""
        if self._background is not None:
            self._background.put(Entry("failure", run.name, {**self._places, **run.tags}, error))


@contextmanager
def track(
    experiment: Experiment, folder: Path, runs: Sequence[CellRun], pending: Collection[str] = ()
) -> Iterator[Tracker]:
    """A tracker for a sweep over ``runs``, whose finished cells lie in ``folder``/<name>.

    ``pending`` are the names of those that this sweep trains, some perhaps for the second time; the others that are
    finished and were never logged are logged too. The parent run ends FINISHED, FAILED after an
    exception, or KILLED after an interrupt; no run stays RUNNING. What the store does not take in time waits in
    ``folder``/.tracking, and one warning says so.
    """
    uri = tracking_uri(experiment)
    if not uri or (not pending and _nothing_to_add(uri, folder, runs)):
        yield Tracker()
        return
    finished = [run for run in runs if run.name not in pending and is_finished(folder / run.name)]
    first = [Entry("cell", run.name, run.tags) for run in finished]
    machine = experiment.tracking.system_metrics
    background = Background(Session(uri, folder, partial(Store, uri, experiment), machine=machine), first)
    status: Status = "KILLED"
    try:
        yield Tracker(background, experiment)
        status = "FINISHED"
    except Exception:
        status = "FAILED"
        raise
    finally:
        _close(background, uri, folder, status, PATIENCE[status])


def log_report(experiment: Experiment, folder: Path) -> None:
    """Attach a report's files to the parent run of the experiment, below ``report/``, after what still waits to be
    logged. Nothing where no sweep was tracked; a warning where it has to wait."""
    uri, runs = tracking_uri(experiment), experiment.runs_folder
    if uri and (Ledger.read(runs, uri).parent or Backlog(runs).files()):
        report = Entry("report", str(folder.resolve()))
        background = Background(Session(uri, runs, partial(Store, uri, experiment), sweeps=False))
        background.put(report)
        _close(background, uri, runs, None, PATIENCE["FINISHED"])


def tracking_uri(experiment: Experiment) -> str:
    """Where runs are logged: the environment's ``MLFLOW_TRACKING_URI``, else the experiment's; empty in
    either: nowhere."""
    if not experiment.tracking.uri:
        return ""
    return os.environ.get("MLFLOW_TRACKING_URI", experiment.tracking.uri).strip()


def _nothing_to_add(uri: str, folder: Path, runs: Sequence[CellRun]) -> bool:
    """Whether the last sweep logged all of this one's cells: MLflow, whose import is slow, is not needed then."""
    if Backlog(folder).files() or not has_owner(folder):
        return False
    return Ledger.read(folder, uri).complete(run.name for run in runs)


def _close(background: Background, uri: str, folder: Path, status: Status | None, seconds: float) -> None:
    try:
        background.close(status, seconds)
    finally:
        backlog = Backlog(folder)
        waiting = backlog.waiting()
        if waiting:
            cells = len({entry.name for entry in waiting if entry.kind in ("cell", "failure")})
            why = f"{uri}: {background.reason}" if background.reason else "there was no time for them"
            what = f"{cells} cells" + (" and a report" if any(entry.kind == "report" for entry in waiting) else "")
            _log.warning("%s wait in %s for the next sweep or report to log them: %s", what, backlog.folder, why)
