"""Every experiment file of the repository runs: all its stages, with one fast step of each.

Those of the papers, whose models are too large for that, are laid out and planned.
"""

from __future__ import annotations

from pathlib import Path

import pytest
import yaml

from probe_lab.capture.architectures import Weightless, absent
from probe_lab.capture.backbones import located
from probe_lab.capture.generate import generate
from probe_lab.capture.paper_runs import row
from probe_lab.config import EXPERIMENTS, Experiment, load_experiment
from probe_lab.evaluators.run import score_cache
from probe_lab.report import build_report
from probe_lab.report.paper import PUBLISHED
from probe_lab.sweep import cells, run_sweep

PAPER = sorted((EXPERIMENTS / "paper").glob("*.yaml"))
FILES = sorted(set(EXPERIMENTS.rglob("*.yaml")) - set(PAPER))
PAGE = Path("docs/paper_runs.md")


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


@pytest.mark.parametrize("path", [*FILES, *PAPER], ids=lambda path: path.stem)
def test_the_whole_sweep_of_an_experiment_can_be_laid_out(path: Path) -> None:
    experiment = load_experiment(path)
    plan = cells(experiment)
    assert len({cell.name for cell in plan}) == len(plan) > 0
    for cell in plan:
        assert cell.experiment.probe.step in experiment.capture.steps
        assert set(cell.experiment.probe.taps) <= set(experiment.capture.taps)


@pytest.mark.parametrize("path", PAPER, ids=lambda path: path.stem)
def test_an_experiment_of_a_paper_reads_what_the_paper_reads(path: Path) -> None:
    experiment = load_experiment(path)
    architecture, (family, _) = absent(experiment.backbone), located(experiment.backbone)
    assert architecture is not None
    kind = "attention" if path.stem.startswith("diffusion_probe") else "activation"
    read = [str(tap) for tap in family.paper_taps(Weightless(architecture, family).pipe) if tap.kind == kind]
    assert experiment.capture.taps == experiment.probe.taps == read
    assert experiment.probe.step == 0.2 * experiment.sampling.steps
    published = yaml.safe_load(PUBLISHED.read_text(encoding="utf-8"))
    if kind == "attention":
        assert experiment.capture.steps == sorted({line["step"] for line in published["diffusion_probe"]["prediction"]})
        assert experiment.evaluators == ["image_reward"]
    else:
        assert experiment.capture.steps == [experiment.probe.step]
        assert set(experiment.evaluators) == published["probe_select"]["spearman_t02"][0].keys() - {"model"}


@pytest.mark.parametrize("path", PAPER, ids=lambda path: path.stem)
def test_the_page_of_the_papers_runs_shows_what_plan_computes(path: Path) -> None:
    written = next(line for line in PAGE.read_text(encoding="utf-8").splitlines() if f"`{path.stem}`" in line)
    name, model, *figures = row(path.stem)
    cells_of_page = [cell.strip() for cell in written.strip("| ").split("|")]
    assert cells_of_page[:2] == [name, model]
    # Another version of diffusers may count a few operations more or less.
    assert [_number(cell) for cell in cells_of_page[2:]] == pytest.approx([_number(cell) for cell in figures], rel=0.02)


def _number(cell: str) -> float:
    return float(cell.split()[0].replace(",", ""))
