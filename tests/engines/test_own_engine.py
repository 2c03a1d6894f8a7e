"""An engine from outside the package generates, scores and sweeps as ours do."""

from __future__ import annotations

import os
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from sweep_world import FakeTrainer, make_experiment
from test_verbs import experiment_in, files_of, run

from probe_lab.cache import Cache
from probe_lab.config import Engine, Halving, load_experiment
from probe_lab.errors import ConfigError
from probe_lab.evaluators.scoring_run import score_cache
from probe_lab.runs import Runs
from probe_lab.sweep import cells, run_sweep
from probe_lab.sweep.cell_pool import cell_outcomes
from probe_lab.sweep.halving import Rungs

OWN = "engine.name=my_engine:HERE"
SMALL = [
    "tracking.uri=",
    "evaluators=[shapes_reward,shapes_clip_score]",
    "sweep=[{probe.model: [linear, attention_entropy]}]",
]


def test_an_engine_of_ones_own_generates_scores_and_sweeps_as_ours(tmp_path: Path) -> None:
    ours, own = experiment_in(tmp_path / "ours", *SMALL), experiment_in(tmp_path / "own", *SMALL, OWN)
    assert run(ours)[-1] == run(own)[-1] == 48
    assert files_of(own.cache_folder) == files_of(ours.cache_folder)

    for experiment in (ours, own):
        score_cache(
            experiment.cache_folder, ["shapes_reward", "shapes_clip_score"], workers=2, engine=experiment.engine
        )
    for name in ("shapes_reward", "shapes_clip_score"):  # other batches: a rounding may fall the other way
        scores = [Cache(experiment.cache_folder).scores(name) for experiment in (ours, own)]
        np.testing.assert_allclose(*scores, rtol=1e-5)

    done = [run_sweep(experiment).done for experiment in (ours, own)]
    assert sorted(done[0]) == sorted(done[1])
    assert len(done[0]) == 2
    for name in done[0]:
        tables = [pd.read_parquet(each.runs_folder / name / "predictions.parquet") for each in (ours, own)]
        pd.testing.assert_frame_equal(*tables, rtol=1e-4)
    assert {cell.name for cell in Runs(own.runs_folder).cells(done[1])} == set(done[1])


def test_its_cells_are_halved_in_one_place(tmp_path: Path) -> None:
    plan = cells(make_experiment(tmp_path, {"trainer.seed": [5, 4, 3, 6]}))
    stopped = {}
    for name in ("local", "my_engine:HERE"):
        folder = tmp_path / name
        folder.mkdir()
        rungs, trainer = Rungs(Halving(first=1, factor=2), plan), FakeTrainer(tmp_path / f"{name}.log", {})
        with cell_outcomes(plan, folder, engine=Engine(name=name), workers=1, trainer=trainer, rungs=rungs) as outcomes:
            assert [outcome.error for outcome in outcomes] == [""] * 4
        stopped[name] = [cell.name for cell in Runs(folder).cells([cell.name for cell in plan]) if cell.halved]
    assert stopped["local"] == stopped["my_engine:HERE"]
    assert 0 < len(stopped["local"]) < 4
    assert {line.split()[0] for line in (tmp_path / "my_engine:HERE.log").read_text().splitlines()} == {
        str(os.getpid())
    }


@pytest.mark.parametrize(
    ("name", "told"),
    [
        ("rey", "'engine.name' is not valid: there is no engine 'rey': did you mean 'ray'.*or write module:attribute"),
        ("my_engine:HERRE", "'my_engine' has no 'HERRE': did you mean 'HERE'"),
        ("my_engine:HerePool", "the engine 'my_engine:HerePool' is a HerePool: name an instance of EngineKind"),
    ],
)
def test_what_names_no_engine_is_refused_when_it_is_read(name: str, told: str) -> None:
    with pytest.raises(ConfigError, match=told):
        load_experiment("smoke", [f"engine.name={name}"])


def test_only_an_engine_that_has_one_is_given_an_address() -> None:
    with pytest.raises(ConfigError, match=r"'engine.address' is 'auto' and only engine.name=ray has one"):
        load_experiment("smoke", ["engine.address=auto"])
