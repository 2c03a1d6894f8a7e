"""What a sweep, a report and the verb ``track`` call, each with a ``Background`` of its own."""

from __future__ import annotations

import logging
import os
from collections.abc import Callable, Collection, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from probe_lab.config import Experiment
from probe_lab.errors import TrackingError
from probe_lab.processes import terminated_as_interrupt
from probe_lab.runs import Runs
from probe_lab.runs.failures import read_failures
from probe_lab.tracking.background import Background
from probe_lab.tracking.sent_record import Receipt
from probe_lab.tracking.server import place_of
from probe_lab.tracking.sync import PlannedCell, Sync, report_files
from probe_lab.tracking.tracking_folder import FOLDER, Status, write_status

_log = logging.getLogger(__name__)

PATIENCE: dict[Status, float] = {"FINISHED": 600.0, "FAILED": 30.0, "KILLED": 10.0}
"""Seconds that a sweep waits at its end for what is still to be sent, by how it ended."""
_DAY = 86_400.0


class Tracker:
    """What a sweep tells of itself. It never waits and never raises; without a ``background`` it does nothing."""

    def __init__(self, background: Background | None = None, place: str = "") -> None:
        self._background = background
        self.place = place
        """How people see the runs, once the sweep has ended; empty where the store was not sent all of them."""

    @property
    def active(self) -> bool:
        """Whether runs are being logged."""
        return self._background is not None

    def start(self) -> None:
        """The workers are there: a thread may be, too."""
        if self._background is not None:
            self._background.start()

    def cell_finished(self) -> None:
        """The files of one more cell are there."""
        if self._background is not None:
            self._background.wake()


@contextmanager
def track(experiment: Experiment, plan: Sequence[PlannedCell], pending: Collection[str] = ()) -> Iterator[Tracker]:
    """A tracker for a sweep over ``plan`` that trains the cells named ``pending``, some perhaps for the second time.

    All finished cells of the runs folder are logged. The parent run ends FINISHED, FAILED after an exception, or KILLED
    after an interrupt; no run stays RUNNING. What the store does not take in time stays in the files, and one warning
    says so.
    """
    uri, runs = tracking_uri(experiment), experiment.runs_folder
    receipt = Receipt.read(runs, uri)
    if not uri or (not pending and receipt.is_complete(runs)):
        yield Tracker(place=place_of(uri, receipt.experiment, receipt.parent) if uri else "")
        return
    sync = Sync(experiment, uri, lambda: plan, pending)
    background = Background(sync, samples_machine=experiment.tracking.system_metrics)
    tracker = Tracker(background)
    _note(runs, "RUNNING")
    status: Status = "KILLED"
    try:
        yield tracker
        status = "FINISHED"
    except Exception:
        status = "FAILED"
        raise
    finally:
        _note(runs, status)
        _close(background, sync, PATIENCE[status])
        tracker.place = sync.place if background.done else ""


def log_report(experiment: Experiment, plan: Callable[[], Sequence[PlannedCell]]) -> None:
    """Attach the experiment's report to its parent run, below ``report/``, with all else that the store lacks. Nothing
    where no sweep was tracked; a warning where it has to wait. ``plan`` gives the cells of the sweep."""
    uri, runs = tracking_uri(experiment), experiment.runs_folder
    if uri and (runs / FOLDER).is_dir():
        receipt = Receipt.read(runs, uri)
        if not receipt.is_complete(runs) or receipt.report != report_files(experiment.report_folder)[1]:
            sync = Sync(experiment, uri, plan)
            _close(Background(sync), sync, PATIENCE["FINISHED"])


@dataclass(frozen=True)
class Tracked:
    """What a store was sent: ``sent`` cells of ``finished`` ones, the others were there. ``place`` is where people see
    them."""

    sent: int
    finished: int
    place: str

    @property
    def text(self) -> str:
        counts = f"{self.sent} cells sent, MLflow has all {self.finished} finished ones"
        return f"{counts}\nin MLflow: {self.place}" if self.place else counts


def sync_runs(experiment: Experiment, plan: Callable[[], Sequence[PlannedCell]]) -> Tracked:
    """Compare the experiment's finished cells, failures and report with what MLflow has, and send what differs.

    Raises:
        TrackingError: tracking is switched off, or the store could not be reached or did not take everything; what it
            took is not sent again.
        ReportError: there is nothing to send.
        KeyboardInterrupt: after Ctrl-C or SIGTERM; the same.
    """
    uri, runs = tracking_uri(experiment), experiment.runs_folder
    if not uri:
        raise TrackingError(
            "tracking is switched off, 'tracking.uri' or MLFLOW_TRACKING_URI is empty: set tracking.uri=ADDRESS"
        )
    if not read_failures(runs):
        Runs(runs).finished()
    sync = Sync(experiment, uri, plan, asks=True)
    background = Background(sync)
    with terminated_as_interrupt():
        background.close(_DAY)
    if not background.done:
        raise TrackingError(
            f"{sync.waiting()} cells of {runs} are not in MLflow, {uri}: {background.reason}; "
            "what it took stays there, so run the same command again"
        )
    return Tracked(sync.sent, sync.finished, sync.place)


def tracking_uri(experiment: Experiment) -> str:
    """Where runs are logged: the environment's ``MLFLOW_TRACKING_URI``, else the experiment's; empty in
    either: nowhere."""
    if not experiment.tracking.uri:
        return ""
    return os.environ.get("MLFLOW_TRACKING_URI", experiment.tracking.uri).strip()


def _note(runs: Path, status: Status) -> None:
    try:
        write_status(runs, status)
    except OSError as error:  # a full disk: the sweep sees it too
        _log.warning("how the sweep stands is not kept for tracking: %s", error)


def _close(background: Background, sync: Sync, seconds: float) -> None:
    try:
        background.close(seconds)
    finally:
        if not background.done:
            why = background.reason or "there was no time for them"
            command = f"`probe-lab track {sync.experiment.name}`"
            _log.warning(
                "%d cells wait in %s for the next sweep, report or %s to send them to %s: %s",
                sync.waiting(), sync.runs, command, sync.uri, why,
            )  # fmt: skip
