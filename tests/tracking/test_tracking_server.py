"""A real MLflow server, and what happens when it, or what stands before it, breaks."""

from __future__ import annotations

import logging
import threading
import time
from pathlib import Path

import pytest
from gateway import Gateway, Mode, free_port
from tracking_world import FINISHED, experiment_in, finish, play, run_of, runs_of, statuses

from probe_lab.config import Experiment
from probe_lab.sweep import cells
from probe_lab.tracking import background, log_report, store, track
from probe_lab.tracking.backlog import Backlog, alone_in


@pytest.fixture
def experiment(tmp_path: Path, gateway: Gateway, request: pytest.FixtureRequest) -> Experiment:
    """Tracked by the server behind the gateway."""
    return experiment_in(tmp_path, gateway.address, request.node.name)


def queued(experiment: Experiment) -> list[tuple[str, str]]:
    """(kind, seed or name) of what waits."""
    seeds = {cell.name: str(cell.experiment.trainer.seed) for cell in cells(experiment)}
    waiting = Backlog(experiment.runs_folder).waiting()
    return sorted((entry.kind, seeds.get(entry.name, entry.name)) for entry in waiting)


WAITING = [("cell", "0"), ("cell", "1"), ("cell", "2"), ("end", "FINISHED")]


def test_a_real_server(
    experiment: Experiment, server: tuple[str, Path], gateway: Gateway, monkeypatch: pytest.MonkeyPatch
) -> None:
    address, artifacts = server
    here = experiment_in(Path(experiment.runs).parent, "sqlite:///unused.db", experiment.name)
    monkeypatch.setenv("MLFLOW_TRACKING_URI", gateway.address)
    play(here)
    requests = gateway.requests
    play(here)
    assert gateway.requests == requests
    assert requests < 45  # a health check, the beginning and the end, 6 per cell with 3 files
    assert statuses(here, address) == (["FINISHED"], FINISHED)
    _, children = runs_of(here, address)
    assert children[0].data.metrics["shapes_reward/srcc_lower"] is not None
    number = children[0].info.experiment_id
    assert len(list((artifacts / number).rglob("predictions.parquet"))) == 3
    assert not Path("unused.db").exists()


def test_a_server_that_answers_500_costs_seconds_and_everything_is_replayed_once(
    experiment: Experiment, gateway: Gateway, caplog: pytest.LogCaptureFixture
) -> None:
    gateway.mode = "fail"
    started = time.monotonic()
    with caplog.at_level(logging.WARNING):
        play(experiment, {1: "ValueError: bad"})
    assert time.monotonic() - started < 20
    waiting = [("cell", "0"), ("cell", "2"), ("end", "FINISHED"), ("failure", "1")]
    assert queued(experiment) == waiting
    said = [record.getMessage() for record in caplog.records if record.name.startswith("probe_lab")]
    assert "3 cells wait in" in said[-1]
    assert str(experiment.runs_folder / ".tracking" / "queue") in said[-1]
    assert "it answers 500" in said[-1]
    assert len(said) <= 2
    # Still down: nothing waits twice. Up again: a report is enough.
    play(experiment, {1: "ValueError: bad"})
    assert queued(experiment) == waiting
    gateway.mode = "pass"
    report = experiment.runs_folder / "report"
    report.mkdir()
    (report / "index.html").write_text("<html>")
    log_report(experiment, report)
    assert queued(experiment) == []
    assert statuses(experiment) == (["FINISHED"], FINISHED | {"1": "FAILED"})
    # Nothing is added but what is new.
    play(experiment)
    assert statuses(experiment) == (["FINISHED"], FINISHED)


def test_a_server_that_is_not_there_is_left_alone_without_mlflow(
    experiment: Experiment, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("MLFLOW_TRACKING_URI", f"http://127.0.0.1:{free_port()}")
    monkeypatch.setattr(store, "_client", lambda uri: pytest.fail("MLflow was opened"))
    finish(experiment, 0)
    started = time.monotonic()
    play(experiment)
    report = experiment.runs_folder / "report"
    report.mkdir()
    log_report(experiment, report)
    assert time.monotonic() - started < 20
    assert queued(experiment) == [*WAITING, ("report", str(report.resolve()))]


def test_a_server_that_comes_back_gets_the_rest_in_the_same_run(experiment: Experiment, gateway: Gateway) -> None:
    plan, folder = cells(experiment), experiment.runs_folder
    gateway.mode = "fail"
    with track(experiment, folder, [run_of(cell) for cell in plan]) as tracker:
        finish(experiment, 0, 1, 2)
        for cell in plan[:2]:
            tracker.log_cell(run_of(cell))
        _until(lambda: len(queued(experiment)) == 2)
        gateway.mode = "pass"
        _until(lambda: queued(experiment) == [])
        tracker.log_cell(run_of(plan[2]))
    assert statuses(experiment) == (["FINISHED"], FINISHED)


@pytest.mark.parametrize("only", ["runs/create", "log-batch", "artifacts", "runs/update"])
@pytest.mark.parametrize("mode", ["fail", "forget"])
def test_a_server_that_breaks_in_the_middle_leaves_no_run_twice_and_none_running(
    experiment: Experiment, gateway: Gateway, monkeypatch: pytest.MonkeyPatch, only: str, mode: Mode
) -> None:
    monkeypatch.setattr(background, "FIRST_PAUSE", 60.0)
    gateway.mode, gateway.only, gateway.after = mode, only, 2
    finish(experiment, 0, 1, 2)
    play(experiment)
    gateway.mode = "pass"
    if only != "artifacts":  # a server that takes no files is tracked without
        assert queued(experiment) != []
    play(experiment)
    assert queued(experiment) == []
    assert statuses(experiment) == (["FINISHED"], FINISHED)
    for run in runs_of(experiment)[1]:
        assert run.data.metrics["shapes_reward/srcc"] == pytest.approx(int(run.data.tags["seed"]) / 10)


def test_a_server_that_hangs_does_not_hold_up_the_end(
    experiment: Experiment, gateway: Gateway, monkeypatch: pytest.MonkeyPatch
) -> None:
    gateway.mode, gateway.only, gateway.after = "hang", "log-batch", 1
    finish(experiment, 0, 1, 2)
    with monkeypatch.context() as patch:
        patch.setattr(background, "STALLED", 1.0)
        play(experiment)
    _until(lambda: queued(experiment) == WAITING)  # the thread may be putting into one file what it found in another
    gateway.mode = "pass"
    _until(lambda: not any(thread.name == "tracking" for thread in threading.enumerate()))
    play(experiment)
    assert statuses(experiment) == (["FINISHED"], FINISHED)


def test_a_report_during_a_sweep_waits_for_it(experiment: Experiment) -> None:
    folder = experiment.runs_folder
    play(experiment)
    (folder / "report").mkdir()
    with alone_in(folder) as mine:
        assert mine
        log_report(experiment, folder / "report")
    assert queued(experiment) == [("report", str((folder / "report").resolve()))]


def _until(holds: object, seconds: float = 240) -> None:
    assert callable(holds)
    end = time.monotonic() + seconds
    while not holds():
        assert time.monotonic() < end
        time.sleep(0.05)
