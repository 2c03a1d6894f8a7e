"""The runs of one experiment in one store. Only this file and `database.py` import MLflow.

Other runs folders may log the same experiment into the same store: what is looked up, ended or deleted has the tag of
its owner, and runs of other owners, or of none, are left alone.

Every call may raise whatever MLflow, its database or its server raises. A store that raised is left alone, and the
next one, which finds the ledger open, asks for every cell before it makes a run: so no cell has two.
"""

from __future__ import annotations

import logging
import os
from collections.abc import Iterator, Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, cast

from probe_lab.config import Experiment
from probe_lab.tracking.database import make_database
from probe_lab.tracking.entries import Status
from probe_lab.tracking.ledger import Ledger, Logged, database_of, owner_of
from probe_lab.tracking.server import answers
from probe_lab.tracking.values import TAG_LENGTH, CellValues

if TYPE_CHECKING:
    from mlflow import MlflowClient

_log = logging.getLogger(__name__)

CELL, ERROR, DIGEST = "cell", "error", "probe_lab.digest"
ROLE = "probe_lab.role"
"""Tag of every run: "sweep" for the parent, "cell" for the others."""
OWNER = "probe_lab.owner"
"""Tag of every run: the runs folder that it is of."""
REPORT_FILES = ("index.html", "figures/*", "tables/*")
_PARENT = "mlflow.parentRunId"
_REFUSALS = ("INVALID_PARAMETER_VALUE", "BAD_REQUEST", "INVALID_STATE")
_ABSENT = ("RESOURCE_DOES_NOT_EXIST", "NOT_FOUND")
_SHORTER = (500, 250)
"""Characters of a parameter or tag that stores of earlier versions take."""

_ENVIRONMENT = {
    "MLFLOW_DISABLE_TELEMETRY": "true",
    "DO_NOT_TRACK": "true",
    "MLFLOW_SUPPRESS_PRINTING_URL_TO_STDOUT": "true",
    "MLFLOW_HTTP_REQUEST_MAX_RETRIES": "0",
    "MLFLOW_HTTP_REQUEST_TIMEOUT": "10",
    "GIT_PYTHON_REFRESH": "quiet",
}
"""Set where the user has not: no calls home, no chatter, and no retries but ours, which never make a run twice."""


class RefusedError(Exception):
    """The store does not take these values, now or later."""


class Store:
    """The parent run of an experiment and the runs below it."""

    def __init__(self, uri: str, experiment: Experiment, ledger: Ledger) -> None:
        """Find or make the experiment and its parent run, and end what a killed sweep left running."""
        self._uri, self._ledger = uri, ledger
        self._owner = owner_of(ledger.runs)
        self._client = _client(uri)
        self._files, self._refusal = True, ""
        found = self._client.get_experiment_by_name(experiment.name)
        self._experiment = str(found.experiment_id) if found is not None else self._new_experiment(experiment)
        if found is not None and found.lifecycle_stage == "deleted":
            self._client.restore_experiment(self._experiment)
        known = found is not None and bool(ledger.parent) and self._is_ours(ledger.parent)
        self._in_doubt = found is not None and not (known and ledger.closed)
        if self._in_doubt:
            self._end_running()
        self.parent = ledger.parent if known else ""
        if not self.parent and found is not None:
            self.parent = next((run.info.run_id for run in self._search(f"tags.`{ROLE}` = 'sweep'", 1)), "")
        self._runs = not self.parent
        tags = {"experiment": experiment.to_yaml()[:TAG_LENGTH], OWNER: self._owner}
        if not self.parent:
            own = {ROLE: "sweep", OWNER: self._owner}
            run = self._client.create_run(self._experiment, tags=own, run_name=f"sweep {experiment.name}")
            self.parent = run.info.run_id
            tags["mlflow.note.content"] = f"All cells of the experiment {experiment.name}."
        self._tag(self.parent, tags)
        self._ended = cast(Status | None, ledger.closed or None)
        ledger.open(self.parent)

    def resume(self) -> None:
        """The parent runs (again)."""
        if not self._runs:
            self._client.update_run(self.parent, "RUNNING")
            self._ledger.open(self.parent)
        self._runs, self._ended = True, None

    def leave(self) -> None:
        """The last call: the ledger says that all is logged, and a parent that was made only to add to it has ended."""
        if self._runs:
            self.end("KILLED")
        elif self._ended:
            self._ledger.close(self._ended)

    def log_cell(self, name: str, tags: Mapping[str, str], values: CellValues) -> None:
        """Log a finished cell, unless its run shows these values already. An earlier run of it is deleted.

        What of it the store refuses is cut or left out with a warning. RefusedError where it takes no metric at all:
        then the run has FAILED.
        """
        known = self._known(name)
        if known is not None and known.shows(values.digest):
            self._ledger.add(name, known)
            return
        self._delete(known)
        run = self._child(name, {**values.tags, **tags, DIGEST: values.digest}, values.start)
        if not self._log_values(run, values):
            self._tag(run, {ERROR: self._refusal[:TAG_LENGTH]})
            self._finish(name, run, Logged(run, "FAILED", values.digest))
            raise RefusedError(self._refusal)
        self._finish(name, run, Logged(run, "FINISHED", values.digest), values.end)

    def log_failure(self, name: str, tags: Mapping[str, str], error: str) -> None:
        """Log a cell that could not be trained as a FAILED run with its error as a tag, unless it has a finished
        run."""
        known = self._known(name)
        if known is None or known.status != "FINISHED":
            self._delete(known)
            run = self._child(name, {**tags, ERROR: error[:TAG_LENGTH]})
            self._finish(name, run, Logged(run, "FAILED"))

    def log_report(self, folder: Path) -> Iterator[None]:
        """Attach a report's files to the parent, below ``report/``; yields after each. Whatever else lies in a folder
        that is called a report is not sent anywhere."""
        for path in sorted(path for name in REPORT_FILES for path in folder.glob(name) if path.is_file()):
            below = Path("report", path.parent.relative_to(folder)).as_posix()
            self._attach(self.parent, [path], below)
            yield

    def end(self, status: Status) -> None:
        """Close the parent run."""
        states = [logged.status for logged in self._ledger.cells.values()]
        counts = {f"cells.{state.lower()}": str(states.count(state)) for state in ("FINISHED", "FAILED")}
        self._tag(self.parent, counts)
        self._client.set_terminated(self.parent, status)
        self._runs, self._ended = False, status

    def _new_experiment(self, experiment: Experiment) -> str:
        """Artifacts of an SQLite file lie beside it."""
        database = database_of(self._uri)
        location = (database.parent.resolve() / "mlruns" / experiment.name).as_uri() if database else None
        return str(self._client.create_experiment(experiment.name, artifact_location=location))

    def _is_ours(self, run: str) -> bool:
        """Whether the run that the ledger names is still there, and no other folder's."""
        try:
            found = self._client.get_run(run)
            return found.info.lifecycle_stage == "active" and found.data.tags.get(OWNER, self._owner) == self._owner
        except Exception as error:
            if getattr(error, "error_code", "") in _ABSENT:
                return False
            raise

    def _end_running(self) -> None:
        for run in list(self._search("attributes.status = 'RUNNING'")):
            if CELL in run.data.tags:
                self._client.set_terminated(run.info.run_id, "KILLED")

    def _known(self, cell: str) -> Logged | None:
        """The run of a cell: the ledger's, or the store's newest, where others are deleted."""
        if cell in self._ledger.cells or not self._in_doubt:
            return self._ledger.cells.get(cell)
        runs = list(self._search(f"tags.`{CELL}` = '{cell}'"))
        for run in runs[1:]:
            self._client.delete_run(run.info.run_id)
        found = (Logged(run.info.run_id, run.info.status, run.data.tags.get(DIGEST, "")) for run in runs)
        return next(found, None)

    def _search(self, condition: str, most: int = 1000) -> Iterator[Any]:
        """The owner's runs of the experiment for which this holds, the newest first."""
        token = None
        condition = f"{condition} and tags.`{OWNER}` = '{self._owner}'"
        while True:
            order = ["attributes.start_time DESC"]
            page = self._client.search_runs([self._experiment], condition, 1, most, order, token)
            yield from page
            token = page.token
            if not token:
                return

    def _child(self, name: str, tags: Mapping[str, str], start: int | None = None) -> str:
        own = {ROLE: "cell", CELL: name, OWNER: self._owner, _PARENT: self.parent}
        run = self._client.create_run(self._experiment, start_time=start, tags=own, run_name=name).info.run_id
        self._tag(run, {key: value[:TAG_LENGTH] for key, value in tags.items() if key not in own})
        return str(run)

    def _delete(self, known: Logged | None) -> None:
        if known is not None:
            try:
                self._client.delete_run(known.run)
            except Exception as error:
                if getattr(error, "error_code", "") not in (*_REFUSALS, *_ABSENT):  # somebody did
                    raise

    def _finish(self, name: str, run: str, logged: Logged, end: int | None = None) -> None:
        self._client.set_terminated(run, logged.status, end)
        self._ledger.add(name, logged)

    def _log_values(self, run: str, values: CellValues) -> bool:
        """Whether the store took any of the metrics."""
        from mlflow.entities import Metric, Param

        metrics = [Metric(name, value, values.end, step) for name, value, step in values.metrics]
        self._attach(run, values.files)  # first: it reads the run, which is quick while that is empty
        self._log(run, "params", [Param(key, value) for key, value in values.params.items()])
        return self._log(run, "metrics", metrics) > 0 or not metrics

    def _log(self, run: str, kind: Literal["metrics", "params", "tags"], values: Sequence[Any]) -> int:
        """Log values of a kind; how many the store took.

        MLflow cuts a batch where a store's limits are (100 parameters, 1000 values in all). A store refuses a batch as
        a whole, so its halves are tried until it is known which value is meant.
        """
        if not values:
            return 0
        try:
            self._client.log_batch(run, **{kind: values})
            return len(values)
        except Exception as error:
            if getattr(error, "error_code", "") not in _REFUSALS:
                raise
            refusal = one_line(error)
        if len(values) > 1:
            middle = len(values) // 2
            return self._log(run, kind, values[:middle]) + self._log(run, kind, values[middle:])
        return self._log_refused(run, kind, values[0], refusal)

    def _log_refused(self, run: str, kind: Literal["metrics", "params", "tags"], value: Any, refusal: str) -> int:
        """Log a refused parameter or tag cut to what earlier stores take, or leave it out; one warning for all."""
        if not self._refusal:
            _log.warning("the tracking server refuses some values, which are cut or left out: %s", refusal)
        self._refusal = refusal
        shorter = next((length for length in _SHORTER if kind != "metrics" and length < len(value.value)), None)
        return self._log(run, kind, [type(value)(value.key, value.value[:shorter])]) if shorter else 0

    def _attach(self, run: str, files: Sequence[Path], below: str | None = None) -> None:
        """A server may refuse files and take everything else, so this warns on its own, once."""
        try:
            for path in files if self._files else ():
                self._client.log_artifact(run, str(path), below)
        except Exception as error:  # the classes of every artifact store
            if not answers(self._uri):
                raise
            self._files = False
            _log.warning("the tracking server takes no files, runs are logged without: %s", one_line(error))

    def _tag(self, run: str, tags: Mapping[str, str]) -> None:
        from mlflow.entities import RunTag

        self._log(run, "tags", [RunTag(key, value) for key, value in tags.items()])


def _client(uri: str) -> MlflowClient:
    """A client that keeps quiet. SQLite files get their folder."""
    for name, value in _ENVIRONMENT.items():
        os.environ.setdefault(name, value)
    import mlflow

    for name in ("mlflow", "alembic", "urllib3.connectionpool"):
        logging.getLogger(name).setLevel(logging.ERROR)
    database = database_of(uri)
    if database is not None:
        make_database(database)
    return mlflow.MlflowClient(tracking_uri=uri)


class Machine:
    """Load and memory of this machine, sampled into a run by MLflow's own monitor until it is stopped."""

    def __init__(self, uri: str, run: str) -> None:
        from mlflow.system_metrics.system_metrics_monitor import SystemMetricsMonitor

        self._monitor = SystemMetricsMonitor(run, resume_logging=True, tracking_uri=uri)
        self._monitor.start()

    def stop(self) -> None:
        with suppress(Exception):  # a store that is gone takes nothing more
            self._monitor.finish()


def one_line(error: BaseException) -> str:
    """The first line of an error's message."""
    return (str(error).strip().splitlines() or [type(error).__name__])[0][:300]
