"""Every experiment file of the repository runs: all its stages, with one fast step of each.

Those on the papers' own models, which are too large for that, are laid out and planned. Those of a paper's table or
figure share one world, and are swept and rendered by the commands that they are for.
"""

from __future__ import annotations

import functools
import re
from collections import Counter
from pathlib import Path

import pytest
import yaml
from typer.testing import CliRunner

from probe_lab.backbones.architectures import Weightless, absent
from probe_lab.backbones.families import located
from probe_lab.cli import app
from probe_lab.config import EXPERIMENTS, Experiment, load_experiment
from probe_lab.config.schema import EXHIBITS
from probe_lab.evaluators.scoring_run import score_cache
from probe_lab.generation.generate import generate
from probe_lab.losses import TERMS
from probe_lab.metrics.power import assumed, power_of
from probe_lab.report import build_report
from probe_lab.report.sections.paper import PUBLISHED
from probe_lab.selection.budget import calls_of
from probe_lab.sweep import Cell, cells, run_sweep
from probe_lab.verbs import score_images, train_judges
from tools.paper_runs import row

EXHIBITED = sorted(path for path in (EXPERIMENTS / "paper").glob("*.yaml") if path.stem in EXHIBITS)
PREREGISTERED = sorted((EXPERIMENTS / "paper").glob("preregistered_*.yaml"))
PAPER = sorted(set((EXPERIMENTS / "paper").glob("*.yaml")) - set(EXHIBITED) - set(PREREGISTERED))
FILES = sorted(set(EXPERIMENTS.rglob("*.yaml")) - set(PAPER) - set(EXHIBITED) - set(PREREGISTERED))
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
            "sampling.height=32",
            "sampling.width=32",
            f"sampling.steps={max(steps)}",
            f"capture.steps={steps}",
            "cache.shard_size=48",
            f"cache.root={tmp_path}/cache",
            "data.split={train: 0.4, val: 0.3, test: 0.3}",
            f"probe.step={first.step}",
            f"probe.judge={str(first.judge).lower()}",
            f"labels.steps={[first.step] if first.judge else []}",
            f"labels.captions={2 if first.judge else 0}",
            "judge.steps=[]",
            "judge.batches=2",
            "judge.pictures=4",
            "trainer.max_epochs=1",
            "trainer.seed=0",
            f"sweep={{probe.taps: [{'x0' if first.judge else first.taps[0]}]}}",
            "tracking.uri=",
            "workers=1",
            f"runs={tmp_path}/runs",
            f"reports={tmp_path}/reports",
        ],
    )
    generate(experiment, lambda done, total: None, lambda plan: None)
    score_images(experiment)
    if first.judge:
        train_judges(experiment)
    summary = run_sweep(experiment)
    assert len(summary.done) == 1
    assert not summary.failed
    page = build_report(
        runs=experiment.runs_folder,
        cache=experiment.cache_folder,
        out=experiment.report_folder,
        title=experiment.name,
        evaluators=experiment.evaluators[:2],  # every further one has the same figures again
    )
    assert page.exists()


@pytest.mark.parametrize("path", [*FILES, *EXHIBITED, *PAPER], ids=lambda path: path.stem)
def test_the_whole_sweep_of_an_experiment_can_be_laid_out(path: Path) -> None:
    experiment = load_experiment(path)
    assert experiment.name == path.stem
    plan = cells(experiment)
    assert len({cell.name for cell in plan}) == len(plan) > 0
    for cell in plan:
        filled = _filling(cell.experiment, experiment)
        assert cell.experiment.probe.step in filled.capture.steps
        assert set(cell.experiment.probe.taps) <= set(filled.capture.taps)


def _filling(cell: Experiment, experiment: Experiment) -> Experiment:
    """The experiment that generates the cache which a cell reads: its own, or the one of the cache's name."""
    name = cell.cache_folder.name
    if name == experiment.name:
        return experiment
    filling = _named(name)
    for section in ("seed", "backbone", "prompts", "sampling"):
        assert getattr(cell, section) == getattr(filling, section), section
    return filling


@functools.cache
def _named(name: str) -> Experiment:
    """Cells by the dozen read the same cache."""
    return load_experiment(name)


def test_the_loss_study_crosses_losses_backbones_and_training_seeds() -> None:
    found = {
        (cell.experiment.probe.loss, cell.experiment.backbone.name, cell.experiment.trainer.seed)
        for cell in cells(load_experiment("loss_study"))
    }
    losses = [*sorted(set(TERMS) - {"infonce"}), "listwise+infonce", "mse+listwise"]
    backbones = ("tiny-sd", "tiny-sd3")
    assert found == {(loss, backbone, seed) for loss in losses for backbone in backbones for seed in range(3)}


def test_every_exhibit_has_its_file() -> None:
    assert {path.stem for path in EXHIBITED} == set(EXHIBITS)


@pytest.mark.parametrize("path", EXHIBITED, ids=lambda path: path.stem)
def test_an_exhibit_is_of_the_world_of_shapes_full(path: Path) -> None:
    experiment, whole = load_experiment(path), load_experiment("shapes_full")
    assert experiment.paper.exhibit == experiment.name == path.stem
    for section in ("seed", "backbone", "prompts", "sampling", "capture", "evaluators", "data", "trainer"):
        assert getattr(experiment, section) == getattr(whole, section), section
    assert experiment.cache_folder == whole.cache_folder
    plan, known = cells(experiment), {cell.name for cell in cells(whole)}
    assert len(plan) <= 12
    if path.stem in ("ps_table_losses", "probe_select_released"):  # ours stand beside the paper's
        assert known & {cell.name for cell in plan}  # what the whole study has trained is found again


@pytest.mark.parametrize("path", EXHIBITED, ids=lambda path: path.stem)
def test_an_exhibit_trains_what_its_paper_trained(path: Path) -> None:
    experiment = load_experiment(path)
    trained = [cell.experiment.probe for cell in cells(experiment)]
    if path.stem.startswith("dp_"):
        assert {(probe.loss, probe.oversample > 0) for probe in trained} == {("mse", True)}
    elif path.stem == "probe_select_released":
        (steps,) = {tuple(probe.steps) for probe in trained if probe.steps}
        released = [probe for probe in trained if probe.steps]
        assert [probe.step for probe in released] == list(steps)
        schedules = {(p.temperature, p.margin, p.nce_temperature, p.nce_temperature_ratio) for p in released}
        assert schedules == {(1.0, 0.1, 0.1, 10.0)}
        assert {(p.alignment, p.correlation, p.ema, p.ema_warmup, p.dropout) for p in released} == {
            (10.0, 10.0, 0.999, False, 0.5)
        }
        assert {(p.loss, p.within_prompt, p.head, p.nce_negatives) for p in released} == {
            ("listwise+infonce+pearson", False, "text", "all")
        }
    else:
        assert experiment.probe.loss == "listwise+infonce"
        assert experiment.probe.alignment == 10.0
        if path.stem != "ps_table_losses":
            assert {probe.loss for probe in trained} == {"listwise+infonce"}


@pytest.fixture(scope="module")
def small_world(tmp_path_factory: pytest.TempPathFactory) -> list[str]:
    """Overrides that make a world in miniature of the exhibits' own, generated and scored."""
    folder = tmp_path_factory.mktemp("exhibits")
    overrides = [
        "prompts.count=24",
        "prompts.seeds=3",
        "sampling.steps=15",
        "sampling.height=32",
        "sampling.width=32",
        "cache.shard_size=72",
        f"cache.root={folder}/cache",
        "data.split={train: 0.4, val: 0.3, test: 0.3}",
        "trainer.max_epochs=1",
        "tracking.uri=",
        "workers=1",
        f"runs={folder}/runs",
        f"reports={folder}/reports",
    ]
    experiment = load_experiment(EXHIBITED[0], overrides)
    generate(experiment, lambda done, total: None, lambda plan: None)
    score_cache(experiment.cache_folder, experiment.evaluators)
    return overrides


@pytest.mark.parametrize("path", EXHIBITED, ids=lambda path: path.stem)
def test_an_exhibit_is_swept_and_rendered(path: Path, small_world: list[str]) -> None:
    """Cells that an earlier exhibit has trained are taken over."""
    for verb in ("sweep", "report"):
        result = CliRunner().invoke(app, [verb, f"paper/{path.stem}", *small_world])
        assert result.exit_code == 0, result.output
    experiment = load_experiment(path, small_world)
    assert (experiment.report_folder / "index.html").exists()
    assert {cell.name for cell in cells(experiment)} <= {found.name for found in experiment.runs_folder.iterdir()}


def test_an_exhibit_of_another_experiment_leaves_its_report_alone() -> None:
    experiment = load_experiment("paper/diffusion_probe_sdxl", ["paper.exhibit=dp_table_prediction"])
    assert experiment.report_folder == Path("reports/diffusion_probe_sdxl_dp_table_prediction")
    assert experiment.runs_folder == Path("runs/diffusion_probe_sdxl")


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


@pytest.mark.parametrize("path", PREREGISTERED, ids=lambda path: path.stem)
def test_a_preregistered_experiment_is_what_its_header_says(path: Path) -> None:
    experiment, header = load_experiment(path), path.read_text(encoding="utf-8").partition("\nname:")[0]
    models = Counter(cell.experiment.probe.model for cell in cells(experiment))
    assert {"prompt_only", "linear", "x0_preview", "tiny_preview", "shuffled_labels"} <= models.keys()
    probe, released = (
        [cell for cell in cells(experiment) if cell.experiment.probe.loss == loss and _is_main(cell, experiment)]
        for loss in ("listwise", "listwise+infonce+pearson")
    )
    for trained in (probe, released):
        assert [cell.experiment.trainer.seed for cell in trained] == [0, 1, 2, 3]
    assert {"x0"} < set(experiment.probe.taps) <= set(experiment.capture.taps)
    tests = round(experiment.data.split.test * experiment.prompts.count)
    assert experiment.tradeoff.prompts == tests
    assert max(experiment.tradeoff.candidates) == experiment.prompts.seeds == 8
    stated = re.search(r"difference of\s+#?\s*(0\.\d+) in gain with (\d+) % power", header)
    assert stated is not None
    power = power_of(assumed("selection_gain", 8), float(stated[1]), tests, trainings=4)
    assert f"{power:.0%}" == f"{stated[2]}%"
    rival = r"equal denoiser calls: (\d+) candidates cut at step (\d+) take (\d+), as (\d+) images of (\d+) steps"
    for count, cut, calls, images, steps in re.findall(rival, re.sub(r"\n#\s+", " ", header)):
        whole = calls_of(((int(cut), 1),), int(count), experiment.sampling.steps)
        assert whole == int(calls) == int(images) * int(steps)
    assert "equal FLOPs" not in header, "`tradeoff` pairs ways by calls and seconds"
    line = next(line for line in PAGE.read_text(encoding="utf-8").splitlines() if f"`{path.stem}`" in line)
    hours = float(line.strip("| ").rpartition("|")[2])
    assert f"{hours:g} GPU-hours" in header


def _is_main(cell: Cell, experiment: Experiment) -> bool:
    own = cell.experiment
    return (own.probe.model, own.probe.step, own.data.train_prompts) == ("cnn", experiment.probe.step, 0)


@pytest.mark.parametrize("path", [*PAPER, *PREREGISTERED], ids=lambda path: path.stem)
def test_the_page_of_the_papers_runs_shows_what_plan_computes(path: Path) -> None:
    written = next(line for line in PAGE.read_text(encoding="utf-8").splitlines() if f"`{path.stem}`" in line)
    name, model, *figures = row(path.stem)
    cells_of_page = [cell.strip() for cell in written.strip("| ").split("|")]
    assert cells_of_page[:2] == [name, model]
    # Another version of diffusers may count a few operations more or less.
    assert [_number(cell) for cell in cells_of_page[2:]] == pytest.approx([_number(cell) for cell in figures], rel=0.02)


def _number(cell: str) -> float:
    return float(cell.split()[0].replace(",", ""))
