"""Processes that are killed while they log, and what the same command makes of it."""

from __future__ import annotations

import os
import signal
import subprocess
import time
from collections.abc import Callable
from pathlib import Path

import interpreters
import pytest
from tracking_world import FINISHED, experiment_in, finish, play, runs_of, statuses

from probe_lab.cache.files import machine
from probe_lab.config import Experiment
from probe_lab.tracking.database import make_database
from probe_lab.tracking.store import OWNER
from probe_lab.tracking.tracking_folder import alone_in, owner_of

PROGRAM = """
import os, signal, sys
from pathlib import Path
sys.path.insert(0, {tests!r})
from tracking_world import experiment_in, play
from probe_lab.tracking.sent_record import Receipt
from probe_lab.tracking.store import Store
from probe_lab.tracking.sync import Sync

count = {count}
def dying(owner, name, before):
    method = getattr(owner, name)
    def replaced(*args, **named):
        global count
        count += 1
        if count < 2:
            return method(*args, **named)
        if not before:
            method(*args, **named)
        os.kill(os.getpid(), signal.SIGKILL)
    setattr(owner, name, replaced)

dying({owner}, {name!r}, {before})
play(experiment_in(Path({root!r}), {uri!r}, {experiment!r}))
"""


@pytest.mark.parametrize(
    ("owner", "name", "before", "count", "status"),
    [
        ("Store", "_child", False, 0, "RUNNING"),
        ("Store", "_attach", False, 0, "RUNNING"),
        ("Store", "_end", True, 0, "RUNNING"),
        ("Sync", "_ended", True, 1, "RUNNING"),
        ("Receipt", "write", True, 1, "FINISHED"),
    ],
    ids=["after create", "after files", "before the end of a run", "before the end", "before the receipt"],
)
def test_a_killed_process_leaves_nothing_twice_or_running(
    experiment: Experiment, owner: str, name: str, before: bool, count: int, status: str
) -> None:
    finish(experiment, 0, 1, 2)
    root = Path(experiment.runs).parent
    program = PROGRAM.format(
        tests=str(Path(__file__).parent),
        owner=owner,
        name=name,
        before=before,
        count=count,
        root=str(root),
        uri=experiment.tracking.uri,
        experiment=experiment.name,
    )
    killed = interpreters.run(["-c", program])
    assert killed.returncode == -signal.SIGKILL, killed.stderr
    (parent,), children = runs_of(experiment)
    assert parent.info.status == status
    assert children
    play(experiment)
    assert statuses(experiment) == (["FINISHED"], FINISHED)
    for run in runs_of(experiment)[1]:
        assert run.data.metrics["shapes_reward/srcc"] == pytest.approx(int(run.data.tags["seed"]) / 10)


def test_runs_that_another_process_left_running_are_ended(experiment: Experiment) -> None:
    import mlflow

    client = mlflow.MlflowClient(experiment.tracking.uri)
    number = client.create_experiment(experiment.name)
    gone = {"cell": "gone", "mlflow.parentRunId": "x"}
    client.create_run(number, tags={**gone, "seed": "9", OWNER: owner_of(experiment.runs_folder)})
    client.create_run(number, tags={**gone, "seed": "8", OWNER: "another"})
    play(experiment)
    assert statuses(experiment) == (["FINISHED"], {**FINISHED, "9": "KILLED", "8": "RUNNING"})


def test_a_database_is_whole_or_not_there(tmp_path: Path) -> None:
    experiment = experiment_in(tmp_path, f"sqlite:///{tmp_path}/mlflow.db")
    program = (
        f"import sys; sys.path.insert(0, {str(Path(__file__).parent)!r})\n"
        "import os, signal\n"
        "from alembic.operations import Operations\n"
        "from pathlib import Path\n"
        "from tracking_world import experiment_in, play\n"
        "Operations.create_index = lambda *args, **named: os.kill(os.getpid(), signal.SIGKILL)\n"
        f"play(experiment_in(Path({str(tmp_path)!r}), {experiment.tracking.uri!r}))\n"
    )
    killed = interpreters.run(["-c", program])
    assert killed.returncode == -signal.SIGKILL, killed.stderr
    assert not (tmp_path / "mlflow.db").exists()
    assert list(tmp_path.glob("mlflow.db.*"))
    play(experiment)
    assert statuses(experiment) == (["FINISHED"], FINISHED)
    assert [path.name for path in tmp_path.glob("mlflow.db*")] == ["mlflow.db"]


def test_what_killed_processes_left_beside_a_database_goes_and_nothing_else(tmp_path: Path) -> None:
    database = tmp_path / "mlflow.db"
    database.touch()
    dead = subprocess.Popen(["true"])
    dead.wait()
    asides = {pid: f"mlflow.db.{pid}-{machine()}-0123abcd" for pid in (dead.pid, os.getpid())}
    elsewhere = f"mlflow.db.{dead.pid}-00000000-0123abcd"
    sides = ("", "-journal", "-wal", "-shm")
    kept = {f"{asides[os.getpid()]}{side}" for side in sides}
    kept |= {elsewhere, "mlflow.db.20250101", "mlflow.db.bak", f"my_{asides[dead.pid]}"}
    for name in {*kept, *(f"{asides[dead.pid]}{side}" for side in sides)}:
        (tmp_path / name).touch()
    make_database(database)
    assert {path.name for path in tmp_path.iterdir()} == {"mlflow.db", *kept}
    two_days_ago = time.time() - 48 * 3600
    os.utime(tmp_path / elsewhere, (two_days_ago, two_days_ago))
    make_database(database)
    assert not (tmp_path / elsewhere).exists()


def test_what_a_killed_process_left_half_written_in_the_runs_folder_goes(experiment: Experiment) -> None:
    finish(experiment, 0)
    program = (
        "import os, signal, sys\n"
        "from pathlib import Path\n"
        "from probe_lab.cache import files\n"
        "files.os.replace = lambda *paths: os.kill(os.getpid(), signal.SIGKILL)\n"
        "files.write_whole(Path(sys.argv[1]), b'x')\n"
    )
    folder = experiment.runs_folder / ".tracking"
    folder.mkdir(parents=True)
    for name in ("sweep", "sent.json"):
        killed = interpreters.run(["-c", program, folder / name])
        assert killed.returncode == -signal.SIGKILL
    assert len(list(folder.rglob(".tmp-*"))) == 2
    with alone_in(experiment.runs_folder):
        assert not list(folder.rglob(".tmp-*"))


def test_ctrl_c_in_a_real_process_ends_the_parent_as_killed(experiment: Experiment) -> None:
    program = (
        f"import sys; sys.path.insert(0, {str(Path(__file__).parent)!r})\n"
        "import signal, time\n"
        "signal.signal(signal.SIGINT, signal.default_int_handler)\n"  # ignored, where the tests run in the background
        "from pathlib import Path\n"
        "from tracking_world import experiment_in, finish\n"
        "from probe_lab.sweep import cells\n"
        "from probe_lab.tracking import track\n"
        f"experiment = experiment_in(Path({str(Path(experiment.runs).parent)!r}), {experiment.tracking.uri!r}, "
        f"{experiment.name!r})\n"
        "plan = cells(experiment)\n"
        "with track(experiment, plan, [cell.name for cell in plan]) as tracker:\n"
        "    tracker.start()\n"
        "    finish(experiment, 0)\n"
        "    tracker.cell_finished()\n"
        "    print('ready', flush=True)\n"
        "    time.sleep(600)\n"
    )
    process = interpreters.Popen(["-c", program], stdout=subprocess.PIPE, stderr=subprocess.DEVNULL)
    try:
        assert process.stdout is not None
        assert process.stdout.readline() == "ready\n"
        _until(lambda: statuses(experiment) == (["RUNNING"], {"0": "FINISHED"}))
        process.send_signal(signal.SIGINT)
        process.wait(60)
        process.stdout.close()
    finally:
        process.kill()
    assert statuses(experiment) == (["KILLED"], {"0": "FINISHED"})
    play(experiment)
    assert statuses(experiment) == (["FINISHED"], FINISHED)


def _until(holds: Callable[[], bool]) -> None:
    end = time.monotonic() + 120
    while not holds():
        assert time.monotonic() < end
        time.sleep(0.1)
