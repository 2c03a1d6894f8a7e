"""The only file that knows MLflow: sweeps as parent runs, cells as child runs, logged from the files of
finished cells.

One MLflow experiment per experiment name. In it one parent run, which every rerun continues, and one run
per cell, found again by its tag ``cell``. All of it happens in the sweep's own process: workers never touch
the tracking store. Tracking is an extra. Whatever goes wrong in it is one warning, and the sweep goes on
without it.
"""

from __future__ import annotations

import json
import logging
import math
import os
import sqlite3
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import closing, contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import yaml

from probe_lab.config import Experiment

if TYPE_CHECKING:
    from mlflow import MlflowClient

_log = logging.getLogger(__name__)

Status = Literal["RUNNING", "FINISHED", "FAILED", "KILLED"]

CELL = "cell"
_ERROR = "error"
ROLE = "probe_lab.role"
"""Tag of every run: "sweep" for the parent, "cell" for the others."""
_PARENT = "mlflow.parentRunId"
_MARKER = "tracking.json"
"""What a finished sweep logged, and where: a rerun with nothing to add then needs no MLflow, whose import
is slow."""
_SQLITE = "sqlite:///"
_PARAMS_PER_BATCH, _METRICS_PER_BATCH, _TAGS_PER_BATCH = 100, 1000, 100
_PARAM_LENGTH, _TAG_LENGTH = 6000, 5000
_ARTIFACTS = ("config.yaml", "metrics.json", "predictions.parquet")
_ARTIFACT_BYTES = 5_000_000

_ENVIRONMENT = {
    "MLFLOW_DISABLE_TELEMETRY": "true",
    "DO_NOT_TRACK": "true",
    "MLFLOW_SUPPRESS_PRINTING_URL_TO_STDOUT": "true",
    "MLFLOW_HTTP_REQUEST_MAX_RETRIES": "1",
    "MLFLOW_HTTP_REQUEST_TIMEOUT": "20",
    "GIT_PYTHON_REFRESH": "quiet",
}
"""Set where the user has not: no calls home, no chatter, and a dead server costs seconds, not minutes."""


@dataclass(frozen=True)
class CellRun:
    """One cell as a tracked run: its name, which is also its folder in the runs folder, and its tags."""

    name: str
    tags: Mapping[str, str]


class Tracker:
    """Logs the cells of one sweep; made by ``track``. Does nothing when ``client`` is None, or after a
    first error."""

    def __init__(self, client: MlflowClient | None, folder: Path, experiment_id: str = "", parent: str = "") -> None:
        self._client = client
        self._folder = folder
        self._experiment_id = experiment_id
        self._parent = parent
        self._artifacts = True
        self._known: dict[str, tuple[str, str]] = {}
        """Cell -> its run and how that ended."""

    @property
    def active(self) -> bool:
        """Whether runs are being logged."""
        return self._client is not None

    @property
    def logged(self) -> set[str]:
        """Names of the cells that have a finished run."""
        return {cell for cell, (_, status) in self._known.items() if status == "FINISHED"}

    def log_cell(self, run: CellRun) -> None:
        """Log a finished cell from its files: parameters, metrics per epoch, final metrics, artifacts.
        Once."""
        with self._guarded() as client:
            if client is not None and run.name not in self.logged:
                with self._run(client, run, "FINISHED") as run_id:
                    _log_values(client, run_id, self._folder / run.name)
                    self._log_artifacts(client, run_id, self._folder / run.name)

    def log_failure(self, run: CellRun, error: str) -> None:
        """Log a cell that could not be trained as a FAILED run with its error as a tag."""
        with self._guarded() as client:
            if client is not None and run.name not in self.logged:
                with self._run(client, run, "FAILED") as run_id:
                    client.set_tag(run_id, _ERROR, error[:_TAG_LENGTH])

    def begin(self, experiment: Experiment) -> None:
        """Find the runs of earlier sweeps, end those that a killed one left RUNNING, and open the parent
        run."""
        with self._guarded() as client:
            if client is None:
                return
            self._experiment_id = _experiment_id(client, experiment)
            for run in _runs(client, self._experiment_id):
                if run.data.tags.get(ROLE) == "sweep":
                    self._parent = self._parent or run.info.run_id
                elif CELL in run.data.tags:
                    status = run.info.status
                    if status == "RUNNING":
                        status = "KILLED"
                        client.set_terminated(run.info.run_id, status)
                    self._known.setdefault(run.data.tags[CELL], (run.info.run_id, status))
            if self._parent:
                client.update_run(self._parent, "RUNNING")
            else:
                tags = {
                    ROLE: "sweep",
                    "mlflow.note.content": f"All cells of the experiment {experiment.name}.",
                }
                name = f"sweep {experiment.name}"
                self._parent = client.create_run(self._experiment_id, tags=tags, run_name=name).info.run_id
            client.set_tag(self._parent, "experiment", experiment.to_yaml()[:_TAG_LENGTH])

    def end(self, status: Status) -> None:
        """Close the parent run."""
        if self._client is not None and self._parent:
            with self._guarded():
                states = [state for _, state in self._known.values()]
                self._client.set_tag(self._parent, "cells.finished", states.count("FINISHED"))
                self._client.set_tag(self._parent, "cells.failed", states.count("FAILED"))
                self._client.set_terminated(self._parent, status)

    def _log_artifacts(self, client: MlflowClient, run_id: str, folder: Path) -> None:
        """Attach a cell's small files. A server may refuse files and take everything else, so this warns on
        its own."""
        if not self._artifacts:
            return
        try:
            for path in (folder / name for name in _ARTIFACTS):
                if path.exists() and path.stat().st_size <= _ARTIFACT_BYTES:
                    client.log_artifact(run_id, str(path))
        except Exception as error:  # the classes of every artifact store
            self._artifacts = False
            _log.warning("the tracking server takes no files, runs are logged without: %s", _one_line(error))

    @contextmanager
    def _run(self, client: MlflowClient, run: CellRun, status: Status) -> Iterator[str]:
        """The run of a cell, new or the one of an earlier attempt; it ends with ``status``, or as what
        interrupts it."""
        tags = {key: value[:_TAG_LENGTH] for key, value in run.tags.items()}
        tags |= {ROLE: "cell", CELL: run.name, _PARENT: self._parent}
        run_id = self._known[run.name][0] if run.name in self._known else ""
        final: Status = "KILLED"
        try:
            if run_id:
                client.update_run(run_id, "RUNNING")
                _log_tags(client, run_id, tags)
                with suppress(Exception):  # it had none
                    client.delete_tag(run_id, _ERROR)
            else:
                run_id = client.create_run(self._experiment_id, tags=tags, run_name=run.name).info.run_id
            yield run_id
            final = status
        except Exception:
            final = "FAILED"
            raise
        finally:
            if run_id:
                self._known[run.name] = (run_id, final)
                client.set_terminated(run_id, final)

    @contextmanager
    def _guarded(self) -> Iterator[MlflowClient | None]:
        """Nothing that MLflow, its database or its server raises gets out: warn, end the parent if
        possible, and stop."""
        try:
            yield self._client
        except Exception as error:  # the classes of SQLAlchemy, requests and a dozen stores
            client, self._client = self._client, None
            _log.warning("tracking is off for the rest of this run, training goes on: %s", _one_line(error))
            if client is not None and self._parent:
                with suppress(Exception):
                    client.set_terminated(self._parent, "FAILED")


@contextmanager
def track(experiment: Experiment, folder: Path, runs: Sequence[CellRun]) -> Iterator[Tracker]:
    """A tracker for a sweep over ``runs``, whose finished cells lie in ``folder``/<name>.

    Cells that are finished and were never logged are logged first. The parent run ends FINISHED, FAILED
    after an exception, or KILLED after an interrupt; no run stays RUNNING.
    """
    uri = tracking_uri(experiment)
    if not uri or _nothing_to_add(uri, folder, runs):
        yield Tracker(None, folder)
        return
    tracker = Tracker(_client(uri), folder)
    status: Status = "KILLED"
    try:
        tracker.begin(experiment)
        for run in runs:
            if (folder / run.name / "metrics.json").exists():
                tracker.log_cell(run)
        yield tracker
        status = "FINISHED"
    except Exception:
        status = "FAILED"
        raise
    finally:
        tracker.end(status)
        if tracker.active:
            _write_marker(uri, folder, tracker, status)


def tracking_uri(experiment: Experiment) -> str:
    """Where runs are logged: the environment's ``MLFLOW_TRACKING_URI``, else the experiment's; empty in
    either: nowhere."""
    if not experiment.tracking.uri:
        return ""
    return os.environ.get("MLFLOW_TRACKING_URI", experiment.tracking.uri).strip()


def log_report(experiment: Experiment, folder: Path) -> None:
    """Attach a report's files to the parent run of the experiment, below ``report/``; only warns when it
    cannot."""
    uri = tracking_uri(experiment)
    if not uri:
        return
    tracker = Tracker(_client(uri), folder)
    with tracker._guarded() as client:
        if client is not None:
            parents = [r for r in _runs(client, _experiment_id(client, experiment)) if r.data.tags.get(ROLE) == "sweep"]
            for run in parents[:1]:
                client.log_artifacts(run.info.run_id, str(folder), "report")


def _client(uri: str) -> MlflowClient | None:
    """A client that keeps quiet. SQLite files get their folder, and their artifacts beside them."""
    for name, value in _ENVIRONMENT.items():
        os.environ.setdefault(name, value)
    try:
        import mlflow

        for name in ("mlflow", "alembic", "urllib3.connectionpool"):
            logging.getLogger(name).setLevel(logging.ERROR)
        database = _database(uri)
        if database is not None:
            database.parent.mkdir(parents=True, exist_ok=True)
        return mlflow.MlflowClient(tracking_uri=uri)
    except Exception as error:  # an unknown scheme, a folder that cannot be made, a database that is not one
        _log.warning("tracking is off, training goes on: %s", _one_line(error))
        return None


def _experiment_id(client: MlflowClient, experiment: Experiment) -> str:
    found = client.get_experiment_by_name(experiment.name)
    if found is not None:
        if found.lifecycle_stage == "deleted":
            client.restore_experiment(found.experiment_id)
        return str(found.experiment_id)
    database = _database(tracking_uri(experiment))
    location = (database.parent.resolve() / "mlruns" / experiment.name).as_uri() if database else None
    return str(client.create_experiment(experiment.name, artifact_location=location))


def _runs(client: MlflowClient, experiment_id: str) -> Iterator[Any]:
    """Every run of an experiment, newest first."""
    token = None
    while True:
        page = client.search_runs([experiment_id], order_by=["attributes.start_time DESC"], page_token=token)
        yield from page
        token = page.token
        if not token:
            return


def _log_values(client: MlflowClient, run_id: str, folder: Path) -> None:
    from mlflow.entities import Metric, Param

    content = json.loads((folder / "metrics.json").read_bytes())
    config = yaml.safe_load((folder / "config.yaml").read_text()) if (folder / "config.yaml").exists() else {}
    params = [Param(_allowed(key), str(value)[:_PARAM_LENGTH]) for key, value in _flat(config)]
    for start in range(0, len(params), _PARAMS_PER_BATCH):
        client.log_batch(run_id, params=params[start : start + _PARAMS_PER_BATCH])
    now = int(time.time() * 1000)
    metrics = [Metric(_allowed(name), value, now, step) for name, value, step in _metric_values(content)]
    for start in range(0, len(metrics), _METRICS_PER_BATCH):
        client.log_batch(run_id, metrics=metrics[start : start + _METRICS_PER_BATCH])


def _allowed(name: str) -> str:
    """MLflow refuses the "@" of labelled evaluators in names of metrics and parameters."""
    return name.replace("@", ":")


def _metric_values(content: Mapping[str, Any]) -> Iterator[tuple[str, float, int]]:
    """(name, value, step): the history per epoch, then final metrics ("val/..." on the validation split)."""
    for row in content.get("history", []):
        for key, value in row.items():
            if key != "epoch" and _is_number(value):
                yield key, float(value), int(row["epoch"])
    for entry in content["metrics"]:
        name = f"{entry['evaluator']}/{entry['metric']}"
        if entry["split"] != "test":
            name = f"{entry['split']}/{name}"
        for key, suffix in {"estimate": "", "lower": "/lower", "upper": "/upper"}.items():
            if _is_number(entry.get(key)):
                yield name + suffix, float(entry[key]), 0
    if _is_number(content.get("seconds")):
        yield "seconds", float(content["seconds"]), 0


def _is_number(value: object) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)


def _flat(content: Mapping[str, Any], prefix: str = "") -> Iterator[tuple[str, Any]]:
    """Dotted keys and values of a config, without the sweep (each cell states its own point)."""
    for key, value in content.items():
        if isinstance(value, Mapping):
            yield from _flat(value, f"{prefix}{key}.")
        elif prefix + key != "sweep":
            yield prefix + key, value


def _log_tags(client: MlflowClient, run_id: str, tags: Mapping[str, str]) -> None:
    from mlflow.entities import RunTag

    client.log_batch(run_id, tags=[RunTag(key, value) for key, value in tags.items()][:_TAGS_PER_BATCH])


def _one_line(error: Exception) -> str:
    return (str(error).strip().splitlines() or [type(error).__name__])[0][:300]


def _database(uri: str) -> Path | None:
    """The file of an SQLite address."""
    return Path(uri.removeprefix(_SQLITE)) if uri.startswith(_SQLITE) else None


def _write_marker(uri: str, folder: Path, tracker: Tracker, status: Status) -> None:
    marker = {"uri": uri, "status": status, "parent": tracker._parent, "cells": sorted(tracker.logged)}
    with suppress(OSError):  # the next run asks MLflow instead
        (folder / _MARKER).write_text(json.dumps(marker, indent=1))


def _nothing_to_add(uri: str, folder: Path, runs: Sequence[CellRun]) -> bool:
    """Whether the last sweep logged all of this one's cells into an SQLite file that still holds them."""
    database = _database(uri)
    try:
        marker = json.loads((folder / _MARKER).read_text())
        same = marker["uri"] == uri and marker["status"] == "FINISHED"
        if database is None or not same or not {run.name for run in runs} <= set(marker["cells"]):
            return False
        with closing(sqlite3.connect(f"{database.resolve().as_uri()}?mode=ro", uri=True)) as connection:
            alive = "SELECT COUNT(*) FROM runs WHERE run_uuid = ? AND lifecycle_stage = 'active'"
            return bool(connection.execute(alive, (marker["parent"],)).fetchone()[0])
    except (OSError, ValueError, KeyError, TypeError, sqlite3.Error):
        return False
