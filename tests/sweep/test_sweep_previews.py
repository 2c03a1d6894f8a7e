"""``probe.scalars`` in configs and sweeps: what ``score`` is asked for, what is refused, and what keeps its name."""

from __future__ import annotations

import io
import shlex
import shutil
from pathlib import Path

import numpy as np
import pytest
from omegaconf import OmegaConf
from rich.console import Console

from probe_lab.cache import Cache, write_scores
from probe_lab.cache.layout import PreviewOf
from probe_lab.cache.scores import IMPORTED
from probe_lab.config import Experiment, load_experiment
from probe_lab.errors import CacheError, ConfigError, ScoreError
from probe_lab.sweep import cells, run_sweep
from probe_lab.sweep.needs import require_previews
from probe_lab.sweep.plan import plan_sweep
from probe_lab.sweep.plan_table import plan_listing
from probe_lab.sweep.preview_needs import asked_previews, baseline_previews

REWARD, BINDING = "preview:shapes_reward", "preview:shapes_binding"
SMALL = ["prompts.count=12", "prompts.seeds=3", "sampling.steps=4", "cache.shard_size=18", "data.batch_prompts=3"]
NONE = "sweep=[]"


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a small real cache of the steps 2 and 3, with scores and without previews."""
    from probe_lab.evaluators.scoring_run import score_cache
    from probe_lab.generation.generate import generate

    folder = tmp_path_factory.mktemp("previews")
    experiment = asking(folder, NONE)
    generate(experiment, lambda done, total: None, lambda plan: None)
    score_cache(experiment.cache_folder, experiment.evaluators)
    return folder


def asking(folder: Path, *overrides: str) -> Experiment:
    places = [f"cache.root={folder}", f"runs={folder}/runs", "tracking.uri=", "workers=1", "capture.steps=[2,3]"]
    return load_experiment("smoke", [*places, *SMALL, *overrides])


def test_names_of_cells_without_scalars_stay(tmp_path: Path) -> None:
    plain, reading = asking(tmp_path, NONE), asking(tmp_path, NONE, f"probe.scalars=[{REWARD}]")
    assert cells(plain)[0].name != cells(reading)[0].name
    old = OmegaConf.to_container(OmegaConf.create(plain.to_yaml()))
    assert isinstance(old, dict)
    assert old["probe"]["scalars"] == []  # type: ignore[index]
    setting = "scoring.models={shapes_reward: {checkpoint: other}}"
    assert cells(asking(tmp_path, NONE, setting, "probe.evaluators=[shapes_binding]"))[0].name == (
        cells(asking(tmp_path, NONE, "probe.evaluators=[shapes_binding]"))[0].name
    )
    previewing = [NONE, "probe.evaluators=[shapes_binding]", f"probe.scalars=[{REWARD}]"]
    assert cells(asking(tmp_path, *previewing, setting))[0].name != cells(asking(tmp_path, *previewing))[0].name


@pytest.mark.parametrize(
    ("scalars", "words"),
    [
        ("[shapes_reward]", "names 'shapes_reward': write preview:EVALUATOR"),
        ("['preview:']", "names 'preview:': write"),
        (f"[{REWARD},{REWARD}]", "twice"),
    ],
)
def test_impossible_scalars_are_refused(tmp_path: Path, scalars: str, words: str) -> None:
    with pytest.raises(ConfigError, match=words):
        asking(tmp_path, f"probe.scalars={scalars}")


def test_models_without_scalars(tmp_path: Path) -> None:
    """Alone they are refused; in a sweep, what they do not read makes no second cell."""
    with pytest.raises(ConfigError, match=r"'probe.model' x0_preview: only cnn and linear read scalars"):
        cells(asking(tmp_path, NONE, "probe.model=x0_preview", f"probe.scalars=[{REWARD}]"))
    models = "[cnn, linear, x0_preview, prompt_only]"
    found = cells(asking(tmp_path, f"sweep={{probe.model: {models}, probe.scalars: [[], ['{REWARD}']]}}"))
    read = [(cell.experiment.probe.model, len(cell.experiment.probe.scalars)) for cell in found]
    both = [("cnn", 0), ("cnn", 1), ("linear", 0), ("linear", 1)]
    assert sorted(read) == sorted([*both, ("x0_preview", 0), ("prompt_only", 0)])


def test_score_is_asked_for_what_cells_read(root: Path) -> None:
    sweep = f"sweep={{probe.step: [2, 3], probe.scalars: [[], ['{REWARD}'], ['{REWARD}', '{BINDING}']]}}"
    both = ("shapes_reward", "shapes_binding")
    assert asked_previews(asking(root, sweep)) == {(2, "x0"): both, (3, "x0"): both}
    assert asked_previews(asking(root, NONE)) == {}
    assert asked_previews(asking(root, NONE, f"probe.scalars=[{BINDING}]", "probe.step=3")) == {(3, "x0"): both[1:]}
    # The own probe of a sweep too, where it can be.
    own = [f"sweep={{probe.scalars: [['{REWARD}']]}}", f"probe.scalars=[{BINDING}]"]
    assert asked_previews(asking(root, *own)) == {(2, "x0"): both}
    assert asked_previews(asking(root, *own, "sweep={probe.step: [3]}", "probe.step=1")) == {(3, "x0"): both[:1]}
    with pytest.raises(CacheError, match=r"lacks step 4.*probe-lab generate"):
        asked_previews(asking(root, NONE, f"probe.scalars=[{REWARD}]", "probe.step=4"))


def test_score_makes_what_baselines_would_decode(root: Path) -> None:
    models = "probe.model: [cnn, x0_preview]"
    sweep = f"sweep={{{models}, probe.step: [2, 3]}}"
    both = ("shapes_reward", "shapes_binding")
    assert baseline_previews(asking(root, sweep), but={}) == {(2, "x0"): both, (3, "x0"): both}
    assert baseline_previews(asking(root, sweep), but={(2, "x0"): both[:1], (3, "x0"): both}) == {(2, "x0"): both[1:]}
    assert baseline_previews(asking(root, sweep, "sweep.select=step == 3"), but={}) == {(3, "x0"): both}
    assert baseline_previews(asking(root, NONE, "probe.model=x0_preview", "probe.step=3"), but={}) == {(3, "x0"): both}
    assert baseline_previews(asking(root, NONE), but={}) == {}
    assert baseline_previews(asking(root, "sweep={trainer.seed: [0, 1]}"), but={}) == {}
    assert asked_previews(asking(root, sweep)) == {}
    # Cells of another cache, and of a step that this one lacks, are not of this call.
    others = "sweep={probe.model: [x0_preview], cache.name: [smoke, other], probe.step: [3, 4]}"
    assert baseline_previews(asking(root, others, "capture.steps=[2,3,4]"), but={}) == {(3, "x0"): both}


def test_a_baseline_of_imported_scores_is_not_previewed(root: Path, tmp_path: Path) -> None:
    shutil.copytree(root / "smoke", tmp_path / "smoke")
    folder, names = tmp_path / "smoke", ("human", "pick_score")
    for name, metadata in zip(names, ({}, {IMPORTED: "stars.csv"}), strict=True):
        write_scores(folder, name, np.arange(36), np.arange(36.0), metadata=metadata)
    one_each = "probe.evaluators: [[shapes_reward], [human, shapes_binding], [pick_score]]"
    sweep = f"sweep={{probe.model: [x0_preview], {one_each}}}"
    experiment = asking(tmp_path, "evaluators=[shapes_reward,shapes_binding,human,pick_score]", sweep)
    assert baseline_previews(experiment, but={}) == {(2, "x0"): ("shapes_reward",)}


def test_a_cell_without_its_previews_is_refused_with_the_command(root: Path) -> None:
    overrides = [NONE, f"probe.scalars=[{REWARD}]", "probe.step=3"]
    experiment = asking(root, *overrides)
    with pytest.raises(ScoreError, match=rf"does not hold {REWARD} at step 3.*reads: run `") as caught:
        run_sweep(experiment)
    assert plan_sweep(experiment).missing == str(caught.value)
    command = shlex.split(str(caught.value).split("`")[1])
    assert command[:3] == ["probe-lab", "score", "smoke"]
    assert asked_previews(load_experiment(command[2], command[3:])) == {(3, "x0"): ("shapes_reward",)}
    cache = Cache(experiment.cache_folder)
    with pytest.raises(CacheError, match="lacks step 4"):
        require_previews(cells(asking(root, NONE, f"probe.scalars=[{REWARD}]", "probe.step=4")))
    ids = np.arange(len(cache.samples))
    write_scores(
        cache.folder, "shapes_reward", ids, np.random.default_rng(0).random(len(ids)), metadata={}, of=PreviewOf(3)
    )
    assert plan_sweep(experiment).missing == ""
    unscored = asking(root, NONE, "evaluators=[shapes_layout]", "probe.step=3")
    assert "shapes_layout" in plan_sweep(unscored).missing
    unread = asking(root, NONE, "probe.step=3", "probe.text=pooled", "text.encoder=siglip2")
    console = Console(width=300, file=io.StringIO())
    with console.capture() as captured:
        console.print(plan_listing(plan_sweep(unread)))
    assert "the sweep would refuse to start: the cache" in captured.get()
    assert "has no text of 'siglip2'" in captured.get()
    for model in ("cnn", "linear"):
        trained = run_sweep(asking(root, *overrides, f"probe.model={model}"))
        assert len(trained.done) == 1


def test_the_command_for_previews_of_another_cache_makes_them_there(root: Path) -> None:
    shutil.copytree(root / "smoke", root / "other", dirs_exist_ok=True)
    sweep = f"sweep={{cache.name: [other], seed: [3], probe.step: [3], probe.scalars: [['{BINDING}']]}}"
    experiment = asking(root, sweep)
    with pytest.raises(ScoreError) as caught:
        require_previews(cells(experiment))
    command = shlex.split(str(caught.value).split("`")[1])
    made = load_experiment(command[2], command[3:])
    assert command[:3] == ["probe-lab", "score", "smoke"]
    assert (made.cache_folder, made.seed) == (root / "other", 3)
    assert asked_previews(made) == {(3, "x0"): ("shapes_binding",)}


def test_models_that_read_no_judge(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="reads no picture judge"):
        asking(tmp_path, NONE, "probe.steps=[2,4]", "probe.judge=true")
    with pytest.raises(ConfigError, match=r"'probe.model' prompt_only: only cnn and linear have a picture judge"):
        cells(asking(tmp_path, NONE, "probe.model=prompt_only", "probe.judge=true"))
    swept = cells(asking(tmp_path, "sweep={probe.model: [cnn, linear, prompt_only], probe.judge: [true, false]}"))
    read = [(cell.experiment.probe.model, cell.experiment.probe.judge) for cell in swept]
    both = [(model, judge) for model in ("cnn", "linear") for judge in (False, True)]
    assert sorted(read) == sorted([*both, ("prompt_only", False)])


def test_how_many_judges_there_are_counts_where_one_is_read(tmp_path: Path) -> None:
    def names(*changes: str) -> set[str]:
        return {cell.name for cell in cells(asking(tmp_path, "sweep={probe.model: [cnn, linear]}", *changes))}

    assert names("judge.seeds=2", "judge.batches=9") == names()
    assert names("probe.judge=true", "judge.batches=9") == names("probe.judge=true")
    assert not names("probe.judge=true", "judge.seeds=2") & names("probe.judge=true")
    swept = "sweep={probe.model: [linear], trainer.seed: [0, 1]}"
    ridges = [cells(asking(tmp_path, swept, "probe.judge=true", f"judge.seeds={seeds}")) for seeds in (1, 2)]
    assert [len(found) for found in ridges] == [1, 2]
