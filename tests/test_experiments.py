"""Every experiment file of the repository runs: all its stages, with one fast step of each."""

from __future__ import annotations

from pathlib import Path

import pytest

from probe_lab.capture.generate import generate
from probe_lab.config import EXPERIMENTS, Experiment, load_experiment
from probe_lab.evaluators.run import score_cache
from probe_lab.report import build_report
from probe_lab.sweep import cells, run_sweep

FILES = sorted(EXPERIMENTS.rglob("*.yaml"))


@pytest.mark.parametrize("path", FILES, ids=lambda path: path.stem)
def test_an_experiment_runs(path: Path, tmp_path: Path) -> None:
    whole = load_experiment(path)
    first = cells(whole)[0].experiment.probe
    steps = sorted({1, first.step})
    experiment: Experiment = load_experiment(
        path,
        [
            "prompts.count=24",
            "prompts.seeds=2",
            f"sampling.steps={max(steps)}",
            f"capture.steps={steps}",
            "cache.shard_size=48",
            f"cache.root={tmp_path}/cache",
            "data.split={train: 0.4, val: 0.3, test: 0.3}",
            f"probe.step={first.step}",
            "trainer.max_epochs=1",
            "trainer.seed=0",
            f"sweep={{probe.taps: [{first.taps[0]}]}}",
            "tracking.uri=",
            "workers=1",
            f"runs={tmp_path}/runs",
            f"reports={tmp_path}/reports",
        ],
    )
    generate(experiment, lambda done, total: None, lambda plan: None)
    score_cache(experiment.cache_folder, experiment.evaluators)
    summary = run_sweep(experiment)
    assert len(summary.done) == 1
    assert not summary.failed
    page = build_report(
        runs=experiment.runs_folder,
        cache=experiment.cache_folder,
        out=experiment.report_folder,
        title=experiment.name,
        evaluators=experiment.evaluators,
    )
    assert page.exists()


@pytest.mark.parametrize("path", FILES, ids=lambda path: path.stem)
def test_the_whole_sweep_of_an_experiment_can_be_laid_out(path: Path) -> None:
    experiment = load_experiment(path)
    plan = cells(experiment)
    assert len({cell.name for cell in plan}) == len(plan) > 0
    for cell in plan:
        assert cell.experiment.probe.step in experiment.capture.steps
        assert set(cell.experiment.probe.taps) <= set(experiment.capture.taps)
