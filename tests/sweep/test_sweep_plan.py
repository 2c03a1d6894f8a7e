"""What `sweep --dry-run` says: cells and their states, what they read, how long they take, and what is missing."""

from __future__ import annotations

import dataclasses
import io
import json
import shlex
import time
from pathlib import Path

import pytest
from rich.console import Console
from sweep_world import ACTIVATION, ATTENTION, make_experiment, write_cell

from probe_lab.cache import Manifest
from probe_lab.config import Experiment, load_experiment
from probe_lab.errors import CacheError, SweepError
from probe_lab.probes.kinds import kind_of
from probe_lab.runs.identity import other_images
from probe_lab.sweep import Cell, cells, run_sweep
from probe_lab.sweep.needs import require_arrays
from probe_lab.sweep.plan import SweepPlan, plan_sweep
from probe_lab.sweep.plan_table import plan_listing

SIZES = {ATTENTION: (24, 8, 8), ACTIVATION: (64, 8, 8), "x0": (8, 16, 16), "latent": (8, 16, 16)}
GRID = {"probe.step": [1, 5], "probe.taps": [ATTENTION, ACTIVATION], "probe.loss": ["mse", "listwise"]}


def make_cache(experiment: Experiment, count: int = 100) -> None:
    folder = experiment.cache_folder
    folder.mkdir(parents=True)
    Manifest(
        name=folder.name, backbone="tiny-sd", scheduler="ddim", steps=25, guidance=2.0, height=64, width=64,
        dtype="float32", cache_dtype="float16", shard_size=8, captured_steps=(1, 5), taps=SIZES,
        prompts_sha256="0", seeds=4, count=count, seed=0, code_version="0",
    ).save(folder)  # fmt: skip


def finish(cell: Cell, seconds: float, folder: Path | None = None, **further: object) -> None:
    place = (folder or cell.experiment.runs_folder) / cell.name
    place.mkdir(parents=True)
    write_cell(cell, place, 0.5)
    metrics = json.loads((place / "metrics.json").read_text())
    (place / "metrics.json").write_text(json.dumps(metrics | {"seconds": seconds} | further))


def shown(plan: SweepPlan, width: int = 80) -> str:
    console = Console(width=width, file=io.StringIO())
    with console.capture() as captured:
        console.print(plan_listing(plan))
    return captured.get()


def test_groups_share_arrays_and_arrays_are_counted_once(tmp_path: Path) -> None:
    grids = [GRID, {"probe.taps": [[ATTENTION, ACTIVATION]]}, {"probe.model": ["prompt_only"]}]
    experiment = make_experiment(tmp_path, grids, workers=3)
    make_cache(experiment)
    plan = plan_sweep(experiment)
    assert [group.arrays for group in plan.groups] == [
        (f"1/{ATTENTION}",),
        (f"1/{ACTIVATION}",),
        (f"5/{ATTENTION}",),
        (f"5/{ACTIVATION}",),
        (f"5/{ATTENTION}", f"5/{ACTIVATION}"),
        (),
    ]
    attention, activation = 24 * 64 * 2 * 100, 64 * 64 * 2 * 100
    assert [group.bytes for group in plan.groups] == [
        attention, activation, attention, activation, attention + activation, 0,
    ]  # fmt: skip
    assert plan.bytes == 2 * (attention + activation)
    assert plan.count("pending") == len(plan.cells) == len(cells(experiment)) == 10
    assert not experiment.runs_folder.exists()


def test_states_tell_what_a_sweep_would_do(tmp_path: Path) -> None:
    experiment = make_experiment(tmp_path, {"trainer.seed": [0, 1, 2, 3, 4]})
    make_cache(experiment)
    first, second, third, fourth, fifth = cells(experiment)
    finish(first, 6.0)
    finish(second, 6.0, stopped={"by": "halving", "epochs": 1})
    finish(third, 6.0, stopped={"by": "patience", "epochs": 2})
    finish(fourth, 6.0, experiment.runs_folder.parent / "another")
    expected = {first.name: "finished", second.name: "pending", third.name: "finished", fourth.name: "elsewhere"}
    plan = plan_sweep(experiment)
    assert plan.states == expected | {fifth.name: "pending"}
    halving = dataclasses.replace(experiment, halving=dataclasses.replace(experiment.halving, first=1))
    halved = plan_sweep(halving)
    assert halved.states == plan.states | {second.name: "stopped"}
    # As the sweep itself sees it; it copies cells from elsewhere instead of training them.
    for one, whole in ((plan, experiment), (halved, halving)):
        pending = {name for name, state in one.states.items() if state in ("pending", "elsewhere")}
        assert pending == set(run_sweep(whole, dry_run=True).pending)
    text = shown(halved)
    for words in ("2 finished, 1 stopped, 1 elsewhere", "1 to train", "At most"):
        assert words in text


def test_time_is_by_the_rate_of_finished_cells(tmp_path: Path) -> None:
    experiment = make_experiment(tmp_path, GRID, workers=2, trainer={"max_epochs": 9})
    make_cache(experiment)
    first, *others = cells(experiment)
    finish(first, 30.0)  # three epochs of history, so 10 seconds for each
    plan = plan_sweep(experiment)
    assert plan.seconds == pytest.approx(len(others) * 9 * 10 / 2)
    assert plan.basis == "the rate of the one finished cell"
    # Its own taps are known better than those of other cells.
    other = next(cell for cell in others if cell.experiment.probe.taps == [ACTIVATION])
    finish(other, 3.0)
    assert plan_sweep(experiment).seconds == pytest.approx((3 * 9 * 10 + 3 * 9 * 1) / 2)
    # A model that was not trained yet is as much slower than the constant as the others.
    assert plan_sweep(make_experiment(tmp_path, {"probe.model": ["cnn", "linear"]})).basis.startswith("the rate of")


def test_time_is_by_earlier_cells_of_the_folder_then_by_a_constant(tmp_path: Path) -> None:
    experiment = make_experiment(tmp_path, {"probe.model": ["cnn", "linear"]}, workers=1, trainer={"max_epochs": 3})
    make_cache(experiment)
    plan = plan_sweep(experiment)
    assert plan.seconds == pytest.approx(100 * (3 * kind_of("cnn").seconds + kind_of("linear").seconds))
    assert "a rough constant (0.4 ms per sample and epoch" in plan.basis
    wide = make_experiment(tmp_path, {"probe.width": [8]}, prompts={"count": 10, "seeds": 4}, trainer={"max_epochs": 3})
    finish(cells(wide)[0], 12.0)  # 40 samples, three epochs: 0.1 s each
    again = plan_sweep(experiment)
    assert again.basis == f"the rate of 1 cell trained earlier in {experiment.runs_folder}"
    assert again.seconds == pytest.approx(100 * 0.1 * (3 + kind_of("linear").seconds / kind_of("cnn").seconds))


def test_damaged_neighbours_and_shared_devices_are_planned_with(tmp_path: Path) -> None:
    """A configuration that tells no number of samples tells no rate; a worker counts as the devices of its cell."""
    experiment = make_experiment(tmp_path, GRID, workers=4, trainer={"devices": 2})
    make_cache(experiment)
    for seed, content in enumerate(["", "probe: {}\n", "prompts: [3\n", "prompts: {count: many, seeds: 2}\n", "- 1\n"]):
        other = cells(make_experiment(tmp_path, {"probe.width": [8]}, trainer={"seed": seed}))[0]
        finish(other, 12.0)
        (other.experiment.runs_folder / other.name / "config.yaml").write_text(content)
    plan = plan_sweep(experiment)
    assert "a rough constant" in plan.basis
    assert plan.workers == 2
    assert plan.seconds == pytest.approx(sum(group.seconds for group in plan.groups) / 2)
    ray = dataclasses.replace(experiment, engine=dataclasses.replace(experiment.engine, name="ray"))
    assert plan_sweep(ray).workers == 4


def test_the_table_fits_80_columns_and_names_what_varies(tmp_path: Path) -> None:
    sweep = {
        "sets": {"deep": [ATTENTION, ACTIVATION]},
        "select": "step != 1 or seed < 2",
        "seeds": 4,
        "grids": [
            GRID | {"probe.width": [8, 16]},
            {"probe.taps": ["deep"], "probe.width": [8]},
            {"probe.model": ["prompt_only", "x0_preview"]},
        ],
    }
    experiment = make_experiment(tmp_path, sweep)
    make_cache(experiment)
    plan = plan_sweep(experiment)
    text = shown(plan)
    assert max(map(len, text.splitlines())) <= 80
    for words in (
        ATTENTION, "step 1", "step 5", "cnn: mse, listwise", "seeds 0–3", "seeds 0, 1", "width 8, 16", "deep:",
        "the prompts alone", "x0_preview", f"{len(plan.cells)} cells: {len(plan.cells)} to train.",
        "sweep.select leaves out 16 more.", "about", "with 2 workers, by a rough",
    ):  # fmt: skip
        assert words.lower() in text.lower(), words
    assert "0.0" not in shown(plan, 200).partition("the prompts alone")[2].splitlines()[0]


def test_without_a_cache_there_is_a_plan_that_says_so(tmp_path: Path) -> None:
    plan = plan_sweep(make_experiment(tmp_path, GRID, prompts={"count": 10, "seeds": 2}))
    assert (plan.bytes, {group.bytes for group in plan.groups}) == (None, {None})
    assert plan.seconds == pytest.approx(8 * 12 * 20 * kind_of("cnn").seconds / 2)
    assert "There is no such cache yet: run `probe-lab generate`" in " ".join(shown(plan).split())


def test_thousands_of_cells_are_planned_in_seconds_and_shown_on_a_page(tmp_path: Path) -> None:
    grid = {"trainer.seed": {"from": 0, "to": 249}, "probe.step": [1, 5], "probe.taps": list(SIZES)}
    experiment = make_experiment(tmp_path, grid)
    make_cache(experiment)
    started = time.process_time()
    plan = plan_sweep(experiment)
    text = shown(plan)
    assert time.process_time() - started < 3
    assert len(plan.cells) == 2000
    assert "seeds 0–249" in text
    assert "steps 1, 5" in text
    assert len(text.splitlines()) < 40


@pytest.mark.parametrize(
    ("grid", "what", "changes"),
    [
        (
            {"probe.step": [1, 7, 9]},
            "step 7 (it has 1, 5), which 1 cell of the sweep reads",
            ["capture.steps=[1,5,7,9]"],
        ),
        (
            {"probe.taps": ["up_blocks.0/activation", "x0"], "probe.loss": ["mse", "listwise"]},
            f"tap up_blocks.0/activation (of its 4 the nearest are {ACTIVATION}",
            [f"capture.taps=[{ATTENTION},{ACTIVATION},up_blocks.0/activation]"],
        ),
        (
            {"probe": [{"step": 2, "taps": ["mid_block/activation"]}]},
            "step 2 (it has 1, 5)",
            ["capture.steps=[1,2,5]", f"capture.taps=[{ATTENTION},{ACTIVATION},mid_block/activation]"],
        ),
    ],
)
def test_a_cache_that_lacks_something_is_named_with_the_command(
    tmp_path: Path, grid: dict[str, object], what: str, changes: list[str]
) -> None:
    experiment = make_experiment(tmp_path, grid)
    make_cache(experiment)
    asked = ("tiny", "prompts.count=7", "cache.name=", "sweep.select=step == 1", "workers=4")
    with pytest.raises(CacheError) as caught:
        plan_sweep(dataclasses.replace(experiment, asked=asked))
    message = str(caught.value)
    assert f"the cache {experiment.cache_folder} lacks {what}" in message
    command = shlex.split(message.split("`")[1])
    assert command == ["probe-lab", "generate", "tiny", "prompts.count=7", "workers=4", "cache.name=tiny_2", *changes]
    assert "\n" not in message


def test_the_command_that_is_named_is_one_that_runs(tmp_path: Path) -> None:
    """Its overrides give an experiment whose captured steps and taps are all that the sweep reads."""
    places = [f"cache.root={tmp_path}", f"runs={tmp_path}", "cache.name=mine", "prompts.count=3"]
    (tmp_path / "mine_2").mkdir()  # taken
    sweep = ["sweep={probe.step: [1, 9], probe.taps: [x0, mid_block/activation]}", "capture.steps=[1]"]
    experiment = load_experiment("quickstart", [*places, *sweep])
    with pytest.raises(CacheError, match="there is no cache") as caught:
        require_arrays(cells(experiment))
    assert shlex.split(str(caught.value).split("`")[1]) == ["probe-lab", "generate", "quickstart", *places, sweep[1]]
    make_cache(experiment)
    with pytest.raises(CacheError, match="lacks step 9") as caught:
        require_arrays(cells(experiment))
    _, verb, name, *overrides = shlex.split(str(caught.value).split("`")[1])
    made = load_experiment(name, overrides)
    assert verb == "generate"
    assert (made.cache.name, made.prompts.count) == ("mine_3", 3)
    assert {cell.experiment.probe.step for cell in cells(experiment)} <= set(made.capture.steps)
    assert {tap for cell in cells(experiment) for tap in cell.experiment.probe.taps} <= set(made.capture.taps)


def advised(experiment: Experiment) -> list[str]:
    """The command of the error that says what a sweep's caches lack."""
    with pytest.raises(CacheError) as caught:
        require_arrays(cells(experiment))
    return shlex.split(str(caught.value).split("`")[1])


def test_the_cache_of_another_experiment_is_made_by_that_one(tmp_path: Path) -> None:
    chosen = [f"cache.root={tmp_path}", "workers=4", 'sweep.select=backbone == "tiny-sd3"']
    experiment = load_experiment("loss_study", chosen)
    read = cells(experiment)[0].experiment
    place = f"cache.root={tmp_path}"
    assert advised(experiment) == ["probe-lab", "generate", "shapes_full_sd3", place]
    make_cache(read)
    _, _, name, *overrides = advised(experiment)
    made = load_experiment(name, overrides)
    assert (name, made.cache.name) == ("shapes_full_sd3", "shapes_full_sd3_2")
    assert other_images(made, read) == {}
    assert set(read.probe.taps) <= set(made.capture.taps)


@pytest.mark.parametrize("there", [False, True])
def test_a_cache_without_an_experiment_of_its_own_is_made_by_all_that_differs(tmp_path: Path, there: bool) -> None:
    grid = (
        "sweep=[{backbone: [tiny-sd3], cache.name: [mine], seed: [2], prompts.count: [9], "
        "sampling.scheduler: [default], sampling.vae_tiling: [true], probe.step: [9], "
        "probe.taps: [[transformer_blocks.3/attention, x0]]}]"
    )
    experiment = load_experiment("quickstart", [f"cache.root={tmp_path}", "seed=5", grid])
    (read,) = (cell.experiment for cell in cells(experiment))
    if there:
        make_cache(read)
    _, verb, name, *overrides = advised(experiment)
    assert (verb, name) == ("generate", "quickstart")
    assert "backbone=tiny-sd3" in overrides
    made = load_experiment(name, overrides)
    assert other_images(made, read) == {}
    assert made.cache_folder == tmp_path / ("mine_2" if there else "mine")
    assert 9 in made.capture.steps
    assert made.capture.taps == read.probe.taps


def test_what_the_cache_holds_needs_no_command(tmp_path: Path) -> None:
    experiment = make_experiment(tmp_path, [GRID, {"probe.model": ["prompt_only", "noisy_latent", "x0_preview"]}])
    make_cache(experiment)
    require_arrays(cells(experiment))


def test_a_sweep_without_cells_has_no_plan(tmp_path: Path) -> None:
    with pytest.raises(SweepError, match=r"sweep.select='step == 3' leaves none of 2 cells, where step is 1, 5"):
        plan_sweep(make_experiment(tmp_path, {"select": "step == 3", "probe.step": [1, 5]}))
