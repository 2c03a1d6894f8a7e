"""The local engine and everything around it, with a trainer that only writes files."""

from __future__ import annotations

import contextlib
import json
import os
import shutil
import signal
import subprocess
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager
from pathlib import Path

import interpreters
import pandas as pd
import pyarrow.parquet as pq
import pytest
from sweep_world import (
    ACTIVATION,
    ATTENTION,
    ApartTrainer,
    CardTrainer,
    FakeTrainer,
    make_experiment,
    trained,
    write_cell,
)

from probe_lab.config import Experiment
from probe_lab.engines import local
from probe_lab.errors import ReportError, SweepError
from probe_lab.runs import Runs
from probe_lab.runs.failures import read_failures
from probe_lab.runs.files import sealed
from probe_lab.runs.table import RESULTS, read_table, require_cells, write_results
from probe_lab.sweep import Cell, Outcome, SweepSummary, cells, collect, read_results, run, run_sweep

SEEDS = {"trainer.seed": [0, 1, 2, 3]}


def names_of(experiment: Experiment) -> dict[int, str]:
    """Training seed -> cell."""
    return {cell.experiment.trainer.seed: cell.name for cell in cells(experiment)}


def test_a_sweep_trains_every_cell_once_and_a_rerun_none(tmp_path: Path) -> None:
    experiment = make_experiment(tmp_path, SEEDS | {"probe.taps": [ATTENTION, ACTIVATION]})
    trainer = FakeTrainer(tmp_path / "log", {})
    plan = [cell.name for cell in cells(experiment)]
    assert sorted(run_sweep(experiment, dry_run=True, trainer=trainer).pending) == sorted(plan)
    assert not experiment.runs_folder.exists()

    summary = run_sweep(experiment, trainer=trainer)
    assert sorted(summary.done) == sorted(plan) == sorted(trained(tmp_path / "log"))
    assert sorted(p.parent.name for p in experiment.runs_folder.glob("*/metrics.json")) == sorted(plan)
    # Two groups and two workers: each loads one group once, unless it helps at the end of the other's.
    loads = [line for line in (tmp_path / "log").read_text().splitlines() if " load " in line]
    assert 2 <= len(loads) <= 3

    started = time.thread_time()
    again = run_sweep(experiment, trainer=trainer)
    assert time.thread_time() - started < 2
    assert again.skipped == tuple(plan)
    assert again.done == ()
    assert len(trained(tmp_path / "log")) == len(plan)
    # One more value: only its cells are trained.
    more = make_experiment(tmp_path, {"trainer.seed": [0, 1, 2, 3, 4], "probe.taps": [ATTENTION, ACTIVATION]})
    assert len(run_sweep(more, trainer=trainer).done) == 2


@pytest.mark.parametrize(
    ("behaviour", "text"),
    [
        ("fail", "ValueError: seed 1 is bad"),
        ("kill", "SIGKILL"),
        ("abort", "SIGABRT"),
        ("exit", "exit code 0"),
        ("linger", "SIGKILL"),
    ],
    ids=["raise", "kill -9", "abort", "exit", "a thread outlives it"],
)
def test_a_cell_that_fails_or_dies_costs_only_itself(
    tmp_path: Path, behaviour: str, text: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(local, "_PATIENCE", 0.5)
    experiment = make_experiment(tmp_path, SEEDS, workers=1)
    names = names_of(experiment)
    summary = run_sweep(experiment, trainer=FakeTrainer(tmp_path / "log", {1: behaviour}))
    assert sorted(summary.done) == sorted(names[seed] for seed in (0, 2, 3))
    (failure,) = summary.failed
    assert failure.cell == names[1]
    assert text in failure.error
    assert "\n" not in failure.error
    (recorded,) = json.loads((experiment.runs_folder / "failures.json").read_text())
    assert (recorded["cell"], recorded["error"]) == (failure.cell, failure.error)
    if behaviour == "fail":
        assert "sweep_world.py" in recorded["traceback"]
    assert not (experiment.runs_folder / names[1]).exists()
    assert not (experiment.runs_folder / ".partial").exists()
    # The same command tries only that cell again.
    assert run_sweep(experiment, dry_run=True).pending == (names[1],)
    if behaviour != "fail":
        return
    again = run_sweep(experiment, trainer=FakeTrainer(tmp_path / "log2", {}))
    assert again.done == (names[1],)
    assert json.loads((experiment.runs_folder / "failures.json").read_text()) == []
    assert len(read_results(experiment.runs_folder)["cell"].unique()) == 4


def test_a_sweep_of_failures_is_an_error_that_names_the_first(tmp_path: Path) -> None:
    experiment = make_experiment(tmp_path, {"trainer.seed": [0, 1]}, workers=1)
    with pytest.raises(SweepError, match=r"all 2 cells failed.*seed 0 is bad"):
        run_sweep(experiment, trainer=FakeTrainer(tmp_path / "log", {0: "fail", 1: "fail"}))
    assert len(json.loads((experiment.runs_folder / "failures.json").read_text())) == 2


def test_results_hold_the_test_split_of_the_cells_of_all_sweeps(tmp_path: Path) -> None:
    wide = make_experiment(tmp_path, {"trainer.seed": [0, 1]}, probe={"step": 5, "taps": [ATTENTION], "width": 8})
    folder = wide.runs_folder
    for cell in cells(wide):
        (folder / cell.name).mkdir(parents=True)
        write_cell(cell, folder / cell.name, 0.5)
    run_sweep(wide)
    experiment = make_experiment(tmp_path, {"trainer.seed": [1, 0], "probe.taps": [[ATTENTION, ACTIVATION]]})
    for cell in cells(experiment):
        (folder / cell.name).mkdir()
        write_cell(cell, folder / cell.name, cell.experiment.trainer.seed / 10)
    run_sweep(experiment)
    everything = read_results(folder)
    earlier = everything["cell"].isin([cell.name for cell in cells(wide)])
    assert set(everything["cell"]) == {cell.name for cell in (*cells(wide), *cells(experiment))}
    assert set(everything.loc[earlier, "axes"]) == {json.dumps({"trainer.seed": seed}) for seed in (0, 1)}
    table = everything[~earlier]
    assert list(table.columns) == [
        "cell", "model", "step", "taps", "loss", "seed", "evaluator", "split", "metric", "estimate", "lower",
        "upper", "prompts", "tied", "axes",
    ]  # fmt: skip
    assert len(table) == 2 * 2 * 3
    assert set(table["split"]) == {"test"}
    assert list(table["seed"]) == sorted(table["seed"])
    row = table[(table["seed"] == 1) & (table["evaluator"] == "shapes_reward") & (table["metric"] == "srcc")]
    assert row[["model", "step", "taps", "loss", "prompts", "tied"]].to_numpy().tolist() == [
        ["cnn", 5, f"{ATTENTION}+{ACTIVATION}", "listwise", 30, 2]
    ]
    assert row[["estimate", "lower", "upper"]].to_numpy()[0] == pytest.approx([0.1, 0.0, 0.2])
    assert json.loads(row["axes"].item()) == {"trainer.seed": 1, "probe.taps": [ATTENTION, ACTIVATION]}
    assert table.loc[table["metric"] == "top1", "estimate"].isna().all()

    # `train` adds its cell to what is there.
    single = make_experiment(tmp_path, probe={"step": 1, "taps": [ATTENTION]})
    (cell,) = cells(single)
    (folder / cell.name).mkdir()
    write_cell(cell, folder / cell.name, 0.7)
    run_sweep(single)
    assert set(read_results(folder)["cell"]) == set(everything["cell"]) | {cell.name}


def test_rows_of_a_cell_that_was_trained_again_are_never_those_of_before(tmp_path: Path) -> None:
    """`train` keeps the rows of other cells, and gives none the digest of a training that they are not of."""

    def write(cell: Cell, estimate: float) -> None:
        folder = cell.experiment.runs_folder / cell.name
        folder.mkdir(parents=True, exist_ok=True)
        write_cell(cell, folder, estimate)
        content = sealed(folder, json.loads((folder / "metrics.json").read_text()))
        (folder / "metrics.json").write_text(json.dumps(content))

    def shown() -> dict[str, float]:
        table = read_table(folder / RESULTS)
        plan = [cell.name for cell in (first, second) if cell.name != damaged]
        require_cells(folder / RESULTS, table.schema.metadata, Runs(folder).cells(plan))
        rows = table.to_pandas().query("metric == 'srcc'")
        assert set(rows.loc[rows["cell"] == first.name, "axes"]) == {json.dumps(dict(first.axes), sort_keys=True)}
        return dict(zip(rows["cell"], rows["estimate"], strict=True))

    experiment, damaged = make_experiment(tmp_path, {"trainer.seed": [0, 1]}), ""
    folder, (first, second) = experiment.runs_folder, cells(experiment)
    (single,) = cells(make_experiment(tmp_path, probe={"step": 1, "taps": [ATTENTION]}))
    for cell in (first, second, single):
        write(cell, 0.1)
    run_sweep(experiment)
    write(first, 0.9)
    run_sweep(single.experiment)
    assert shown() == {first.name: 0.9, second.name: 0.1, single.name: 0.1}

    path, damaged = folder / second.name / "metrics.json", second.name
    whole = path.read_text()
    path.write_text("{")
    run_sweep(single.experiment)
    assert set(shown()) == {first.name, second.name, single.name}
    path.write_text(whole)
    write(second, 0.5)
    damaged = ""
    run_sweep(single.experiment)
    assert shown()[second.name] == 0.5


def test_results_of_another_version_are_refused(tmp_path: Path) -> None:
    experiment = make_experiment(tmp_path)
    (cell,) = cells(experiment)
    (tmp_path / cell.name).mkdir()
    write_cell(cell, tmp_path / cell.name, 0.5)
    table = collect(tmp_path, [cell])
    path = write_results(tmp_path, table)
    pd.testing.assert_frame_equal(read_results(tmp_path), table, check_dtype=False)
    arrow = pq.read_table(path)
    pq.write_table(arrow.replace_schema_metadata({b"probe_lab.results_version": b"99"}), path)
    with pytest.raises(ReportError, match="version 99"):
        read_results(tmp_path)
    path.write_bytes(b"nonsense")
    with pytest.raises(ReportError, match="cannot be read"):
        read_results(tmp_path)
    path.unlink()
    with pytest.raises(ReportError, match=RESULTS):
        read_results(tmp_path)


@pytest.mark.parametrize("content", ['{"metr', "[]", '{"cell": 3, "metrics": []}', "[" * 100_000])
def test_a_cell_with_a_damaged_metrics_file_is_trained_again(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], content: str
) -> None:
    experiment = make_experiment(tmp_path)
    (cell,) = cells(experiment)
    path = experiment.runs_folder / cell.name / "metrics.json"
    path.parent.mkdir(parents=True)
    path.write_text(content)
    with pytest.raises(ReportError, match=r"metrics\.json cannot be read"):
        collect(experiment.runs_folder, [cell])
    summary = run_sweep(experiment, trainer=FakeTrainer(tmp_path / "log", {}))
    assert summary.done == (cell.name,)
    told = capsys.readouterr().err
    assert "1 finished cell is trained again, as files are not those that were written: " in told
    assert str(path) in told


def test_a_runs_folder_that_cannot_be_written_is_one_error(tmp_path: Path) -> None:
    (tmp_path / "runs").write_text("a file")
    with pytest.raises(SweepError, match="runs=FOLDER"):
        run_sweep(make_experiment(tmp_path), trainer=FakeTrainer(tmp_path / "log", {}))


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGKILL])
def test_an_interrupted_sweep_leaves_whole_cells_and_continues(tmp_path: Path, number: signal.Signals) -> None:
    experiment = make_experiment(tmp_path, SEEDS, workers=1)
    last = names_of(experiment)[3]
    script = _script(tmp_path, {3: "hang"})
    process = interpreters.Popen([script], stderr=subprocess.PIPE, env=_environment())
    try:
        _wait(lambda: (tmp_path / "hanging").exists())
        with pytest.raises(SweepError, match="another sweep"):
            run_sweep(experiment, trainer=FakeTrainer(tmp_path / "log", {}))
        # As a terminal does it, the whole group gets Ctrl-C; a cluster tells the main process.
        (os.killpg if number == signal.SIGINT else os.kill)(process.pid, number)
        _, messages = process.communicate(timeout=120)
    finally:
        process.kill()
    _wait(lambda: not _alive(tmp_path / "log"))
    assert len(list(experiment.runs_folder.glob("*/metrics.json"))) == 3
    assert not (experiment.runs_folder / last).exists()
    assert "Traceback" not in messages
    if number != signal.SIGKILL:
        assert process.returncode == 130
        assert "3 of 4 cells are finished" in messages
        assert not (experiment.runs_folder / ".partial").exists()
        assert len(read_results(experiment.runs_folder)["cell"].unique()) == 3
    if number == signal.SIGTERM:
        assert run_sweep(experiment, dry_run=True).pending == (last,)
        return
    assert run_sweep(experiment, trainer=FakeTrainer(tmp_path / "log2", {})).done == (last,)
    assert not (experiment.runs_folder / ".partial").exists()
    assert len(read_results(experiment.runs_folder)["cell"].unique()) == 4


def _script(root: Path, behaviour: dict[int, str]) -> str:
    """A program that runs the sweep as the command line does."""
    path = root / "program.py"
    path.write_text(
        "import signal, sys\n"
        # A shell starts background jobs with Ctrl-C ignored, and so would be this program below one.
        "signal.signal(signal.SIGINT, signal.default_int_handler)\n"
        "from pathlib import Path\n"
        "from probe_lab.sweep import run_sweep\n"
        "from sweep_world import FakeTrainer, make_experiment\n"
        "if __name__ == '__main__':\n"
        f"    root = Path({str(root)!r})\n"
        "    try:\n"
        f"        experiment = make_experiment(root, {SEEDS!r}, workers=1)\n"
        f"        run_sweep(experiment, trainer=FakeTrainer(root / 'log', {behaviour!r}))\n"
        "    except KeyboardInterrupt:\n"
        "        sys.exit(130)\n"
    )
    return str(path)


def _environment() -> dict[str, str]:
    here = Path(__file__).parent
    return os.environ | {"PYTHONPATH": f"{here}:{here.parent.parent}"}


def _alive(log: Path) -> list[int]:
    """Workers that wrote the log and still run."""
    pids = {int(line.split()[0]) for line in log.read_text().splitlines()} if log.exists() else set()
    found = []
    for pid in pids:
        try:
            state = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]
        except FileNotFoundError:
            continue
        if state != "Z":
            found.append(pid)
    return found


def _wait(condition: Callable[[], bool], seconds: float = 300) -> None:
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end
        time.sleep(0.05)


def test_every_worker_has_a_card_of_its_own(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "2,5")
    sweep = {"trainer.seed": [0, 1, 2, 3]}
    experiment = make_experiment(tmp_path, sweep, workers=2, trainer={"accelerator": "gpu"})
    run_sweep(experiment, trainer=CardTrainer(tmp_path / "log", {}, seconds=0.5))
    lines = [line.split() for line in (tmp_path / "log").read_text().splitlines()]
    cards = {(pid, card) for pid, what, card, *_ in lines if what == "card"}
    assert len(cards) == 2
    assert {card for _, card in cards} == {"2", "5"}


def test_a_sweep_that_fails_leaves_the_results_of_earlier_ones(tmp_path: Path) -> None:
    first = make_experiment(tmp_path, {"trainer.seed": [1]})
    run_sweep(first, trainer=FakeTrainer(tmp_path / "log", {}))
    before = read_results(first.runs_folder)
    second = make_experiment(tmp_path, {"trainer.seed": [2]})
    with pytest.raises(SweepError):
        run_sweep(second, trainer=FakeTrainer(tmp_path / "log", {2: "fail"}))
    pd.testing.assert_frame_equal(read_results(second.runs_folder), before)
    shutil.rmtree(second.runs_folder / before["cell"][0])
    with pytest.raises(SweepError):
        run_sweep(second, trainer=FakeTrainer(tmp_path / "log", {2: "fail"}))
    assert not (second.runs_folder / "results.parquet").exists()


def test_failures_that_an_interrupted_rerun_did_not_come_to_are_kept(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    experiment = make_experiment(tmp_path, SEEDS, workers=1)
    names = names_of(experiment)
    run_sweep(experiment, trainer=FakeTrainer(tmp_path / "log", {0: "fail", 1: "fail", 2: "fail"}))

    def interrupted(pending: Sequence[Cell], folder: Path, **settings: object) -> AbstractContextManager[object]:
        def outcomes() -> Iterator[Outcome]:
            for cell in pending:
                seed = cell.experiment.trainer.seed
                if seed == 2:
                    raise KeyboardInterrupt
                if seed == 0:
                    (folder / cell.name).mkdir()
                    write_cell(cell, folder / cell.name, 0.5)
                yield Outcome(cell.name, 1.0, "once more" if seed else "")

        return contextlib.nullcontext(outcomes())

    monkeypatch.setattr(run, "cell_outcomes", interrupted)
    with pytest.raises(KeyboardInterrupt):
        run_sweep(experiment, trainer=FakeTrainer(tmp_path / "log", {}))
    left = {failure.cell: failure.error for failure in read_failures(experiment.runs_folder)}
    assert left == {names[2]: "ValueError: seed 2 is bad", names[1]: "once more"}


def test_the_best_cell_of_a_running_sweep_is_that_of_validation(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    experiment = make_experiment(tmp_path, {"trainer.seed": [1]})
    run_sweep(experiment, trainer=ApartTrainer(tmp_path / "log", {}))
    assert "shapes_reward val srcc_within 0.900 [0.800, 1.000]" in capsys.readouterr().err


def test_the_summary_counts_cells_in_smaller_batches() -> None:
    assert "1 of the trained ones in smaller batches" in SweepSummary(done=("a", "b"), reduced=("b",)).text
    assert "batches" not in SweepSummary(done=("a", "b")).text


def test_a_damaged_list_of_failures_is_written_anew(tmp_path: Path) -> None:
    experiment = make_experiment(tmp_path)
    experiment.runs_folder.mkdir(parents=True)
    (experiment.runs_folder / "failures.json").write_text("[{")
    run_sweep(experiment, trainer=FakeTrainer(tmp_path / "log", {}))
    assert json.loads((experiment.runs_folder / "failures.json").read_text()) == []


@pytest.mark.parametrize("key", ["data.residency", "cache.root", "trainer.accelerator", "engine.name", "workers"])
def test_an_axis_that_changes_no_result_is_refused(key: str) -> None:
    with pytest.raises(SweepError, match=f"'{key}' gives one result many times"):
        cells(make_experiment(Path("nowhere"), {key: [1, 2]}))
