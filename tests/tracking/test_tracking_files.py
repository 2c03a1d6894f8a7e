"""What tracking keeps in files: the backlog and the ledger; and the values it takes from a cell's."""

from __future__ import annotations

import json
import math
import shutil
import threading
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from tracking_world import experiment_in, finish

from probe_lab.sweep import cells
from probe_lab.tracking import background
from probe_lab.tracking.background import Background
from probe_lab.tracking.backlog import Backlog, alone_in
from probe_lab.tracking.entries import Entry
from probe_lab.tracking.ledger import Ledger, Logged, digest_of, has_owner, owner_of
from probe_lab.tracking.sending import Session
from probe_lab.tracking.values import read_cell

ENTRIES = st.builds(
    Entry,
    st.sampled_from(["cell", "failure", "report", "end"]),
    st.text(),
    st.dictionaries(st.text(), st.text(), max_size=3),
    st.text(),
)


@given(ENTRIES)
def test_an_entry_is_one_line(entry: Entry) -> None:
    line = entry.to_line()
    assert len(line.splitlines()) == 1
    assert Entry.from_line(line) == entry


def test_the_last_entry_of_a_cell_counts_and_foreign_lines_do_not(tmp_path: Path) -> None:
    backlog = Backlog(tmp_path)
    backlog.add([Entry("failure", "a", {}, "bad"), Entry("cell", "b")])
    backlog.add([Entry("cell", "a"), Entry("end", "KILLED")])
    backlog.add([Entry("end", "FINISHED")])
    backlog.add([])
    (backlog.folder / "9-x.jsonl").write_text('{"kind": "cell"}\n[]\nno json\n{"kind": "ce')
    (backlog.folder / ".aside").write_text(Entry("cell", "half").to_line())
    assert backlog.waiting() == [Entry("cell", "b"), Entry("cell", "a"), Entry("end", "FINISHED")]
    assert len(backlog.files()) == 4
    backlog.remove(backlog.files()[:3])
    assert backlog.waiting() == []


def test_many_threads_add_without_losing_any(tmp_path: Path) -> None:
    def add(number: int) -> None:
        for i in range(20):
            Backlog(tmp_path).add([Entry("cell", f"{number}-{i}")])

    threads = [threading.Thread(target=add, args=(number,)) for number in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(Backlog(tmp_path).waiting()) == 80


def test_one_process_at_a_time(tmp_path: Path) -> None:
    with alone_in(tmp_path) as first, alone_in(tmp_path) as second:
        assert (first, second) == (True, False)
    with alone_in(tmp_path) as again:
        assert again


def test_a_ledger_survives_a_kill_at_any_byte(tmp_path: Path) -> None:
    uri = "http://server"
    ledger = Ledger(tmp_path, uri)
    ledger.open("parent")
    for name in "abc":
        ledger.add(name, Logged(f"run {name}", "FINISHED", f"digest {name}"))
    path = next((tmp_path / ".tracking").glob("*.jsonl"))
    whole = path.read_bytes()
    for size in range(len(whole) + 1):
        path.write_bytes(whole[:size])
        found = Ledger.read(tmp_path, uri)
        assert found.cells.items() <= ledger.cells.items()
        assert len(found.cells) >= whole[:size].count(b"\n") - 1
        assert not found.closed
        assert found.parent == ("parent" if b"\n" in whole[: size + 1] else "")
    ledger.close("FINISHED")
    assert Ledger.read(tmp_path, uri) == ledger
    assert Ledger.read(tmp_path, "http://other").cells == {}


def test_the_ledger_of_a_copied_runs_folder_is_not_that_of_the_copy(tmp_path: Path) -> None:
    uri = "http://server"
    experiment = experiment_in(tmp_path, uri)
    finish(experiment, 0)
    name, folder = cells(experiment)[0].name, experiment.runs_folder
    owner = owner_of(folder)
    ledger = Ledger(folder, uri)
    ledger.open("parent")
    ledger.add(name, Logged("run", "FINISHED", digest_of(folder / name)))
    ledger.close("FINISHED")
    assert Ledger.read(folder, uri).complete([name])
    copy = Path(shutil.copytree(folder, tmp_path / "copy"))
    assert not has_owner(copy)
    assert Ledger.read(copy, uri) == Ledger(copy, uri)
    assert owner_of(copy) != owner
    assert Ledger.read(copy, uri) == Ledger(copy, uri)  # the store may have been out of reach since
    assert has_owner(copy)
    assert Ledger.read(folder, uri) == ledger


def test_a_ledger_is_complete_only_for_what_the_files_are_now(tmp_path: Path) -> None:
    experiment = experiment_in(tmp_path, "http://server")
    finish(experiment, 0, 1)
    first, second, third = (cell.name for cell in cells(experiment))
    ledger = Ledger(experiment.runs_folder, "http://server")
    ledger.open("parent")
    for name in (first, second):
        ledger.add(name, Logged("run", "FINISHED", digest_of(experiment.runs_folder / name)))
    assert not ledger.complete([first])
    ledger.close("KILLED")
    assert not ledger.complete([first])
    ledger.close("FINISHED")
    assert ledger.complete([first, second])
    unknown = Ledger(experiment.runs_folder, "http://server", "parent", "FINISHED", {first: Logged("run", "FINISHED")})
    assert not unknown.complete([first])  # of an earlier version: of any training
    assert not ledger.complete([first, second, third])
    (experiment.runs_folder / second / "metrics.json").write_text("{}")
    assert ledger.complete([first])
    assert not ledger.complete([first, second])


def test_values_of_a_cell(tmp_path: Path) -> None:
    experiment = experiment_in(tmp_path, "")
    finish(experiment, 2)
    (name,) = (cell.name for cell in cells(experiment) if cell.experiment.trainer.seed == 2)
    folder = experiment.runs_folder / name
    content = json.loads((folder / "metrics.json").read_text())
    content["history"].append({"epoch": 3, "train_loss": math.nan, "val_srcc_within": None, "best": True})
    (folder / "metrics.json").write_text(json.dumps(content))
    (folder / "predictions.parquet").write_bytes(bytes(5_000_001))
    values = read_cell(folder)
    assert max(step for _, _, step in values.metrics) == 2
    assert ("shapes_reward/srcc_lower", pytest.approx(0.1), 0) in values.metrics
    assert [path.name for path in values.files] == ["config.yaml", "metrics.json"]
    assert values.end - values.start == 500
    assert values.params["trainer.seed"] == "2"
    assert not any(key.startswith("sweep") for key in values.params)


def test_what_memory_does_not_hold_goes_to_the_backlog(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(background, "IN_MEMORY", 2)
    opened = threading.Event()

    def never(ledger: Ledger) -> None:
        opened.wait(60)
        raise OSError("the database is locked")

    found = Background(Session("sqlite:///x.db", tmp_path, never))  # type: ignore[arg-type]  # it never returns
    for name in "abcd":
        found.put(Entry("cell", name))
    assert [entry.name for entry in Backlog(tmp_path).waiting()] == ["c", "d"]
    opened.set()
    found.close("FINISHED", 10)
    assert sorted(entry.name for entry in Backlog(tmp_path).waiting()) == ["FINISHED", "a", "b", "c", "d"]
    assert found.reason == "the database is locked"
