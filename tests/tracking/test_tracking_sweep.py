"""Sweeps in an SQLite file: what a run shows, reruns, failures, interrupts and reports."""

from __future__ import annotations

import dataclasses
import json
import logging
import math
import shutil
from pathlib import Path

import interpreters
import pytest
from sweep_world import make_experiment, write_cell
from tracking_world import FINISHED, SEEDS, experiment_in, finish, play, runs_of, statuses, write_report

from probe_lab.config import Experiment
from probe_lab.runs import FinishedCell
from probe_lab.sweep import cells, run_sweep
from probe_lab.tracking import log_report, store, track, tracking_uri
from probe_lab.tracking.sent_record import Receipt
from probe_lab.tracking.store import OWNER
from probe_lab.tracking.tracking_folder import owner_of
from probe_lab.tracking.values import read_values


def test_a_sweep_is_a_parent_run_with_a_child_per_cell(experiment: Experiment, database: Path) -> None:
    import mlflow

    finish(experiment, 0, 1, 2)
    run_sweep(experiment)
    (parent,), children = runs_of(experiment)
    assert parent.info.status == "FINISHED"
    assert parent.data.tags["cells.finished"] == "3"
    assert {run.data.tags["mlflow.parentRunId"] for run in children} == {parent.info.run_id}
    by_cell = {run.data.tags["cell"]: run for run in children}
    assert set(by_cell) == {cell.name for cell in cells(experiment)}
    assert {run.info.run_name for run in children} == {"seed 0", "seed 1", "seed 2"}
    (cell,) = (cell for cell in cells(experiment) if cell.experiment.trainer.seed == 2)
    run = by_cell[cell.name]
    assert run.info.status == "FINISHED"
    assert (run.info.end_time - run.info.start_time) == 500
    expected = {"model": "cnn", "step": "5", "loss": "listwise", "seed": "2", "trainer.seed": "2"}
    assert expected.items() <= run.data.tags.items()
    assert {"backbone": "tiny-sd", "cache": experiment.name}.items() <= run.data.tags.items()
    assert "stopped" not in run.data.tags
    assert run.data.tags["taps"] == "up_blocks.1.attentions.0/attention"
    assert run.data.params["trainer.seed"] == "2"
    assert run.data.params["probe.taps"] == "['up_blocks.1.attentions.0/attention']"
    assert run.data.params["data.split.train"] == "0.8"
    metrics = run.data.metrics
    assert metrics["shapes_reward/srcc_within"] == pytest.approx(0.2)
    assert metrics["shapes_reward/srcc_within_lower"] == pytest.approx(0.1)
    assert metrics["shapes_binding/srcc_upper"] == pytest.approx(0.3)
    assert metrics["val/shapes_binding/srcc"] == pytest.approx(0.2)
    assert "shapes_reward/top1" not in metrics
    assert not any(name.startswith("system/") for name in parent.data.metrics)
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
    play(experiment)
    _, (run,) = runs_of(experiment)
    assert "clip_score:large/srcc_within" in run.data.metrics
    assert run.data.params["scoring.models.clip_score:large.checkpoint"] == "weights.pt"


def test_a_long_history_is_logged_whole_and_a_stopped_cell_says_so(experiment: Experiment) -> None:
    import mlflow

    finish(experiment, 0, 1, 2)
    (cell, *_) = cells(experiment)
    path = experiment.runs_folder / cell.name / "metrics.json"
    content = json.loads(path.read_text())
    content["history"] = [{"epoch": e, "train_loss": 1 / (e + 1), "val_srcc_within": e / 900} for e in range(900)]
    content["stopped"] = {"epoch": 900, "rung": 3}
    path.write_text(json.dumps(content))
    play(experiment)
    run = {run.data.tags["cell"]: run for run in runs_of(experiment)[1]}[cell.name]
    assert run.info.status == "FINISHED"
    assert json.loads(run.data.tags["stopped"]) == content["stopped"]
    client = mlflow.MlflowClient(tracking_uri(experiment))
    points = client.get_metric_history(run.info.run_id, "train_loss")
    assert [point.step for point in points] == list(range(900))


def test_a_rerun_adds_nothing_and_does_not_even_open_mlflow(
    experiment: Experiment, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    two = experiment_in(tmp_path, experiment.tracking.uri, experiment.name, {"trainer.seed": [0, 1]})
    play(two)
    with monkeypatch.context() as patch:
        patch.setattr(store, "_client", lambda uri: pytest.fail("MLflow was opened"))
        play(two)
    # A new cell goes under the same parent.
    play(experiment)
    (parent,), children = runs_of(experiment)
    assert len(children) == 3
    assert {run.data.tags["mlflow.parentRunId"] for run in children} == {parent.info.run_id}
    # Without the receipt MLflow is asked, and answers the same.
    (experiment.runs_folder / ".tracking" / "sent.json").unlink()
    play(experiment)
    (again,), more = runs_of(experiment)
    assert again.info.run_id == parent.info.run_id
    assert {run.info.run_id for run in more} == {run.info.run_id for run in children}


def test_two_runs_folders_leave_each_other_alone_in_one_store(experiment: Experiment, tmp_path: Path) -> None:
    import mlflow

    other = experiment_in(tmp_path / "other", experiment.tracking.uri, experiment.name)
    play(experiment)
    (parent,), children = runs_of(experiment)
    client = mlflow.MlflowClient(tracking_uri(experiment))
    client.update_run(parent.info.run_id, "RUNNING")  # while the first sweep goes on
    client.update_run(children[0].info.run_id, "RUNNING")
    finish(other, 0, 1, 2)
    for path in other.runs_folder.glob("*/metrics.json"):  # the same cells, which took another time
        path.write_text(json.dumps(json.loads(path.read_text()) | {"seconds": 9.75}))
    play(other)
    parents, everything = runs_of(experiment)
    assert len(parents) == 2
    assert len(everything) == 6
    theirs = {run.info.run_id: run.info.status for run in (*parents, *everything)}
    assert theirs[parent.info.run_id] == "RUNNING"
    assert [theirs[run.info.run_id] for run in children] == ["RUNNING", "FINISHED", "FINISHED"]
    # Without its receipt each folder still finds its own, and ends what it left running.
    for one in (experiment, other):
        (one.runs_folder / ".tracking" / "sent.json").unlink()
        play(one)
    parents, again = runs_of(experiment)
    assert {run.info.status for run in (*parents, *again)} == {"FINISHED"}
    assert len(parents) == 2
    for one in parents:
        assert sum(run.data.tags["mlflow.parentRunId"] == one.info.run_id for run in again) == 3


def test_runs_without_an_owner_are_left_alone_unless_the_receipt_names_them(experiment: Experiment) -> None:
    import mlflow

    play(experiment)
    parents, children = runs_of(experiment)
    client = mlflow.MlflowClient(tracking_uri(experiment))
    for run in (*parents, *children):
        client.delete_tag(run.info.run_id, OWNER)
    path = experiment.runs_folder / cells(experiment)[1].name / "metrics.json"
    path.write_text(path.read_text().replace('"estimate": 0.1', '"estimate": 0.7'))
    play(experiment)
    assert statuses(experiment) == (["FINISHED"], FINISHED)
    (again,), children = runs_of(experiment)
    assert again.info.run_id == parents[0].info.run_id
    assert all(OWNER in run.data.tags for run in children)
    # Without the receipt nobody names them.
    for run in (again, *children):
        client.delete_tag(run.info.run_id, OWNER)
    (experiment.runs_folder / ".tracking" / "sent.json").unlink()
    play(experiment)
    parents, everything = runs_of(experiment)
    before, after = ({run.info.run_id for run in runs} for runs in (children, everything))
    assert len(parents) == 2
    assert before < after
    assert len(after) == 6


def test_the_parent_shows_the_cells_and_the_best_on_validation(experiment: Experiment) -> None:
    import mlflow

    play(experiment, {0: "ValueError: bad"})
    (parent,), _ = runs_of(experiment)
    _, other, best = sorted(cells(experiment), key=lambda cell: cell.experiment.trainer.seed)
    assert parent.data.tags["best_cell"] == best.name
    assert parent.data.metrics["val/shapes_reward/srcc_within"] == pytest.approx(0.2)
    assert parent.data.metrics["shapes_reward/srcc_within_upper"] == pytest.approx(0.3)
    note = parent.data.tags["mlflow.note.content"].splitlines()
    assert note[0].startswith(f"2 cells of {experiment.name} are finished, 1 failed.")
    assert [line.split(" | ")[0] for line in note[4:]] == ["| seed 2", "| seed 1"]
    assert note[4] == "| seed 2 | 0.200 [0.100, 0.300] | 0.200 [0.100, 0.300] |"
    # Best on the test prompts alone does not count, and what the best one lacks is no number.
    path = experiment.runs_folder / best.name / "metrics.json"
    content = json.loads(path.read_text())
    for entry in content["metrics"]:
        entry["estimate"] = {"val": 0.05, "test": 0.9}[entry["split"]]
    del content["seconds"]
    path.write_text(json.dumps(content))
    play(experiment, {0: "ValueError: bad"})
    (parent,), _ = runs_of(experiment)
    assert parent.data.tags["best_cell"] == other.name
    assert parent.data.metrics["shapes_reward/srcc_within"] == pytest.approx(0.1)
    path = experiment.runs_folder / other.name / "metrics.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), "seconds": None}))
    play(experiment)
    (parent,), _ = runs_of(experiment)
    assert math.isnan(parent.data.metrics["seconds"])
    points = mlflow.MlflowClient(tracking_uri(experiment)).get_metric_history(parent.info.run_id, "seconds")
    assert len(points) == 2


def test_runs_get_longer_names_as_a_sweep_grows_and_are_not_looked_up(
    experiment: Experiment, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def looked_up(*arguments: object) -> None:
        raise RuntimeError("MLflow takes 20 ms for each run that it is asked for")

    play(experiment)
    _, before = runs_of(experiment)
    seeds = {"trainer.seed": [0, 1, 2]}
    grown = experiment_in(tmp_path, experiment.tracking.uri, experiment.name, {**seeds, "probe.step": [1, 5]})
    (cell, *_) = (cell for cell in cells(grown) if cell.experiment.probe.step == 1)
    (grown.runs_folder / cell.name).mkdir()
    write_cell(cell, grown.runs_folder / cell.name, 0.5)
    monkeypatch.setattr(store.Store, "_owned", looked_up)
    with track(grown, cells(grown)):
        pass
    _, after = runs_of(experiment)
    assert {run.info.run_id for run in before} < {run.info.run_id for run in after}
    names = {"step 1 · seed 0", "step 5 · seed 0", "step 5 · seed 1", "step 5 · seed 2"}
    assert {run.info.run_name for run in after} == names


def test_a_cell_that_was_trained_again_replaces_its_run(experiment: Experiment) -> None:
    play(experiment)
    cell = cells(experiment)[1]
    path = experiment.runs_folder / cell.name / "metrics.json"
    path.write_text(path.read_text().replace('"estimate": 0.1', '"estimate": 0.7'))
    play(experiment)
    assert statuses(experiment) == (["FINISHED"], FINISHED)
    run = {run.data.tags["cell"]: run for run in runs_of(experiment)[1]}[cell.name]
    assert run.data.metrics["shapes_reward/srcc"] == pytest.approx(0.7)


def test_a_deleted_database_is_filled_again(tmp_path: Path) -> None:
    path = tmp_path / "mlflow.db"
    experiment = experiment_in(tmp_path, f"sqlite:///{path}")
    play(experiment)
    path.rename(tmp_path / "moved.db")
    play(experiment)
    assert statuses(experiment) == (["FINISHED"], FINISHED)


def test_another_store_gets_everything(experiment: Experiment, tmp_path: Path) -> None:
    play(experiment)
    other = experiment_in(tmp_path, f"sqlite:///{tmp_path}/other.db", experiment.name)
    play(other)
    assert statuses(other) == statuses(experiment) == (["FINISHED"], FINISHED)


def test_a_failed_cell_and_its_later_success(experiment: Experiment) -> None:
    play(experiment, {1: "ValueError: bad"})
    (parent,), children = runs_of(experiment)
    assert parent.info.status == "FINISHED"
    assert sorted(run.info.status for run in children) == ["FAILED", "FINISHED", "FINISHED"]
    (failed,) = (run for run in children if run.info.status == "FAILED")
    expected = {"error": "ValueError: bad", "seed": "1", "backbone": "tiny-sd", "cache": experiment.name}
    assert expected.items() <= failed.data.tags.items()
    assert parent.data.tags["cells.failed"] == "1"
    play(experiment)
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
def test_no_run_stays_running(experiment: Experiment, error: BaseException, status: str) -> None:
    with pytest.raises(type(error)):
        play(experiment, {1: error})
    (parent,), children = runs_of(experiment)
    assert parent.info.status == status
    assert [run.info.status for run in children] == ["FINISHED"]
    # Continued, it is the same parent and it ends well.
    play(experiment)
    (again,), children = runs_of(experiment)
    assert (again.info.run_id, again.info.status) == (parent.info.run_id, "FINISHED")
    assert len(children) == 3


def test_an_unreadable_cell_is_one_warning_and_the_others_are_tracked(
    experiment: Experiment, caplog: pytest.LogCaptureFixture
) -> None:
    finish(experiment, 0, 1, 2)
    cell = cells(experiment)[0]
    (experiment.runs_folder / cell.name / "metrics.json").write_text("{")
    with caplog.at_level(logging.WARNING):
        play(experiment)
    assert [cell.name in record.getMessage() for record in caplog.records if "probe_lab" in record.name] == [True]
    assert statuses(experiment) == (["FINISHED"], {"1": "FINISHED", "2": "FINISHED"})


def test_an_empty_address_switches_tracking_off(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(store, "_client", lambda uri: pytest.fail("MLflow was opened"))
    experiment = experiment_in(tmp_path, "")
    play(experiment)
    log_report(experiment, lambda: cells(experiment))
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "")
    experiment = experiment_in(tmp_path, f"sqlite:///{tmp_path}/mlflow.db")
    play(experiment)
    assert not list(tmp_path.glob("*.db"))
    assert not (experiment.runs_folder / ".tracking").exists()


def test_a_new_database_and_its_use_are_silent(tmp_path: Path) -> None:
    experiment = experiment_in(tmp_path, f"sqlite:///{tmp_path}/mlflow.db")
    finish(experiment, 0, 1, 2)
    program = (
        f"import sys; sys.path.insert(0, {str(Path(__file__).parent)!r})\n"
        "from pathlib import Path\n"
        "from tracking_world import experiment_in\n"
        "from probe_lab.sweep import run_sweep\n"
        f"run_sweep(experiment_in(Path({str(tmp_path)!r}), {experiment.tracking.uri!r}))\n"
    )
    done = interpreters.run(["-c", program])
    assert done.returncode == 0, done.stderr
    assert done.stdout == ""
    assert [line for line in done.stderr.splitlines() if not line.startswith("tracking: ")] == []  # its progress
    assert statuses(experiment)[1] != {}


def test_a_report_is_attached_to_the_sweep(experiment: Experiment) -> None:
    import mlflow

    play(experiment)
    report = write_report(experiment)
    (report / "secrets.txt").write_text("not of a report")
    log_report(experiment, lambda: cells(experiment))
    (parent,), children = runs_of(experiment)
    assert parent.info.status == "FINISHED"
    assert len(children) == 3
    client = mlflow.MlflowClient(tracking_uri(experiment))
    listed = [item.path for item in client.list_artifacts(parent.info.run_id, "report")]
    assert listed == ["report/figures", "report/index.html"]
    assert [item.path for item in client.list_artifacts(parent.info.run_id, "report/figures")] == [
        "report/figures/step.png"
    ]
    assert Receipt.read(experiment.runs_folder, experiment.tracking.uri).is_complete(experiment.runs_folder)


def test_the_machine_is_sampled_into_the_parent_when_asked(
    experiment: Experiment, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("MLFLOW_SYSTEM_METRICS_SAMPLING_INTERVAL", "0.1")
    tracking = {"uri": experiment.tracking.uri, "system_metrics": True}
    asked = make_experiment(tmp_path, SEEDS, name=experiment.name, tracking=tracking)
    finish(asked, 0)
    with track(asked, cells(asked)) as tracker:
        tracker.start()
        for _ in range(200):
            (parent,) = runs_of(asked)[0] or [None]
            if parent is not None and any(name.startswith("system/") for name in parent.data.metrics):
                break
    (parent,), _ = runs_of(asked)
    assert parent.info.status == "FINISHED"
    assert {"system/cpu_utilization_percentage", "system/system_memory_usage_percentage"} <= set(parent.data.metrics)


def test_a_cell_that_is_trained_again_is_logged_though_all_were_logged_before(experiment: Experiment) -> None:
    """The receipt says that nothing is to be added, and the sweep has not yet replaced the old files."""
    play(experiment)
    cell = cells(experiment)[1]
    path = experiment.runs_folder / cell.name / "metrics.json"
    with track(experiment, cells(experiment), {cell.name}) as tracker:
        assert tracker.active
        path.write_text(path.read_text().replace('"estimate": 0.1', '"estimate": 0.7'))
        tracker.cell_finished()
    assert statuses(experiment) == (["FINISHED"], FINISHED)
    run = {run.data.tags["cell"]: run for run in runs_of(experiment)[1]}[cell.name]
    assert run.data.metrics["shapes_reward/srcc"] == pytest.approx(0.7)


def test_a_copied_runs_folder_is_another_owner_and_a_moved_one_the_same(experiment: Experiment, tmp_path: Path) -> None:
    play(experiment)
    ours = {run.info.run_id for runs in runs_of(experiment) for run in runs}
    shutil.copytree(experiment.runs, tmp_path / "copied")
    copy = dataclasses.replace(experiment, runs=str(tmp_path / "copied"))
    assert owner_of(copy.runs_folder) != owner_of(experiment.runs_folder)
    for path in copy.runs_folder.glob("*/metrics.json"):
        path.write_text(path.read_text().replace('"estimate": 0.1', '"estimate": 0.7'))
    play(copy)
    assert ours < {run.info.run_id for runs in runs_of(experiment) for run in runs}
    owner = owner_of(experiment.runs_folder)
    Path(experiment.runs).rename(tmp_path / "moved")
    moved = dataclasses.replace(experiment, runs=str(tmp_path / "moved"))
    assert owner_of(moved.runs_folder) == owner
    (moved.runs_folder / ".tracking" / "owner").write_text("0" * 32)  # of an earlier version
    assert owner_of(moved.runs_folder) == "0" * 32


def test_a_copy_without_anything_to_train_gets_runs_of_its_own(experiment: Experiment, tmp_path: Path) -> None:
    play(experiment)
    ours = {run.info.run_id for runs in runs_of(experiment) for run in runs}
    shutil.copytree(experiment.runs, tmp_path / "copied")
    copy = dataclasses.replace(experiment, runs=str(tmp_path / "copied"))
    with track(copy, cells(copy)) as tracker:
        assert tracker.active
    parents, children = runs_of(experiment)
    assert ours < {run.info.run_id for run in (*parents, *children)}
    assert len(children) == 6
    with track(copy, cells(copy)) as tracker:
        assert not tracker.active


def test_what_a_store_refuses_is_cut_or_left_out_and_all_else_is_logged(
    experiment: Experiment, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """A store with the limits of an earlier version, which also refuses one metric by its name."""
    from mlflow.exceptions import MlflowException
    from mlflow.protos.databricks_pb2 import INVALID_PARAMETER_VALUE
    from mlflow.utils import validation

    monkeypatch.setenv("MLFLOW_TRUNCATE_LONG_VALUES", "false")
    monkeypatch.setattr(validation, "MAX_PARAM_VAL_LENGTH", 250)
    monkeypatch.setattr(validation, "MAX_TAG_VAL_LENGTH", 500)
    check = validation._validate_metric_name

    def refusing(name: str, path: str = "name") -> None:
        if name == "shapes_reward/srcc":
            raise MlflowException(f"{name} is not taken", error_code=INVALID_PARAMETER_VALUE)
        check(name, path)

    monkeypatch.setattr(validation, "_validate_metric_name", refusing)
    finish(experiment, 0, 1, 2)
    cell = cells(experiment)[0]
    config = experiment.runs_folder / cell.name / "config.yaml"
    config.write_text(config.read_text() + f"long: {'x' * 700}\n")
    play(experiment)
    assert statuses(experiment) == (["FINISHED"], FINISHED)
    run = {run.data.tags["cell"]: run for run in runs_of(experiment)[1]}[cell.name]
    assert run.data.params["long"] == "x" * 250
    assert run.data.params["trainer.seed"] == "0"
    assert "shapes_reward/srcc" not in run.data.metrics
    assert "shapes_reward/srcc_within" in run.data.metrics
    assert sum("refuses some values" in record.message for record in caplog.records) == 1


def test_no_metric_is_the_folder_of_another(tmp_path: Path) -> None:
    """As a store needs it that keeps each in a file; an evaluator may have the name of a metric of its own."""
    experiment = experiment_in(tmp_path, "")
    finish(experiment, 0)
    path = experiment.runs_folder / cells(experiment)[0].name / "metrics.json"
    content = json.loads(path.read_text())
    entry = next(entry for entry in content["metrics"] if (entry["split"], entry["metric"]) == ("test", "srcc"))
    content["metrics"] += [{**entry, "evaluator": name} for name in ("seconds", "val_srcc_within")]
    path.write_text(json.dumps(content))
    names = {name for name, _, _ in read_values(FinishedCell.read(path.parent)).metrics}
    assert {"seconds_", "seconds/srcc", "val_srcc_within_", "val_srcc_within/srcc"} <= names
    assert not {name for name in names for other in names if other.startswith(f"{name}/")}
