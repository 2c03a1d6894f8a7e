"""Generate, score and sweep on Ray: the same files as in local processes."""

from __future__ import annotations

import shutil
from dataclasses import replace
from itertools import pairwise
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from probe_lab.cache import Cache, verify
from probe_lab.config import Engine, Experiment, load_experiment
from probe_lab.engines import Cluster
from probe_lab.errors import CacheError, ConfigError
from probe_lab.evaluators.scoring_run import score_cache
from probe_lab.generation.generate import generate
from probe_lab.sweep import ProbeTrainer, cells
from probe_lab.sweep.cell_pool import cell_outcomes

RAY = Engine(name="ray", cpus=0.5)
EVALUATORS = ["shapes_reward", "shapes_clip_score", "shapes_binding"]
ON_RAY = ["engine.name=ray", "engine.cpus=0.5"]


def experiment_in(folder: Path, *changes: str) -> Experiment:
    return load_experiment(
        "smoke",
        [
            f"cache.root={folder}",
            f"runs={folder}/runs",
            "prompts.count=16",
            "prompts.seeds=3",
            "sampling.steps=4",
            "sampling.height=32",
            "sampling.width=32",
            "sampling.batch_size=6",
            "capture.steps=[2,4]",
            "cache.shard_size=12",
            "probe.step=2",
            "workers=2",
            "trainer.max_epochs=2",
            *changes,
        ],
    )


def run(experiment: Experiment) -> list[int]:
    progress: list[int] = []
    generate(experiment, lambda done, total: progress.append(done), lambda plan: None)
    return progress


def files_of(folder: Path) -> dict[str, bytes]:
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


@pytest.fixture(scope="module")
def local(tmp_path_factory: pytest.TempPathFactory) -> Experiment:
    """A cache filled and scored by local processes."""
    experiment = experiment_in(tmp_path_factory.mktemp("local"))
    run(experiment)
    score_cache(experiment.cache_folder, EVALUATORS, workers=1)
    return experiment


def test_generation_fills_the_same_cache(local: Experiment, cluster: Cluster, tmp_path: Path) -> None:
    experiment = experiment_in(tmp_path, *ON_RAY)
    progress = run(experiment)
    assert progress[0] == 0
    assert progress[-1] == 48
    assert all(after - before == 6 for before, after in pairwise(progress))
    wanted = {name: data for name, data in files_of(local.cache_folder).items() if not name.startswith("scores")}
    assert files_of(experiment.cache_folder) == wanted
    assert run(experiment) == [48]


def test_an_error_of_generation_is_raised_as_it_is(cluster: Cluster, tmp_path: Path) -> None:
    experiment = experiment_in(tmp_path, *ON_RAY, "cache.dtype=float16", "workers=1")
    with pytest.raises(CacheError, match=r"NaN or infinity|overflows"):  # of a guidance that no file may ask for
        run(replace(experiment, sampling=replace(experiment.sampling, guidance=1e10)))
    with pytest.raises(ConfigError, match=r"'sampling\.device' is cuda and 'engine\.gpus' is 0"):
        run(experiment_in(tmp_path / "other", *ON_RAY, "sampling.device=cuda"))


def test_scores_are_the_same(local: Experiment, cluster: Cluster, tmp_path: Path) -> None:
    folder = tmp_path / local.cache_folder.name
    shutil.copytree(local.cache_folder, folder, ignore=shutil.ignore_patterns("scores"))
    progress: list[tuple[int, int]] = []
    summary = score_cache(
        folder, EVALUATORS, workers=2, engine=RAY, on_progress=lambda done, total: progress.append((done, total))
    )
    assert sorted(summary.scored) == sorted(EVALUATORS)
    assert progress[0] == (0, 48)
    assert progress[-1] == (48, 48)
    here, there = Cache(folder), Cache(local.cache_folder)
    for name in EVALUATORS:
        assert here.score_metadata(name) == there.score_metadata(name)
        if name == "shapes_clip_score":  # other batches: a rounding may fall the other way
            np.testing.assert_allclose(here.scores(name), there.scores(name), rtol=1e-5)
        else:
            np.testing.assert_array_equal(here.scores(name), there.scores(name))
    assert verify(folder) == []


def test_predictions_are_the_same(local: Experiment, cluster: Cluster) -> None:
    wanted = [("cnn", "listwise"), ("linear", "listwise"), ("attention_entropy", "listwise")]
    plan = [
        cell
        for cell in cells(local)
        if (cell.experiment.probe.model, cell.experiment.probe.loss) in wanted and cell.experiment.probe.step == 2
    ]
    assert len(plan) >= 3
    folders = [local.runs_folder / "here", local.runs_folder / "there"]
    for folder in folders:
        folder.mkdir(parents=True)
    with cell_outcomes(plan, folders[0], engine=Engine(), workers=2, trainer=ProbeTrainer()) as outcomes:
        assert [outcome.error for outcome in outcomes] == [""] * len(plan)
    with cell_outcomes(plan, folders[1], engine=RAY, workers=2, trainer=ProbeTrainer()) as outcomes:
        assert [outcome.error for outcome in outcomes] == [""] * len(plan)
    for cell in plan:
        here, there = (pd.read_parquet(folder / cell.name / "predictions.parquet") for folder in folders)
        pd.testing.assert_frame_equal(here, there, check_exact=True)
        assert files_of(folders[0] / cell.name).keys() == files_of(folders[1] / cell.name).keys()
    assert {path.name for path in folders[1].iterdir() if not path.name.startswith(".")} == {c.name for c in plan}
