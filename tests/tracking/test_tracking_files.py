"""What tracking keeps in files, the values and names that it takes from a cell's, and when its thread works."""

from __future__ import annotations

import dataclasses
import json
import math
import re
import shutil
import threading
import time
from pathlib import Path

import pytest
from sweep_world import make_experiment
from tracking_world import experiment_in, finish

from probe_lab.runs import FinishedCell
from probe_lab.sweep import cells
from probe_lab.tracking import background, sync
from probe_lab.tracking.background import Background
from probe_lab.tracking.overview import OverviewRow, ShownValue, note_of, ranked
from probe_lab.tracking.run_names import WIDTH, run_names
from probe_lab.tracking.sent_record import Receipt, digest_of
from probe_lab.tracking.server import place_of
from probe_lab.tracking.sync import Sync, config_of
from probe_lab.tracking.tracking_folder import Status, alone_in, known_owner, owner_of, write_status
from probe_lab.tracking.values import TAG_LENGTH, read_values


def test_one_process_at_a_time(tmp_path: Path) -> None:
    with alone_in(tmp_path) as first, alone_in(tmp_path) as second:
        assert (first, second) == (True, False)
    with alone_in(tmp_path) as again:
        assert again


def test_a_receipt_is_whole_or_says_nothing(tmp_path: Path) -> None:
    owner = owner_of(tmp_path)
    receipt = Receipt(owner, "http://server", "1", "parent", "", {"a": "digest a", "b": "digest b"})
    receipt.write(tmp_path)
    assert Receipt.read(tmp_path, "http://server") == receipt
    assert Receipt.read(tmp_path, "http://other") == Receipt()
    path = tmp_path / ".tracking" / "sent.json"
    whole = path.read_bytes()
    for size in range(len(whole)):
        path.write_bytes(whole[:size])
        assert Receipt.read(tmp_path, "http://server") == Receipt()
    for foreign in ("[]", '{"cells": 1}', '{"more": 1}', "1"):
        path.write_text(foreign)
        assert Receipt.read(tmp_path, "http://server") == Receipt()


def test_the_receipt_of_a_copied_runs_folder_is_not_that_of_the_copy(tmp_path: Path) -> None:
    uri = "http://server"
    experiment = experiment_in(tmp_path, uri)
    finish(experiment, 0)
    name, folder = cells(experiment)[0].name, experiment.runs_folder
    owner = owner_of(folder)
    receipt = Receipt(owner, uri, "1", "parent", "", {name: digest_of(folder / name)})
    receipt.write(folder)
    assert Receipt.read(folder, uri).is_complete(folder)
    copy = Path(shutil.copytree(folder, tmp_path / "copy"))
    assert not known_owner(copy)
    assert Receipt.read(copy, uri) == Receipt()
    assert owner_of(copy) != owner
    assert Receipt.read(copy, uri) == Receipt()  # the store may have been out of reach since
    assert known_owner(copy)
    assert Receipt.read(folder, uri) == receipt


def test_a_receipt_is_complete_only_for_what_the_files_are_now(tmp_path: Path) -> None:
    experiment = experiment_in(tmp_path, "http://server")
    folder = experiment.runs_folder
    finish(experiment, 0, 1)
    first, second, third = (cell.name for cell in cells(experiment))
    digests = {name: digest_of(folder / name) for name in (first, second)}
    receipt = Receipt(owner_of(folder), "http://server", "1", "parent", "", digests)
    assert receipt.is_complete(folder)
    statuses: tuple[Status, ...] = ("RUNNING", "KILLED", "FAILED")
    for status in statuses:
        write_status(folder, status)
        assert not receipt.is_complete(folder)
    write_status(folder, "FINISHED")
    assert receipt.is_complete(folder)
    assert not Receipt(cells=digests).is_complete(folder)
    assert not dataclasses.replace(receipt, cells={first: digests[first], second: ""}).is_complete(folder)
    finish(experiment, 2)
    assert not receipt.is_complete(folder)
    shutil.rmtree(folder / third)
    assert receipt.is_complete(folder)
    (folder / second / "metrics.json").write_text("{}")
    assert not receipt.is_complete(folder)


def test_values_of_a_cell(tmp_path: Path) -> None:
    experiment = experiment_in(tmp_path, "")
    finish(experiment, 2)
    (name,) = (cell.name for cell in cells(experiment) if cell.experiment.trainer.seed == 2)
    folder = experiment.runs_folder / name
    content = json.loads((folder / "metrics.json").read_text())
    content["history"].append({"epoch": 3, "train_loss": math.nan, "val_srcc_within": None, "best": True})
    (folder / "metrics.json").write_text(json.dumps(content))
    (folder / "predictions.parquet").write_bytes(bytes(5_000_001))
    values = read_values(FinishedCell.read(folder))
    assert max(step for _, _, step in values.metrics) == 2
    assert ("shapes_reward/srcc_lower", pytest.approx(0.1), 0) in values.metrics
    assert [path.name for path in values.files] == ["config.yaml", "metrics.json"]
    assert values.end - values.start == 500
    assert values.params["trainer.seed"] == "2"
    assert not any(key.startswith("sweep") for key in values.params)


def test_a_store_that_never_opens_holds_nothing_up(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    experiment = experiment_in(tmp_path, "sqlite:///x.db")
    finish(experiment, 0, 1)
    opened = threading.Event()

    def never(*arguments: object) -> None:
        opened.wait(60)
        raise OSError("the database is locked")

    monkeypatch.setattr(sync, "Store", never)
    monkeypatch.setattr(background, "_OWN_STALLED", 0.5)
    found = Background(Sync(experiment, "sqlite:///x.db", lambda: cells(experiment)))
    found.start()
    for _ in range(1000):
        found.wake()
    started = time.monotonic()
    found.close(10)
    assert time.monotonic() - started < 5
    assert (found.done, found.reason) == (False, "it takes too long to answer")
    opened.set()
    for thread in threading.enumerate():
        if thread.name == "tracking":
            thread.join(60)
    other = Background(Sync(experiment, "sqlite:///x.db", lambda: cells(experiment)))
    other.close(10)
    assert (other.done, other.reason) == (False, "the database is locked")


def test_passes_rest_for_what_they_cost(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A sweep whose cells come one after the other does not spend its processors on telling of each."""
    spent: list[float] = []

    def busy(*arguments: object) -> bool:
        began = time.thread_time()
        while time.thread_time() - began < 0.05:
            pass
        spent.append(time.thread_time() - began)
        return True

    found = Sync(experiment_in(tmp_path, "sqlite:///x.db"), "sqlite:///x.db", lambda: ())
    monkeypatch.setattr(found, "connect", lambda: None)
    monkeypatch.setattr(found, "send", busy)
    monkeypatch.setattr(found, "finish", busy)
    thread = Background(found)
    thread.start()
    started = time.monotonic()
    while time.monotonic() - started < 2.5:
        thread.wake()
        time.sleep(0.01)
    assert 2 <= len(spent) <= 4
    thread.close(10)
    assert thread.done


def test_names_of_runs_can_be_told_apart_in_a_narrow_column(tmp_path: Path) -> None:
    def names(sweep: object) -> list[str]:
        configs = {cell.name: config_of(cell.experiment) for cell in cells(make_experiment(tmp_path, sweep))}
        named = run_names(configs)
        assert len({name[:WIDTH] for name in named.values()}) == len(named) == len(configs)
        return list(named.values())

    first, second = "up_blocks.1.attentions.0/attention", "up_blocks.1/activation"
    assert names({"probe.step": [1, 5], "probe.taps": [first, second]}) == [
        "step 1 · attention", "step 1 · activation", "step 5 · attention", "step 5 · activation"
    ]  # fmt: skip
    assert names({"probe.taps": [[first], [first, second]], "probe.loss": ["mse"]}) == [
        "attention", "attention+activation"
    ]  # fmt: skip
    assert names({"trainer.learning_rate": [0.001, 0.0003]}) == ["learning_rate 0.001", "learning_rate 0.0003"]
    assert names({"probe.model": ["cnn", "linear"]}) == ["cnn", "linear"]
    assert names(None) == ["cnn · step 5"]
    long = names({"probe.step": [1, 5], "probe.taps": [first, second], "probe.loss": ["mse", "listwise"]})
    assert all(re.fullmatch(r"[0-9a-f]{4} step [15] · (attention|activation) · (mse|listwise)", name) for name in long)


def test_taps_of_one_kind_are_told_apart_by_where_they_are() -> None:
    taps = ["up_blocks.1.attentions.0/attention", "up_blocks.1.attentions.1/attention", "latent"]
    configs = {tap: {"probe.taps": (tap,)} for tap in taps}
    assert list(run_names(configs).values()) == ["0/attention", "1/attention", "latent"]


def test_a_note_is_a_table_that_fits_and_shows_what_users_wrote() -> None:
    none = ShownValue(math.nan, math.nan, math.nan)
    rows = {
        "a": OverviewRow(ShownValue(0.5, 0.4, 0.6), none),
        "b": OverviewRow(none, none),
        "c": OverviewRow(ShownValue(0.7, 0.6, 0.8), none),
    }
    assert ranked(rows) == ["c", "a"]
    assert ranked({"a": rows["c"], "b": rows["c"]}) == ["a", "b"]
    note = note_of("tiny", "mine_<b>|x", rows, {"a": "step 1 | *bold*"}, 2)
    assert "3 cells of tiny are finished, 2 failed" in note
    assert "mine\\_\\<b>\\|x" in note
    assert "| step 1 \\| \\*bold\\* | 0.500 [0.400, 0.600] | – |" in note
    many = note_of("tiny", "e", {f"cell {i}": rows["a"] for i in range(1000)}, {}, 0)
    assert TAG_LENGTH - 100 < len(many) <= TAG_LENGTH
    assert many.endswith("\n\n… `probe-lab compare tiny --limit 0` shows them all")


@pytest.mark.parametrize(
    ("uri", "place"),
    [
        ("sqlite:///mlflow.db", "mlflow ui --backend-store-uri sqlite:///mlflow.db"),
        ("sqlite:///my files/m.db", "mlflow ui --backend-store-uri 'sqlite:///my files/m.db'"),
        ("postgresql://me:secret@host/db", ""),
        ("databricks", ""),
        (
            "https://me:secret@host:5000/mlflow/",
            "https://host:5000/mlflow/#/experiments/7/runs?searchFilter=tags.%60mlflow.parentRunId%60%20%3D%20%27p%27",
        ),
    ],
)
def test_where_runs_are_seen(uri: str, place: str) -> None:
    assert place_of(uri, "7", "p") == place


def test_commands_that_begin_at_once_give_a_folder_one_owner(tmp_path: Path) -> None:
    for attempt in range(20):
        folder, together, owners = tmp_path / str(attempt), threading.Barrier(4), []

        def begin(folder: Path = folder, together: threading.Barrier = together, owners: list[str] = owners) -> None:
            together.wait()
            owners.append(owner_of(folder))

        threads = [threading.Thread(target=begin) for _ in range(4)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert len(owners) == 4
        assert set(owners) == {known_owner(folder)}
        assert not list(folder.rglob(".tmp-*"))
