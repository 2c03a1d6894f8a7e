"""Tracking against real MLflow stores: SQLite files, a server, and one that is not there."""

from __future__ import annotations

import json
import logging
import re
import socket
import subprocess
import sys
import time
import urllib.request
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

sys.path.insert(0, str(Path(__file__).parent / "sweep"))

from sweep_world import make_experiment, write_cell

from probe_lab import tracking
from probe_lab.config import Experiment
from probe_lab.errors import SweepError
from probe_lab.sweep import Cell, Outcome, cells, run_sweep
from probe_lab.sweep import run as run_module
from probe_lab.tracking import CellRun, log_report, track, tracking_uri

SEEDS = {"trainer.seed": [0, 1, 2]}


@pytest.fixture(scope="module")
def database(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """One SQLite file for all tests: making one takes seconds. Each test has an experiment of its own."""
    return tmp_path_factory.mktemp("mlflow") / "new folder" / "mlflow.db"


@pytest.fixture(autouse=True)
def _elsewhere(monkeypatch: pytest.MonkeyPatch, tmp_path_factory: pytest.TempPathFactory) -> None:
    """No server, and a working folder of its own: MLflow's default is to write into it."""
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    monkeypatch.chdir(tmp_path_factory.mktemp("work"))


@pytest.fixture
def experiment(tmp_path: Path, database: Path, request: pytest.FixtureRequest) -> Experiment:
    uri, name = f"sqlite:///{database}", re.sub(r"\W", "_", request.node.name)
    return make_experiment(tmp_path, SEEDS, name=name, tracking={"uri": uri})


@dataclass(frozen=True)
class NoTrainer:
    """Training is replaced in these tests."""

    def check(self, cells: Sequence[Cell]) -> None: ...

    def load(self, cell: Cell, workers: int) -> None: ...

    def train(self, cell: Cell, folder: Path, shared: object, go_on: object) -> None: ...


def finish(experiment: Experiment, *seeds: int) -> None:
    """Write the files of finished cells."""
    for cell in cells(experiment):
        folder = experiment.runs_folder / cell.name
        if cell.experiment.trainer.seed in seeds:
            folder.mkdir(parents=True)
            write_cell(cell, folder, cell.experiment.trainer.seed / 10)


def engine(monkeypatch: pytest.MonkeyPatch, behaviour: dict[int, BaseException | str]) -> None:
    """Replace the engine: a cell's seed says if it is written, fails (a string) or raises in the parent."""

    def train(found: Sequence[Cell], folder: Path, *, workers: int, trainer: object) -> Iterator[Outcome]:
        for cell in found:
            what = behaviour.get(cell.experiment.trainer.seed, "")
            if isinstance(what, BaseException):
                raise what
            if not what:
                (folder / cell.name).mkdir()
                write_cell(cell, folder / cell.name, 0.5)
            yield Outcome(cell.name, 0.1, what, what)

    monkeypatch.setattr(run_module, "train_cells", train)


def runs_of(experiment: Experiment) -> tuple[list[Any], list[Any]]:
    """(parents, children) of the experiment."""
    import mlflow

    client = mlflow.MlflowClient(tracking_uri(experiment))
    found = client.get_experiment_by_name(experiment.name)
    runs = list(client.search_runs([found.experiment_id])) if found else []
    parents = [run for run in runs if "mlflow.parentRunId" not in run.data.tags]
    return parents, [run for run in runs if run not in parents]


def test_a_sweep_is_a_parent_run_with_a_child_per_cell(experiment: Experiment, database: Path) -> None:
    import mlflow

    finish(experiment, 0, 1, 2)
    run_sweep(experiment)
    (parent,), children = runs_of(experiment)
    assert parent.info.status == "FINISHED"
    assert {run.data.tags["mlflow.parentRunId"] for run in children} == {parent.info.run_id}
    by_cell = {run.data.tags["cell"]: run for run in children}
    assert set(by_cell) == {cell.name for cell in cells(experiment)} == {run.info.run_name for run in children}
    (cell,) = (cell for cell in cells(experiment) if cell.experiment.trainer.seed == 2)
    run = by_cell[cell.name]
    assert run.info.status == "FINISHED"
    expected = {"model": "cnn", "step": "5", "loss": "listwise", "seed": "2", "trainer.seed": "2"}
    assert expected.items() <= run.data.tags.items()
    assert run.data.tags["taps"] == "up_blocks.1.attentions.0/attention"
    assert run.data.params["trainer.seed"] == "2"
    assert run.data.params["probe.taps"] == "['up_blocks.1.attentions.0/attention']"
    assert run.data.params["data.split.train"] == "0.8"
    metrics = run.data.metrics
    assert metrics["shapes_reward/srcc_within"] == pytest.approx(0.2)
    assert metrics["shapes_reward/srcc_within/lower"] == pytest.approx(0.1)
    assert metrics["shapes_binding/srcc/upper"] == pytest.approx(0.3)
    assert metrics["val/shapes_binding/srcc"] == pytest.approx(0.2)
    assert "shapes_reward/top1" not in metrics
    client = mlflow.MlflowClient(tracking_uri(experiment))
    history = client.get_metric_history(run.info.run_id, "val_srcc_within")
    assert [(point.step, point.value) for point in history] == [(0, 0.0), (1, 0.1), (2, 0.2)]
    files = {item.path for item in client.list_artifacts(run.info.run_id)}
    assert files == {"config.yaml", "metrics.json", "predictions.parquet"}
    assert str(database.parent) in run.info.artifact_uri.replace("%20", " ")
    assert not Path("mlruns").exists()


def test_labelled_evaluators_are_tracked_under_names_that_mlflow_allows(tmp_path: Path, database: Path) -> None:
    labelled = "clip_score@large"
    experiment = make_experiment(
        tmp_path,
        {"trainer.seed": [0]},
        name="labelled",
        tracking={"uri": f"sqlite:///{database}"},
        evaluators=[labelled],
        scoring={"models": {labelled: {"checkpoint": "weights.pt"}}},
    )
    finish(experiment, 0)
    run_sweep(experiment)
    _, (run,) = runs_of(experiment)
    assert "clip_score:large/srcc_within" in run.data.metrics
    assert run.data.params["scoring.models.clip_score:large.checkpoint"] == "weights.pt"


def test_a_rerun_adds_nothing_and_does_not_even_open_mlflow(
    experiment: Experiment, monkeypatch: pytest.MonkeyPatch
) -> None:
    finish(experiment, 0, 1)
    run_sweep(make_changed(experiment, [0, 1]))
    with monkeypatch.context() as patch:
        patch.setattr(tracking, "_client", lambda uri: pytest.fail("MLflow was opened"))
        run_sweep(make_changed(experiment, [0, 1]))
    # A new cell goes under the same parent.
    finish(experiment, 2)
    run_sweep(experiment)
    (parent,), children = runs_of(experiment)
    assert len(children) == 3
    assert {run.data.tags["mlflow.parentRunId"] for run in children} == {parent.info.run_id}
    # Without the marker MLflow is asked, and answers the same.
    (experiment.runs_folder / "tracking.json").unlink()
    run_sweep(experiment)
    assert len(runs_of(experiment)[1]) == 3


def test_a_deleted_database_is_filled_again(tmp_path: Path) -> None:
    path = tmp_path / "mlflow.db"
    experiment = make_experiment(tmp_path, SEEDS, tracking={"uri": f"sqlite:///{path}"})
    finish(experiment, 0)
    run_sweep(make_changed(experiment, [0]))
    path.rename(tmp_path / "moved.db")
    run_sweep(make_changed(experiment, [0]))
    assert len(runs_of(experiment)[1]) == 1


def test_a_failed_cell_and_its_later_success(experiment: Experiment, monkeypatch: pytest.MonkeyPatch) -> None:
    engine(monkeypatch, {1: "ValueError: bad"})
    run_sweep(experiment, trainer=NoTrainer())
    (parent,), children = runs_of(experiment)
    assert parent.info.status == "FINISHED"
    assert sorted(run.info.status for run in children) == ["FAILED", "FINISHED", "FINISHED"]
    (failed,) = (run for run in children if run.info.status == "FAILED")
    assert failed.data.tags["error"] == "ValueError: bad"
    assert failed.data.tags["seed"] == "1"
    engine(monkeypatch, {})
    run_sweep(experiment, trainer=NoTrainer())
    (parent,), children = runs_of(experiment)
    assert [run.info.status for run in children] == ["FINISHED"] * 3
    assert not any("error" in run.data.tags for run in children)
    assert parent.data.tags["cells.finished"] == "3"
    assert parent.data.tags["cells.failed"] == "0"


@pytest.mark.parametrize(
    ("error", "status"),
    [(KeyboardInterrupt(), "KILLED"), (RuntimeError("a bug"), "FAILED"), (SystemExit(1), "KILLED")],
    ids=["interrupt", "error", "exit"],
)
def test_no_run_stays_running(
    experiment: Experiment, monkeypatch: pytest.MonkeyPatch, error: BaseException, status: str
) -> None:
    engine(monkeypatch, {1: error})
    with pytest.raises(type(error)):
        run_sweep(experiment, trainer=NoTrainer())
    (parent,), children = runs_of(experiment)
    assert parent.info.status == status
    assert [run.info.status for run in children] == ["FINISHED"]
    # Continued, it is the same parent and it ends well.
    engine(monkeypatch, {})
    run_sweep(experiment, trainer=NoTrainer())
    (again,), children = runs_of(experiment)
    assert (again.info.run_id, again.info.status) == (parent.info.run_id, "FINISHED")
    assert len(children) == 3


def test_a_sweep_of_failures_is_a_failed_run(experiment: Experiment, monkeypatch: pytest.MonkeyPatch) -> None:
    engine(monkeypatch, {0: "bad", 1: "bad", 2: "bad"})
    with pytest.raises(SweepError):
        run_sweep(experiment, trainer=NoTrainer())
    (parent,), _ = runs_of(experiment)
    assert parent.info.status == "FAILED"


def test_an_interrupt_while_a_cell_is_logged_ends_its_run_and_it_is_logged_later(
    experiment: Experiment, monkeypatch: pytest.MonkeyPatch
) -> None:
    finish(experiment, 0, 1, 2)

    def interrupt(*_: object) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(tracking, "_log_values", interrupt)
        with pytest.raises(KeyboardInterrupt):
            run_sweep(experiment)
    (parent,), children = runs_of(experiment)
    assert {parent.info.status, *(run.info.status for run in children)} == {"KILLED"}
    run_sweep(experiment)
    (parent,), children = runs_of(experiment)
    assert [run.info.status for run in (parent, *children)] == ["FINISHED"] * 4
    assert all("shapes_reward/srcc" in run.data.metrics for run in children)


def test_runs_that_a_killed_sweep_left_running_are_ended(experiment: Experiment) -> None:
    import mlflow

    finish(experiment, 0)
    client = mlflow.MlflowClient(tracking_uri(experiment))
    number = client.create_experiment(experiment.name)
    client.create_run(number, tags={"cell": "gone", "mlflow.parentRunId": "x"})
    (cell, *_) = cells(experiment)
    client.create_run(number, tags={"cell": cell.name, "mlflow.parentRunId": "x"})
    run_sweep(make_changed(experiment, [0]))
    _, children = runs_of(experiment)
    assert {run.data.tags["cell"]: run.info.status for run in children} == {
        "gone": "KILLED",
        cell.name: "FINISHED",
    }


def test_a_server_that_is_down_is_one_warning(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    experiment = make_experiment(tmp_path, SEEDS, tracking={"uri": "sqlite:///unused.db"})
    finish(experiment, 0)
    engine(monkeypatch, {1: "bad"})
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "http://127.0.0.1:9")
    started = time.monotonic()
    with caplog.at_level(logging.WARNING):
        summary = run_sweep(experiment, trainer=NoTrainer())
    assert time.monotonic() - started < 60
    assert (len(summary.done), len(summary.skipped), len(summary.failed)) == (1, 1, 1)
    warnings = [record for record in caplog.records if record.name.startswith("probe_lab")]
    assert len(warnings) == 1
    assert "tracking is off" in warnings[0].getMessage()
    assert not (tmp_path / "unused.db").exists()


def test_a_store_that_breaks_in_the_middle_is_one_warning(
    experiment: Experiment, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    finish(experiment, 0)

    def broken(*_: object) -> None:
        raise OSError("the disk of the server is full")

    monkeypatch.setattr(tracking, "_log_values", broken)
    with (
        caplog.at_level(logging.WARNING),
        track(experiment, experiment.runs_folder, _runs(experiment)) as tracker,
    ):
        assert not tracker.active
        tracker.log_failure(CellRun("other", {}), "bad")
    assert sum("disk of the server" in record.getMessage() for record in caplog.records) == 1
    (parent,), (child,) = runs_of(experiment)
    assert parent.info.status == child.info.status == "FAILED"


def test_an_empty_address_switches_tracking_off(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tracking, "_client", lambda uri: pytest.fail("MLflow was opened"))
    experiment = make_experiment(tmp_path, SEEDS)
    finish(experiment, 0, 1, 2)
    run_sweep(experiment)
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "")
    run_sweep(make_experiment(tmp_path, SEEDS, tracking={"uri": f"sqlite:///{tmp_path}/mlflow.db"}))
    assert not list(tmp_path.glob("*.db"))


def test_a_new_database_and_its_use_are_silent(tmp_path: Path) -> None:
    experiment = make_experiment(tmp_path, SEEDS, tracking={"uri": f"sqlite:///{tmp_path}/mlflow.db"})
    finish(experiment, 0, 1, 2)
    program = (
        f"import sys; sys.path.insert(0, {str(Path(__file__).parent / 'sweep')!r})\n"
        "from pathlib import Path\n"
        "from sweep_world import make_experiment\n"
        "from probe_lab.sweep import run_sweep\n"
        f"uri = {experiment.tracking.uri!r}\n"
        f"run_sweep(make_experiment(Path({str(tmp_path)!r}), {SEEDS!r}, tracking={{'uri': uri}}))\n"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert (done.stdout, done.stderr) == ("", "")
    assert len(runs_of(experiment)[1]) == 3


def test_a_report_is_attached_to_the_sweep(experiment: Experiment, tmp_path: Path) -> None:
    import mlflow

    finish(experiment, 0)
    run_sweep(make_changed(experiment, [0]))
    (tmp_path / "report").mkdir()
    (tmp_path / "report" / "index.html").write_text("<html>")
    log_report(experiment, tmp_path / "report")
    (parent,), _ = runs_of(experiment)
    client = mlflow.MlflowClient(tracking_uri(experiment))
    assert [item.path for item in client.list_artifacts(parent.info.run_id, "report")] == ["report/index.html"]


def test_a_real_server(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    address = f"http://127.0.0.1:{port}"
    command = [
        sys.executable, "-m", "mlflow", "server", "--host", "127.0.0.1", "--port", str(port),
        "--workers", "1",
        "--backend-store-uri", f"sqlite:///{tmp_path}/server.db",
        "--artifacts-destination", str(tmp_path / "artifacts"),
    ]  # fmt: skip
    log = (tmp_path / "server.log").open("w")
    server = subprocess.Popen(command, stdout=log, stderr=log, start_new_session=True, cwd=tmp_path)
    try:
        _wait_for(f"{address}/health", tmp_path / "server.log")
        monkeypatch.setenv("MLFLOW_TRACKING_URI", address)
        experiment = make_experiment(tmp_path, SEEDS, tracking={"uri": "sqlite:///unused.db"})
        finish(experiment, 0, 1, 2)
        run_sweep(experiment)
        run_sweep(experiment)
        (parent,), children = runs_of(experiment)
        assert [run.info.status for run in (parent, *children)] == ["FINISHED"] * 4
        assert children[0].data.metrics["shapes_reward/srcc/lower"] is not None
        assert len(list((tmp_path / "artifacts").rglob("predictions.parquet"))) == 3
        assert json.loads((experiment.runs_folder / "tracking.json").read_text())["uri"] == address
    finally:
        server.terminate()
        server.wait(30)
        log.close()


def make_changed(experiment: Experiment, seeds: list[int]) -> Experiment:
    """The same experiment with other seeds in its sweep."""
    root = Path(experiment.runs).parent
    grid = {"trainer.seed": seeds}
    return make_experiment(root, grid, name=experiment.name, tracking={"uri": experiment.tracking.uri})


def _runs(experiment: Experiment) -> list[CellRun]:
    return [CellRun(cell.name, {}) for cell in cells(experiment)]


def _wait_for(address: str, log: Path) -> None:
    end = time.monotonic() + 120
    while True:
        try:
            urllib.request.urlopen(address, timeout=2)
            return
        except OSError:
            assert time.monotonic() < end, log.read_text()
            time.sleep(0.2)
