"""The ray engine of sweeps, with trainers that only write files."""

from __future__ import annotations

import json
from functools import partial
from pathlib import Path

from sweep_world import ACTIVATION, ATTENTION, FakeTrainer, make_experiment, trained

from probe_lab.config import Engine, Halving
from probe_lab.engines import Cluster
from probe_lab.sweep import Cell, Outcome, cells, is_finished
from probe_lab.sweep.cell_pool import cell_outcomes
from probe_lab.sweep.halving import Rungs

ENGINE = Engine(name="ray", cpus=0.5)


def train(plan: list[Cell], folder: Path, trainer: FakeTrainer, workers: int, rungs: Rungs | None = None) -> dict:
    folder.mkdir(parents=True)
    found: dict[str, Outcome] = {}
    with cell_outcomes(plan, folder, engine=ENGINE, workers=workers, trainer=trainer, rungs=rungs) as outcomes:
        for outcome in outcomes:
            assert outcome.cell not in found
            found[outcome.cell] = outcome
    assert set(found) == {cell.name for cell in plan}
    return found


def test_failing_cells_are_recorded_and_deadly_ones_given_up(cluster: Cluster, tmp_path: Path) -> None:
    plan = cells(make_experiment(tmp_path, {"trainer.seed": [0, 1, 2, 3], "probe.taps": [ATTENTION, ACTIVATION]}))
    trainer = FakeTrainer(tmp_path / "log", {1: "fail", 2: "kill"}, seconds=0.1)
    deadly = [cell for cell in plan if cell.experiment.trainer.seed == 2]
    plan = [cell for cell in plan if cell is not deadly[1]]  # one is enough: it costs three processes
    found = train(plan, folder := tmp_path / "runs", trainer, workers=2)
    for cell in plan:
        seed, outcome = cell.experiment.trainer.seed, found[cell.name]
        if seed == 1:
            assert outcome.error == "ValueError: seed 1 is bad"
            assert "in train" in outcome.trace
        elif seed == 2:
            assert outcome.error == "3 Ray workers died at it, the last because its process died"
        else:
            assert outcome.error == ""
        assert is_finished(folder / cell.name) == (outcome.error == "")
        assert not (folder / cell.name / "half.txt").exists() or outcome.error == ""
    names = trained(tmp_path / "log")
    assert names.count(deadly[0].name) == 3
    assert len(names) == len(plan) + 2


def test_cells_of_all_actors_are_judged_together(cluster: Cluster, tmp_path: Path) -> None:
    plan = cells(make_experiment(tmp_path, {"trainer.seed": [5, 4, 3, 6]}))
    judge = partial(Rungs, Halving(first=1, factor=2), plan)
    train(plan, folder := tmp_path / "runs", FakeTrainer(tmp_path / "log", {}), workers=1, rungs=judge())
    alone, stopped = judge(), []
    for cell in plan:
        goes_on = (alone.goes_on(cell.name, e, float(cell.experiment.trainer.seed)) for e in range(1, 9))
        stopped.append(next((e for e, on in enumerate(goes_on, start=1) if not on), 0))
    metrics = [json.loads((folder / cell.name / "metrics.json").read_text()) for cell in plan]
    assert [each.get("stopped", {}).get("epochs", 0) for each in metrics] == stopped
    assert len(set(stopped)) > 1


def test_a_cell_that_is_trained_again_is_not_judged_twice(tmp_path: Path) -> None:
    plan = cells(make_experiment(tmp_path, {"trainer.seed": [0, 1, 2, 3]}))
    judge, (a, b, c, d) = Rungs(Halving(first=1, factor=2), plan), [cell.name for cell in plan]
    assert judge.goes_on(a, 1, 1.0)
    assert not judge.goes_on(b, 1, 0.9)
    assert [judge.goes_on(c, 1, 0.1) for _ in range(4)] == [False] * 4
    assert judge.goes_on(a, 1, 1.0)
    assert not judge.goes_on(d, 1, 0.5)  # the third of four; of seven, four would go on
