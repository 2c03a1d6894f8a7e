"""Brings a store up to date with the files of one experiment's runs: what differs is sent, and nothing else."""

from __future__ import annotations

import hashlib
import logging
from collections.abc import Callable, Collection, Sequence
from contextlib import suppress
from dataclasses import astuple, replace
from functools import cached_property, partial
from pathlib import Path
from typing import Any, Protocol, cast

import yaml

from probe_lab.cache.files import sha256_of
from probe_lab.config import Experiment
from probe_lab.errors import ProbeLabError, ReportError
from probe_lab.runs import Runs, is_finished
from probe_lab.runs.configs import Flat, flat
from probe_lab.runs.failures import Failure, read_failures
from probe_lab.runs.files import finished_at, finished_names
from probe_lab.runs.identity import plain
from probe_lab.runs.table import Planned
from probe_lab.tracking.overview import OverviewRow, note_of, ranked
from probe_lab.tracking.run_names import run_names
from probe_lab.tracking.sent_record import Receipt, digest_of
from probe_lab.tracking.server import place_of
from probe_lab.tracking.store import ERROR, CellRun, RefusedError, Store
from probe_lab.tracking.tracking_folder import Status, owner_of, read_status
from probe_lab.tracking.values import allowed, final_metrics, read_values, tags_of

_log = logging.getLogger(__name__)

_REPORT_FILES = ("index.html", "figures/*", "tables/*")
Progress = Callable[[int, int], None]
"""Called with how much is done of a pass, and how much there is in all."""
_DAMAGED = (ReportError, OSError, ValueError, KeyError, TypeError, yaml.YAMLError)
"""What a cell whose files were deleted or damaged raises."""


class PlannedCell(Planned, Protocol):
    """A cell of a sweep, trained or not: its name, the value of every swept key, and its configuration."""

    @property
    def experiment(self) -> Experiment: ...


class Sync:
    """One command's view of a store and of the files below ``experiment.runs_folder``.

    ``plan`` gives the cells of the experiment's sweep; those named ``pending`` are being trained meanwhile, and what
    lies in their folders at first is of before. A pass may end at any point: the next one, of this command or another,
    goes on from what the store has by then. What that is the last receipt says, unless it is not whole, or this one
    ``asks`` the store all the same: thousands of runs take it seconds.
    """

    def __init__(
        self,
        experiment: Experiment,
        uri: str,
        plan: Callable[[], Sequence[PlannedCell]],
        pending: Collection[str] | None = None,
        *,
        asks: bool = False,
    ) -> None:
        self.experiment, self.uri, self.runs = experiment, uri, experiment.runs_folder
        self.sent, self._asks = 0, asks
        self._sweeping, self._plan_of = pending is not None, plan
        self._store: Store | None = None
        self._cells = Runs(self.runs)
        self._configs: dict[str, Flat] = {}
        self._names: dict[str, str] = {}
        self._seen = {name: finished_at(self.runs / name) for name in pending or ()}
        self._digests: dict[str, str] = {}
        self._rows: dict[str, OverviewRow] = {}
        self._in_store: dict[str, CellRun] = {}

    def connect(self) -> Store:
        """The store, which is opened unless it is, and the runs that it has."""
        if self._store is None:
            if not self._configs:
                self._configs = {name: config_of(cell.experiment) for name, cell in self._plan.items()}
            receipt, known = Receipt.read(self.runs, self.uri), None
            if receipt.parent and receipt.whole:
                if not self._asks:
                    known = {cell: CellRun(*run) for cell, run in receipt.runs.items()}
                replace(receipt, whole=False).write(self.runs)
            self._store = Store(self.uri, self.experiment, owner_of(self.runs), receipt.parent, known)
            self._in_store = self._store.cells
        return self._store

    @property
    def is_connected(self) -> bool:
        return self._store is not None

    def disconnect(self) -> None:
        """Open the store anew at the next pass: this one failed."""
        self._store = None

    def send(self, go_on: Callable[[], bool], on_progress: Progress) -> bool:
        """Send the cells and failures that are new, and the table of all. False when it was told not to go on."""
        store = self.connect()
        if self._sweeping and read_status(self.runs) == "RUNNING":
            store.set_status("RUNNING")
        new, failures = self._look(), self._failures()
        steps = [
            *(partial(self._send_cell, store, name) for name in new),
            *(partial(self._send_failure, store, failure) for failure in failures.values()),
            *(partial(store.rename, name, text) for name, text in self._names.items() if self._has_other(name, text)),
        ]
        for done, step in enumerate(steps):
            if not go_on():
                return False
            step()
            on_progress(done + 1, len(steps))
        self._show_overview(store, len(failures))
        return True

    def finish(self, go_on: Callable[[], bool], on_progress: Progress) -> bool:
        """As ``send``, then the report and how the sweep ended; a receipt says that the store has all of it."""
        if not self.send(go_on, on_progress):
            return False
        store, folder = self.connect(), self.experiment.report_folder
        paths, report = report_files(folder)
        for done, _ in enumerate(store.send_report(folder, paths, report) if paths else ()):
            on_progress(done + 1, len(paths))
            if not go_on():
                return False
        store.set_status(self._ended(store.status))
        sent = {name: run.digest for name, run in store.cells.items() if run.shows(self._digests.get(name, ""))}
        runs = {name: astuple(run) for name, run in store.cells.items()}
        Receipt(owner_of(self.runs), self.uri, store.experiment, store.parent, report, sent, runs).write(self.runs)
        return True

    @property
    def place(self) -> str:
        """How people see the runs of this experiment; empty where they were not sent."""
        return place_of(self.uri, self._store.experiment, self._store.parent) if self._store is not None else ""

    @property
    def finished(self) -> int:
        """How many cells are finished and readable."""
        return len(self._rows)

    def waiting(self) -> int:
        """How many cells the store lacks, as far as is known without asking it."""
        sent = {name: run.digest for name, run in self._in_store.items()}
        sent = sent or dict(Receipt.read(self.runs, self.uri).cells)
        here = {name: digest_of(self.runs / name) for name in finished_names(self.runs)}
        here |= {name: _digest_of_failure(failure) for name, failure in self._failures().items()}
        return sum(sent.get(name) != digest for name, digest in here.items())

    def _look(self) -> list[str]:
        """The finished cells that the store does not show as they are; those that are new here are read."""
        planned = len(self._configs)
        for name in finished_names(self.runs):
            written = finished_at(self.runs / name)
            if written is None or self._seen.get(name) == written:
                continue
            self._seen[name], self._digests[name] = written, digest_of(self.runs / name)  # before anything is read
            try:
                cell = self._cells.cell(name)
                self._rows[name] = OverviewRow.of(cell, self._evaluator)
                if name not in self._configs:
                    self._configs[name] = cell.config
            except _DAMAGED as error:
                self._leave_out(name, error)
        if not self._names or len(self._configs) > planned:
            self._names = run_names(self._configs)
        sent = self._in_store
        return [name for name in self._rows if name not in sent or not sent[name].shows(self._digests[name])]

    def _leave_out(self, name: str, error: Exception) -> None:
        _log.warning("%s is not tracked, its files cannot be read: %s", self.runs / name, error)
        self._rows.pop(name, None)

    def _failures(self) -> dict[str, Failure]:
        """The planned cells that could not be trained, and have no files."""
        try:
            failures = read_failures(self.runs)
        except ReportError:  # the sweep says so, and writes the file anew
            return {}
        return {f.cell: f for f in failures if f.cell in self._plan and not is_finished(self.runs / f.cell)}

    def _send_cell(self, store: Store, name: str) -> None:
        planned = self._plan.get(name)
        try:
            values = read_values(self._cells.cell(name), planned.axes if planned else self._swept(name))
        except _DAMAGED as error:  # deleted or damaged since
            self._leave_out(name, error)
            return
        try:
            store.send_cell(name, self._names[name], self._digests[name], values)
        except RefusedError as error:
            _log.warning("%s is tracked as failed, the store refuses it: %s", self.runs / name, error)
        self.sent += 1

    def _swept(self, name: str) -> dict[str, Any]:
        """The values that a cell of another plan has for the keys of this sweep."""
        config = self._configs[name]
        return {key: config[key] for grid in self.experiment.sweep for key in grid if key in config}

    def _send_failure(self, store: Store, failure: Failure) -> None:
        """Unless the store shows it already, or an earlier training of the cell that went well."""
        shown, digest = store.cells.get(failure.cell), _digest_of_failure(failure)
        if shown is None or (shown.status != "FINISHED" and shown.digest != digest):
            tags = tags_of(self._configs[failure.cell], self._plan[failure.cell].axes)
            store.send_failure(failure.cell, self._names[failure.cell], digest, {**tags, ERROR: failure.error})
            self.sent += 1

    def _has_other(self, name: str, text: str) -> bool:
        """Whether a cell's run, which may be replaced before it comes to that, has another name."""
        return name in self._in_store and self._in_store[name].name != text

    def _show_overview(self, store: Store, failed: int) -> None:
        order = ranked(self._rows)
        rows = {name: self._rows[name] for name in (*order, *sorted(self._rows.keys() - set(order)))}
        tags = {"cells.finished": str(len(rows)), "cells.failed": str(failed)}
        tags["mlflow.note.content"] = note_of(self.experiment.name, self._evaluator, rows, self._names, failed)
        metrics: dict[str, float] = {}
        if order:
            tags["best_cell"] = order[0]
            with suppress(*_DAMAGED):  # the next pass leaves it out
                metrics = final_metrics(self._cells.cell(order[0]))
        store.show(tags, {allowed(name): value for name, value in metrics.items()})

    def _ended(self, shown: str) -> Status:
        """The status of the parent when no sweep runs: that of the last one, KILLED where it did not write it."""
        status = read_status(self.runs)
        if status is None:
            return "FINISHED" if shown == "RUNNING" else cast(Status, shown)
        return "KILLED" if status == "RUNNING" else status

    @cached_property
    def _plan(self) -> dict[str, PlannedCell]:
        try:
            return {cell.name: cell for cell in self._plan_of()}
        except (
            ProbeLabError
        ):  # the cells were trained by another experiment file than this one: they speak for themselves
            return {}

    @property
    def _evaluator(self) -> str:
        return self.experiment.probe_evaluators[0]


def config_of(experiment: Experiment) -> Flat:
    """The configuration of a cell as its file would hold it."""
    config = dict(flat(plain(experiment)))
    return config | {"cache.name": config["cache.name"] or config["name"]}


def report_files(folder: Path) -> tuple[list[Path], str]:
    """The files of a report, and a digest of them; nothing and "" where there is none. Whatever else lies in a folder
    that is called a report is not sent anywhere."""
    paths = sorted(path for name in _REPORT_FILES for path in folder.glob(name) if path.is_file())
    digest = hashlib.sha256()
    for path in paths:
        digest.update(f"{path.relative_to(folder)}\0{sha256_of(path)}\n".encode())
    return paths, digest.hexdigest()[:16] if paths else ""


def _digest_of_failure(failure: Failure) -> str:
    return hashlib.sha256(failure.error.encode()).hexdigest()[:16]
