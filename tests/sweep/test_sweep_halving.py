"""Successive halving over cells, and cells that another experiment has finished."""

from __future__ import annotations

import dataclasses
import json
import math
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from sweep_world import FakeTrainer, make_experiment, trained

from probe_lab.config import Halving
from probe_lab.errors import SweepError
from probe_lab.sweep import cells, run_sweep
from probe_lab.sweep.halving import Rungs, rungs_of

ROOT = Path("nowhere")


def rungs(count: int, **halving: object) -> tuple[Rungs, list[str]]:
    found = cells(make_experiment(ROOT, {"trainer.seed": list(range(count))}))
    return Rungs(Halving(**halving), found), [cell.name for cell in found]  # type: ignore[arg-type]


@given(
    values=st.lists(st.floats(-1, 1) | st.just(math.nan), min_size=1, max_size=20),
    first=st.integers(1, 3),
    factor=st.integers(2, 4),
)
def test_the_best_share_of_those_that_came_goes_on(values: list[float], first: int, factor: int) -> None:
    judge, names = rungs(len(values), first=first, factor=factor)
    for index, (name, value) in enumerate(zip(names, values, strict=True)):
        better = sum(other > value or math.isnan(value) for other in values[:index] if not math.isnan(other))
        expected = not math.isnan(value) and better < math.ceil((index + 1) / factor)
        assert judge.goes_on(name, first, value) is expected
        assert all(judge.goes_on(name, epoch, value) for epoch in range(1, first))  # not a rung


def test_rungs_are_a_factor_apart() -> None:
    judge, names = rungs(2, first=2, factor=3)
    for epoch in range(1, 20):
        judge.goes_on(names[0], epoch, 1.0)
    assert [epoch for epoch in range(1, 20) if not judge.goes_on(names[1], epoch, 0.0)] == [2, 6, 18]


def test_only_equals_compete() -> None:
    experiment = make_experiment(ROOT, {"probe.step": [1, 5]})
    early, late = cells(experiment)
    together = Rungs(Halving(first=1), (early, late))
    apart = Rungs(Halving(first=1, by=["probe.step"]), (early, late))
    for judge in (together, apart):
        assert judge.goes_on(late.name, 1, 0.9)
    assert not together.goes_on(early.name, 1, 0.1)
    assert apart.goes_on(early.name, 1, 0.1)
    with pytest.raises(SweepError, match=r"'halving.by' names 'probe.stp'.*probe.step"):
        Rungs(Halving(first=1, by=["probe.stp"]), (early, late))


def test_a_sweep_stops_the_laggards_and_a_later_one_without_halving_trains_them(tmp_path: Path) -> None:
    halving = {"halving": {"first": 1, "factor": 3}, "workers": 1}
    experiment = make_experiment(tmp_path, {"trainer.seed": [3, 2, 1, 0]}, **halving)
    trainer = FakeTrainer(tmp_path / "log", {})
    summary = run_sweep(experiment, trainer=trainer)
    by_seed = {cell.experiment.trainer.seed: cell.name for cell in cells(experiment)}
    assert set(summary.stopped) == {by_seed[2], by_seed[1], by_seed[0]}
    assert "3 of the trained ones stopped early by halving" in summary.text
    metrics = json.loads((experiment.runs_folder / by_seed[1] / "metrics.json").read_text())
    assert metrics["stopped"] == {"by": "halving", "epochs": 1}
    assert len(trained(tmp_path / "log")) == 4
    assert run_sweep(experiment, trainer=trainer).done == ()  # with halving they are finished

    whole = dataclasses.replace(experiment, halving=Halving())
    assert set(run_sweep(whole, trainer=trainer).done) == set(summary.stopped)
    assert run_sweep(whole, trainer=trainer).done == ()


def test_a_cell_of_another_experiment_is_copied_unless_it_was_stopped(tmp_path: Path) -> None:
    trainer = FakeTrainer(tmp_path / "log", {})
    cache = {"root": str(tmp_path / "data_cache"), "name": "shared"}
    halving = {"halving": {"first": 1}, "workers": 1}
    first = make_experiment(tmp_path, {"trainer.seed": [3, 0]}, name="one", cache=cache, **halving)
    run_sweep(first, trainer=trainer)
    second = make_experiment(tmp_path, {"trainer.seed": [3, 0, 4]}, name="two", cache=cache)
    summary = run_sweep(second, trainer=trainer)
    by_seed = {cell.experiment.trainer.seed: cell.name for cell in cells(second)}
    assert summary.adopted == (by_seed[3],)
    assert set(summary.done) == {by_seed[0], by_seed[4]}
    assert (second.runs_folder / by_seed[3] / "metrics.json").read_bytes() == (
        first.runs_folder / by_seed[3] / "metrics.json"
    ).read_bytes()
    assert not (second.runs_folder / ".partial").exists()


def test_a_worker_that_dies_over_a_stopped_cell_has_not_finished_it(tmp_path: Path) -> None:
    experiment = make_experiment(tmp_path, {"trainer.seed": [3, 0]}, halving={"first": 1}, workers=1)
    run_sweep(experiment, trainer=FakeTrainer(tmp_path / "log", {}))
    whole = dataclasses.replace(experiment, halving=Halving())
    summary = run_sweep(whole, trainer=FakeTrainer(tmp_path / "log", {0: "kill"}))
    by_seed = {cell.experiment.trainer.seed: cell.name for cell in cells(experiment)}
    assert [failure.cell for failure in summary.failed] == [by_seed[0]]
    assert summary.done == ()


def test_cells_of_other_images_do_not_compete() -> None:
    first, second = (
        cells(make_experiment(ROOT, None, cache={"root": "nowhere", "name": name}))[0] for name in ("one", "two")
    )
    judge = Rungs(Halving(first=1), (first, second))
    assert judge.goes_on(first.name, 1, 0.9)
    assert judge.goes_on(second.name, 1, 0.1)


def test_a_cell_that_is_tried_again_counts_once() -> None:
    judge, names = rungs(3, first=1, factor=2)
    for value in (0.5, 0.6):  # with smaller batches, after memory ran out
        judge.goes_on(names[0], 1, value)
    assert not judge.goes_on(names[1], 1, 0.55)
    assert judge.goes_on(names[2], 1, 0.58)  # the second best of three


def test_what_was_trained_before_still_competes(tmp_path: Path) -> None:
    halving = {"halving": {"first": 1, "factor": 2}, "workers": 1}
    trainer = FakeTrainer(tmp_path / "log", {})
    first = make_experiment(tmp_path, {"trainer.seed": [9]}, **halving)
    run_sweep(first, trainer=trainer)
    more = make_experiment(tmp_path, {"trainer.seed": [9, 0]}, **halving)
    name = cells(first)[0].name
    metrics = json.loads((first.runs_folder / name / "metrics.json").read_text())
    assert [epoch["val_srcc_within"] for epoch in metrics["history"]] == [0.0, 0.1, 0.2]
    judge = rungs_of(Halving(first=2, factor=2), cells(more), more.runs_folder)
    assert judge is not None
    other = next(cell.name for cell in cells(more) if cell.name != name)
    assert not judge.goes_on(other, 2, 0.05)
    assert judge.goes_on(other, 2, 0.15)
    again = rungs_of(Halving(first=2, factor=2), cells(more), more.runs_folder, but={name})
    assert again is not None
    assert again.goes_on(other, 2, 0.05)  # what is trained again competes by its new values


def test_a_whole_cell_takes_the_place_of_a_stopped_one_and_only_of_its_own_cache(tmp_path: Path) -> None:
    trainer = FakeTrainer(tmp_path / "log", {})
    cache = {"root": str(tmp_path / "data_cache"), "name": "shared"}
    sweep = {"trainer.seed": [3, 0]}
    stopped = make_experiment(tmp_path, sweep, name="one", cache=cache, halving={"first": 1}, workers=1)
    run_sweep(stopped, trainer=trainer)
    run_sweep(make_experiment(tmp_path, sweep, name="two", cache=cache), trainer=trainer)
    summary = run_sweep(dataclasses.replace(stopped, halving=Halving()), trainer=trainer)
    assert len(summary.adopted) == 1
    assert summary.done == ()
    elsewhere = make_experiment(tmp_path, sweep, name="three", cache=cache | {"root": str(tmp_path / "other")})
    assert run_sweep(elsewhere, trainer=trainer).adopted == ()


def test_what_a_neighbour_has_damaged_is_none_of_our_business(tmp_path: Path) -> None:
    trainer = FakeTrainer(tmp_path / "log", {})
    cache = {"root": str(tmp_path / "data_cache"), "name": "shared"}
    first = make_experiment(tmp_path, None, name="one", cache=cache)
    run_sweep(first, trainer=trainer)
    (first.runs_folder / cells(first)[0].name / "metrics.json").write_text("{")
    second = make_experiment(tmp_path, None, name="two", cache=cache)
    assert len(run_sweep(second, trainer=trainer).done) == 1
