"""A real MLflow server, and what happens when it, or what stands before it, breaks."""

from __future__ import annotations

import logging
import threading
import time
from contextlib import suppress
from dataclasses import replace
from pathlib import Path
from urllib.parse import unquote

import pytest
from gateway import Gateway, Mode, free_port
from tracking_world import FINISHED, experiment_in, finish, play, runs_of, statuses, write_report

from probe_lab import verbs
from probe_lab.config import Experiment
from probe_lab.errors import ReportError, TrackingError
from probe_lab.sweep import cells
from probe_lab.tracking import (
    background,
    log_report,
    store,
    sync_runs,
    track,
    tracking_folder,
    tracking_uri,
)
from probe_lab.tracking.store import REPORT
from probe_lab.tracking.sync import Sync
from probe_lab.tracking.tracking_folder import alone_in


@pytest.fixture
def experiment(tmp_path: Path, gateway: Gateway, request: pytest.FixtureRequest) -> Experiment:
    """Tracked by the server behind the gateway."""
    return experiment_in(tmp_path, gateway.address, request.node.name)


def waiting(experiment: Experiment) -> int:
    """How many cells the server lacks, as the next command sees it without asking."""
    return Sync(experiment, tracking_uri(experiment), lambda: cells(experiment)).waiting()


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
    assert requests < 45  # a health check, the beginning and the end, 9 per cell with 3 files
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
    assert waiting(experiment) == 3
    said = [record.getMessage() for record in caplog.records if record.name.startswith("probe_lab")]
    assert f"3 cells wait in {experiment.runs_folder}" in said[-1]
    assert f"`probe-lab track {experiment.name}`" in said[-1]
    assert "it answers 500" in said[-1]
    assert len(said) <= 2
    # Still down: nothing waits twice. Up again: a report is enough.
    play(experiment, {1: "ValueError: bad"})
    assert waiting(experiment) == 3
    gateway.mode = "pass"
    write_report(experiment)
    log_report(experiment, lambda: cells(experiment))
    assert waiting(experiment) == 1  # of the failed cell there are no files to ask
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
    write_report(experiment)
    log_report(experiment, lambda: cells(experiment))
    assert time.monotonic() - started < 20
    assert waiting(experiment) == 3


def test_a_server_that_comes_back_gets_the_rest_in_the_same_run(experiment: Experiment, gateway: Gateway) -> None:
    plan = cells(experiment)
    gateway.mode = "fail"
    with track(experiment, plan, [cell.name for cell in plan]) as tracker:
        tracker.start()
        finish(experiment, 0, 1)
        tracker.cell_finished()
        _until(lambda: gateway.requests > 1)  # asked, and asked again
        gateway.mode = "pass"
        _until(lambda: statuses(experiment) == (["RUNNING"], {"0": "FINISHED", "1": "FINISHED"}))
        finish(experiment, 2)
        tracker.cell_finished()
    assert statuses(experiment) == (["FINISHED"], FINISHED)
    assert waiting(experiment) == 0


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
        assert waiting(experiment) > 0 or statuses(experiment)[0] == ["RUNNING"]
    play(experiment)
    assert waiting(experiment) == 0
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
    assert waiting(experiment) == 3
    gateway.mode = "pass"
    _until(lambda: not any(thread.name == "tracking" for thread in threading.enumerate()))
    play(experiment)
    assert statuses(experiment) == (["FINISHED"], FINISHED)


def test_track_sends_what_a_server_lost_and_nothing_twice(experiment: Experiment, gateway: Gateway) -> None:
    from mlflow import MlflowClient

    tracker = play(experiment)
    (parent,), children = runs_of(experiment)
    client = MlflowClient(gateway.address)
    client.delete_run(children[0].info.run_id)
    client.update_run(children[1].info.run_id, name="mine")
    tracked = verbs.track(experiment)
    assert (tracked.sent, tracked.finished) == (1, 3)
    assert tracked.text == f"1 cells sent, MLflow has all 3 finished ones\nin MLflow: {tracker.place}"
    (again,), after = runs_of(experiment)
    assert statuses(experiment) == (["FINISHED"], FINISHED)
    assert {run.info.run_name for run in after} == {"seed 0", "seed 1", "seed 2"}
    assert again.info.run_id == parent.info.run_id
    assert {run.info.run_id for run in after} > {run.info.run_id for run in children[1:]}
    requests = gateway.requests
    assert verbs.track(experiment).sent == 0
    assert gateway.requests - requests <= 4  # a health check, the experiment, and its runs once
    assert {run.info.run_id for run in runs_of(experiment)[1]} == {run.info.run_id for run in after}
    # All of it is gone: the same command brings it back.
    for run in (again, *after):
        client.delete_run(run.info.run_id)
    assert verbs.track(experiment).sent == 3
    assert statuses(experiment) == (["FINISHED"], FINISHED)


def test_the_place_of_a_sweep_is_a_filter_for_its_runs(experiment: Experiment, gateway: Gateway) -> None:
    from mlflow import MlflowClient

    place = play(experiment).place
    (parent,), children = runs_of(experiment)
    head, _, condition = place.partition("?searchFilter=")
    assert head == f"{gateway.address}/#/experiments/{parent.info.experiment_id}/runs"
    found = MlflowClient(gateway.address).search_runs([parent.info.experiment_id], unquote(condition))
    assert {run.info.run_id for run in found} == {run.info.run_id for run in children}
    assert play(experiment).place == place  # nothing is sent, and nobody asked


def test_track_says_in_a_sentence_why_it_cannot(experiment: Experiment, gateway: Gateway) -> None:
    with pytest.raises(ReportError, match=r"no cell in .* is finished"):
        verbs.track(experiment)
    finish(experiment, 0, 1)
    gateway.mode = "fail"
    with pytest.raises(TrackingError, match=rf"^2 cells of .* are not in MLflow, {gateway.address}: it answers 500"):
        verbs.track(experiment)
    gateway.mode = "pass"
    with alone_in(experiment.runs_folder), pytest.raises(TrackingError, match="another command is logging"):
        verbs.track(experiment)
    with pytest.raises(TrackingError, match="tracking is switched off"):
        verbs.track(replace(experiment, tracking=replace(experiment.tracking, uri="")))
    assert verbs.track(experiment).sent == 2
    assert statuses(experiment) == (["FINISHED"], {"0": "FINISHED", "1": "FINISHED"})


def test_two_commands_at_once_where_a_file_system_has_no_locks(
    experiment: Experiment, monkeypatch: pytest.MonkeyPatch
) -> None:
    def no_locks(*arguments: object) -> None:
        raise OSError("not supported")

    monkeypatch.setattr(tracking_folder.fcntl, "flock", no_locks)
    finish(experiment, 0, 1, 2)
    threads = [threading.Thread(target=verbs_track_quietly, args=(experiment,)) for _ in range(2)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    verbs.track(experiment)
    parents, children = runs_of(experiment)
    seeds = [run.data.tags["seed"] for run in children if run.info.status == "FINISHED"]
    assert sorted(seeds) == ["0", "1", "2"]
    assert "RUNNING" not in {run.info.status for run in (*parents, *children)}


def verbs_track_quietly(experiment: Experiment) -> None:
    """Beside another one, which may take away what this one is about to end."""
    with suppress(TrackingError):
        sync_runs(experiment, lambda: cells(experiment))


def test_ctrl_c_leaves_no_run_half_logged(experiment: Experiment, monkeypatch: pytest.MonkeyPatch) -> None:
    finish(experiment, 0, 1, 2)

    def interrupted(thread: background.Background, until: float) -> None:
        thread._moved = time.monotonic()
        _until(lambda: thread._beats > 0)
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(background.Background, "_wait", interrupted)
        patch.setattr(background, "_GRACE", 60.0)
        with pytest.raises(KeyboardInterrupt):
            verbs.track(experiment)
    _, children = runs_of(experiment)
    assert 1 <= len(children) <= 3
    assert {run.info.status for run in children} == {"FINISHED"}
    assert verbs.track(experiment).sent == 3 - len(children)
    assert statuses(experiment) == (["FINISHED"], FINISHED)


def test_a_report_during_a_sweep_waits_for_it(experiment: Experiment, caplog: pytest.LogCaptureFixture) -> None:
    play(experiment)
    write_report(experiment)
    with alone_in(experiment.runs_folder) as mine:
        assert mine
        log_report(experiment, lambda: cells(experiment))
    assert "another command is logging" in caplog.text
    (parent,), _ = runs_of(experiment)
    assert REPORT not in parent.data.tags
    (cell, *_) = cells(experiment)
    with track(experiment, cells(experiment), [cell.name]):
        pass  # the sweep's end takes it along
    (parent,), _ = runs_of(experiment)
    assert REPORT in parent.data.tags
    assert statuses(experiment) == (["FINISHED"], FINISHED)


def _until(holds: object, seconds: float = 240) -> None:
    assert callable(holds)
    end = time.monotonic() + seconds
    while not holds():
        assert time.monotonic() < end
        time.sleep(0.05)
