"""The runs of one experiment in one store. Only this file and `database.py` import MLflow.

Other runs folders may log the same experiment into the same store: what is looked up, ended or deleted has the tag of
its owner, and runs of other owners, or of none, are left alone.

Every call may raise whatever MLflow, its database or its server raises. A store that raised is left alone; the next one
asks again for all runs that there are, so no cell gets two.
"""

from __future__ import annotations

import logging
import math
import os
import time
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from probe_lab.config import Experiment
from probe_lab.tracking.database import make_database
from probe_lab.tracking.sent_record import database_of
from probe_lab.tracking.server import answers
from probe_lab.tracking.tracking_folder import Status
from probe_lab.tracking.values import TAG_LENGTH, CellValues

if TYPE_CHECKING:
    from mlflow import MlflowClient

_log = logging.getLogger(__name__)

CELL, ERROR, DIGEST = "cell", "error", "probe_lab.digest"
ROLE = "probe_lab.role"
"""Tag of every run: "sweep" for the parent, "cell" for the others."""
OWNER = "probe_lab.owner"
"""Tag of every run: the runs folder that it is of."""
REPORT = "probe_lab.report"
"""Tag of the parent: the digest of the report's files that are attached to it."""
_PARENT = "mlflow.parentRunId"
_REFUSALS = ("INVALID_PARAMETER_VALUE", "BAD_REQUEST", "INVALID_STATE")
_ABSENT = ("RESOURCE_DOES_NOT_EXIST", "NOT_FOUND")
_SHORTER = (500, 250)
"""Characters of a parameter or tag that stores of earlier versions take."""
_PAGE = 500

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


@dataclass(frozen=True)
class CellRun:
    """The run of a cell in the store: how it stands, what it is called, and the digest of the files that it shows."""

    run: str
    status: str
    name: str
    digest: str

    def shows(self, digest: str) -> bool:
        return self.status == "FINISHED" and self.digest == digest


class Store:
    """The parent run of an experiment and the runs below it; ``cells`` are those that the store has."""

    def __init__(
        self,
        uri: str,
        experiment: Experiment,
        owner: str,
        parent: str = "",
        known: Mapping[str, CellRun] | None = None,
    ) -> None:
        """Find or make the experiment and its parent run, which may be ``parent``, and the runs below it, which are
        ``known`` or else looked up; then what a killed command left running is ended."""
        self._uri, self._owner = uri, owner
        self._client = _client(uri)
        self._files, self._refusal = True, ""
        self.experiment = self._find_experiment(experiment)
        run = self._get(parent) if parent and known is not None else None
        if run is not None and run.data.tags.get(OWNER) == owner:
            self.cells = dict(known or {})
        else:
            run = self._look_up(experiment, parent)
        self.parent: str = run.info.run_id
        self.status: str = run.info.status
        self._tags, self._metrics = dict(run.data.tags), dict(run.data.metrics)
        self.show({"experiment": experiment.to_yaml()}, {})

    def send_cell(self, cell: str, name: str, digest: str, values: CellValues) -> None:
        """Log a finished cell, in place of an earlier run of it.

        What of it the store refuses is cut or left out with a warning. RefusedError where it takes no metric at all:
        then the run has FAILED.
        """
        self._delete(cell)
        run = self._child(cell, name, {**values.tags, DIGEST: digest}, values.start)
        if not self._log_values(run, values):
            self._tag(run, {ERROR: self._refusal})
            self._end(cell, CellRun(run, "FAILED", name, digest))
            raise RefusedError(self._refusal)
        self._end(cell, CellRun(run, "FINISHED", name, digest), values.end)

    def send_failure(self, cell: str, name: str, digest: str, tags: Mapping[str, str]) -> None:
        """Log a cell that could not be trained as a FAILED run, in place of an earlier one."""
        self._delete(cell)
        run = self._child(cell, name, {**tags, DIGEST: digest})
        self._end(cell, CellRun(run, "FAILED", name, digest))

    def rename(self, cell: str, name: str) -> None:
        """Give the run of a cell another name."""
        shown = self.cells[cell]
        self._client.update_run(shown.run, name=name)
        self.cells[cell] = CellRun(shown.run, shown.status, name, shown.digest)

    def send_report(self, folder: Path, paths: Sequence[Path], digest: str) -> Iterator[None]:
        """Attach files of a report in ``folder`` to the parent, below ``report/``, unless those with this digest are;
        yields after each."""
        if self._tags.get(REPORT) == digest:
            return
        for path in paths:
            self._attach(self.parent, [path], Path("report", path.parent.relative_to(folder)).as_posix())
            yield
        self.show({REPORT: digest}, {})

    def show(self, tags: Mapping[str, str], metrics: Mapping[str, float]) -> None:
        """Set what differs of the parent's tags, and of its metrics, which are nan once they are not among these."""
        from mlflow.entities import Metric

        cut = {key: value[:TAG_LENGTH] for key, value in tags.items()}
        self._tag(self.parent, {key: value for key, value in cut.items() if self._tags.get(key) != value})
        self._tags |= cut
        if metrics:
            gone = {name: math.nan for name in self._metrics if name not in metrics and not name.startswith("system/")}
            changed = [
                Metric(name, value, time.time_ns() // 1_000_000, 0)
                for name, value in {**metrics, **gone}.items()
                if not _same(self._metrics.get(name), value)
            ]
            self._log(self.parent, "metrics", changed)
            self._metrics |= {**metrics, **gone}

    def set_status(self, status: Status) -> None:
        """End the parent, or let it run again."""
        if status == self.status:
            return
        if status == "RUNNING":
            self._client.update_run(self.parent, status)
        else:
            self._client.set_terminated(self.parent, status)
        self.status = status

    def _find_experiment(self, experiment: Experiment) -> str:
        """Its id. Artifacts of an SQLite file lie beside it."""
        existing = self._client.get_experiment_by_name(experiment.name)
        if existing is None:
            database = database_of(self._uri)
            location = (database.parent.resolve() / "mlruns" / experiment.name).as_uri() if database else None
            return str(self._client.create_experiment(experiment.name, artifact_location=location))
        if existing.lifecycle_stage == "deleted":
            self._client.restore_experiment(existing.experiment_id)
        return str(existing.experiment_id)

    def _look_up(self, experiment: Experiment, parent: str) -> Any:
        """The parent run, which is made where there is none; sets ``cells``."""
        runs = self._owned()
        if parent and all(run.info.run_id != parent for run in runs) and self._adopt(parent):
            runs = self._owned()
        self.cells = self._cells_of(run for run in runs if not _is_parent(run))
        parents = sorted((run for run in runs if _is_parent(run)), key=lambda run: run.info.run_id != parent)
        if parents:
            return parents[0]
        tags = {ROLE: "sweep", OWNER: self._owner}
        return self._client.create_run(self.experiment, tags=tags, run_name=f"sweep {experiment.name}")

    def _get(self, run: str) -> Any:
        """A run, None where it is gone."""
        try:
            found = self._client.get_run(run)
        except Exception as error:
            if getattr(error, "error_code", "") in _ABSENT:
                return None
            raise
        return found if found.info.lifecycle_stage == "active" else None

    def _owned(self) -> list[Any]:
        """All runs of the owner, the newest first."""
        return list(self._search(f"tags.`{OWNER}` = '{self._owner}'"))

    def _adopt(self, parent: str) -> bool:
        """Whether this run is still there and of a version whose runs had no owner: it and its children get one."""
        run = self._get(parent)
        if run is None or OWNER in run.data.tags:
            return False
        for child in (*self._search(f"tags.`{_PARENT}` = '{parent}'"), run):
            if OWNER not in child.data.tags:
                self._tag(child.info.run_id, {OWNER: self._owner})
        return True

    def _cells_of(self, runs: Iterable[Any]) -> dict[str, CellRun]:
        """The runs of cells. Of several of one cell the newest counts, and the others are deleted; what a killed
        command left running is ended."""
        cells: dict[str, CellRun] = {}
        for run in runs:
            cell = run.data.tags.get(CELL)
            if cell in cells:
                self._client.delete_run(run.info.run_id)
            elif cell:
                status = run.info.status
                if status == "RUNNING":
                    status = "KILLED"
                    self._client.set_terminated(run.info.run_id, status)
                cells[cell] = CellRun(run.info.run_id, status, run.info.run_name, run.data.tags.get(DIGEST, ""))
        return cells

    def _search(self, condition: str) -> Iterator[Any]:
        """The runs of the experiment for which this holds, the newest first."""
        token = None
        while True:
            order = ["attributes.start_time DESC"]
            page = self._client.search_runs([self.experiment], condition, 1, _PAGE, order, token)
            yield from page
            token = page.token
            if not token:
                return

    def _child(self, cell: str, name: str, tags: Mapping[str, str], start: int | None = None) -> str:
        """A new run, with all of its tags that every store takes: nobody sees it without."""
        tags = {**tags, ROLE: "cell", CELL: cell, OWNER: self._owner, _PARENT: self.parent}
        long = {key: value for key, value in tags.items() if len(value) > min(_SHORTER)}
        short = {key: value for key, value in tags.items() if key not in long}
        run = self._client.create_run(self.experiment, start_time=start, tags=short, run_name=name).info.run_id
        self._tag(run, long)
        return str(run)

    def _delete(self, cell: str) -> None:
        """Delete the run of a cell, if it has one."""
        if cell in self.cells:
            try:
                self._client.delete_run(self.cells.pop(cell).run)
            except Exception as error:
                if getattr(error, "error_code", "") not in (*_REFUSALS, *_ABSENT):  # somebody did
                    raise

    def _end(self, cell: str, ended: CellRun, end: int | None = None) -> None:
        self._client.set_terminated(ended.run, ended.status, end)
        self.cells[cell] = ended

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

        self._log(run, "tags", [RunTag(key, value[:TAG_LENGTH]) for key, value in tags.items()])


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


def _is_parent(run: Any) -> bool:
    return bool(run.data.tags.get(ROLE) == "sweep")


def _same(shown: float | None, value: float) -> bool:
    return shown == value or (shown is not None and math.isnan(shown) and math.isnan(value))


def one_line(error: BaseException) -> str:
    """The first line of an error's message."""
    return (str(error).strip().splitlines() or [type(error).__name__])[0][:300]
