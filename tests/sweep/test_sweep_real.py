"""Sweeps of real probes over a real, tiny cache."""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch
from real_world import PROMPTS, SEEDS
from torch import Tensor

from probe_lab.cache import Cache, write_scores
from probe_lab.cache.layout import sidecar_path
from probe_lab.config import Experiment, with_changes
from probe_lab.data import resident
from probe_lab.errors import CacheError, ConfigError, ScoreError
from probe_lab.sweep import ProbeTrainer, cells, compare, read_results, run_sweep
from probe_lab.sweep.plan import plan_sweep
from probe_lab.training.fit_cell import train_cell


def mean_scorer(experiment: Experiment) -> Callable[[Tensor, list[str], Sequence[str]], Tensor]:
    """A stand-in for decoding and scoring: the score is planted in the mean of x0."""

    def score(x0: Tensor, prompts: list[str], evaluators: Sequence[str]) -> Tensor:
        return x0.float().mean(dim=(1, 2, 3))[:, None].repeat(1, len(evaluators))

    return score


def test_a_sweep_of_every_model(experiment: Experiment, tmp_path: Path, root: Path) -> None:
    plan = cells(experiment)
    summary = run_sweep(experiment, preview_factory=mean_scorer)
    assert summary.failed == ()
    assert set(summary.done) == {cell.name for cell in plan}
    table = read_results(experiment.runs_folder)
    assert set(table["cell"]) == {cell.name for cell in plan}
    assert set(table["evaluator"]) == {"good", "other"}
    best = table[(table["metric"] == "srcc_within") & (table["evaluator"] == "good")].set_index("model")["estimate"]
    assert best["x0_preview"] == pytest.approx(1.0)
    assert best["linear"] > 0.5
    assert len(compare(experiment.runs_folder)) == len(plan)
    for cell in plan:
        files = {path.name for path in (experiment.runs_folder / cell.name).iterdir()}
        assert files >= {"config.yaml", "metrics.json", "predictions.parquet"}
    assert run_sweep(experiment).skipped == tuple(cell.name for cell in plan)

    # A cell of the sweep, over shared arrays in another process, is the cell that is trained alone.
    (cell,) = (c for c in plan if c.axes["probe.model"] == "cnn" and c.arrays == ("5/x0",))
    # Sums round differently on another number of threads, which training then amplifies: as many as a worker has.
    threads = torch.get_num_threads()
    torch.set_num_threads(max(1, (os.cpu_count() or 1) // experiment.workers))
    train_cell(cell.experiment, Cache(root / "data_cache" / "tiny"), tmp_path / cell.name)
    torch.set_num_threads(threads)
    alone, swept = (
        pd.read_parquet(folder / cell.name / "predictions.parquet") for folder in (tmp_path, experiment.runs_folder)
    )
    pd.testing.assert_frame_equal(alone, swept, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize(
    ("changes", "error", "text"),
    [
        ({"cache.name": "nowhere"}, CacheError, "nowhere"),
        ({"probe.step": 7}, CacheError, "step 7"),
        ({"probe.taps": ["mid/activatio"]}, CacheError, "mid/activation"),
        ({"evaluators": ["good", "goood"]}, ScoreError, "goood"),
        (
            {"text.encoder": "clip_score", "probe.text": "pooled"},
            CacheError,
            r"no text of 'clip_score'.*probe-lab score",
        ),
        ({"text.encoder": "clip_score", "probe.text": "tokens", "probe.taps": ["up/attention"]}, ConfigError, "pooled"),
    ],
)
def test_what_the_cache_lacks_is_refused_before_any_work(
    experiment: Experiment, changes: dict[str, object], error: type[Exception], text: str
) -> None:
    with pytest.raises((error, ConfigError), match=text):
        run_sweep(with_changes(experiment, changes))
    assert not experiment.runs_folder.exists()


def test_arrays_too_large_for_all_workers_are_streamed_by_each(
    experiment: Experiment, root: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Looking at the memory again, a cell might find room for a copy of its own."""
    array = 4 * 8 * 8 * 4 * PROMPTS * SEEDS  # bytes of mid/activation
    monkeypatch.setattr(resident, "available_memory", lambda: 4 * array)  # a quarter of it is one copy

    def trained(name: str, workers: int, **changes: object) -> dict[str, object]:
        (cell,) = cells(with_changes(experiment, changes))
        trainer = ProbeTrainer()
        shared = trainer.load(cell, workers)
        assert (shared is not None) == (name == "alone")
        trainer.train(cell, tmp_path / name, shared, None)
        metrics: dict[str, object] = json.loads((tmp_path / name / "metrics.json").read_text())
        return metrics

    assert trained("alone", 1)["residency"] == "memory"
    beside = trained("beside", 2)
    assert beside["residency"] == "stream"
    assert beside["history"] == trained("streamed", 2, **{"data.residency": "stream"})["history"]
    # A cell without arrays has none to share.
    assert trained("prompts", 2, **{"probe.model": "prompt_only"})["residency"] == "memory"


def test_a_cell_is_trained_again_once_its_inputs_have_changed(
    experiment: Experiment, root: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    shutil.copytree(root / "data_cache", tmp_path / "data_cache")
    ours = replace(
        experiment,
        cache=replace(experiment.cache, root=str(tmp_path / "data_cache"), name="tiny"),
        sweep=({"probe.model": ("linear",), "probe.evaluators": (["good"], ["other"])},),
        workers=1,
    )
    theirs, cache = replace(ours, name="second"), Cache(ours.cache_folder)
    good, other = (cell.name for cell in cells(ours))
    run_sweep(ours)
    assert run_sweep(ours).skipped == (good, other)
    assert "again" not in capsys.readouterr().err

    scores = cache.folder / "scores" / "good.parquet"
    write_scores(cache.folder, "good", np.arange(PROMPTS * SEEDS), cache.scores("good") + 1, metadata={"version": "2"})
    told = f"1 finished cell is trained again, as the cache has changed since: {scores} has other scores"
    assert plan_sweep(ours).states == {good: "pending", other: "finished"}
    assert plan_sweep(ours).again == told
    assert plan_sweep(theirs).states == {good: "pending", other: "elsewhere"}
    # An earlier cell of other scores is no result any more.
    run_sweep(replace(ours, sweep=({"probe.model": ("linear",), "probe.evaluators": (["other"],)},)))
    assert set(read_results(ours.runs_folder)["cell"]) == {other}
    summary = run_sweep(ours)
    assert (summary.done, summary.skipped) == ((good,), (other,))
    assert set(read_results(ours.runs_folder)["cell"]) == {good, other}
    assert told in capsys.readouterr().err.splitlines()
    assert run_sweep(theirs).adopted == (good, other)

    sidecar_path(cache.folder, cache.shards[-1]).unlink()
    assert run_sweep(ours, dry_run=True).pending == (good, other)
    # Cells of earlier versions recorded nothing, and a cache that is gone trains nothing.
    path = ours.runs_folder / good / "metrics.json"
    later = ("inputs", "files", "digest")
    path.write_text(json.dumps({key: value for key, value in json.loads(path.read_text()).items() if key not in later}))
    assert run_sweep(ours, dry_run=True).pending == (other,)
    shutil.rmtree(cache.folder)
    assert run_sweep(ours, dry_run=True).pending == ()
