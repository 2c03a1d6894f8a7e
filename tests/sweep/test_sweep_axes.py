"""What the axes of a sweep stand for, which cells come of them, and which are one."""

from __future__ import annotations

import dataclasses
import hashlib
import json
import time
from pathlib import Path

import pytest
import torch
from sweep_world import make_experiment

from probe_lab.backbones.families import family_of
from probe_lab.backbones.pipelines import load_pipeline
from probe_lab.cache import Manifest
from probe_lab.config import Backbone, Experiment, Sampling, load_experiment, with_changes
from probe_lab.errors import ConfigError, SweepError
from probe_lab.losses import LOSSES, TERMS
from probe_lab.runs.identity import identity
from probe_lab.sweep import cell_name, cells, single_cell
from probe_lab.sweep.grid import lay_out
from probe_lab.sweep.normalise import READ_BY_SOME
from probe_lab.training.objective import Objective

ROOT = Path("somewhere")
NAMED = Path(__file__).parent / "named"
UP = ["up_blocks.2.attentions.0/attention", "up_blocks.2/activation", "up_blocks.10/activation"]
"""In the order of blocks: 10 comes after 2."""
TAPS = [*sorted(UP), "mid_block/activation", "x0"]
LISTWISE = "'listwise' in loss"


def taps_of(experiment: Experiment) -> list[list[str]]:
    return [cell.experiment.probe.taps for cell in cells(experiment)]


def with_taps(sweep: object, root: Path = ROOT, **probe: object) -> Experiment:
    return make_experiment(root, sweep, capture={"steps": [1, 5], "taps": TAPS}, probe={"taps": ["x0"], **probe})


@pytest.mark.parametrize("file", sorted(NAMED.glob("*.yaml")), ids=lambda path: path.stem)
def test_cells_keep_the_names_that_they_had(file: Path) -> None:
    """Else an update would train finished sweeps again."""
    names = [cell.name for cell in cells(load_experiment(file))]
    assert names == file.with_suffix(".txt").read_text().splitlines()


def test_a_pattern_is_a_value_for_each_tap_that_is_captured() -> None:
    assert taps_of(with_taps({"probe.taps": ["up_blocks.*"]})) == [[tap] for tap in UP]
    assert taps_of(with_taps({"probe.taps": ["up_blocks.?/activation", "x0"]})) == [["up_blocks.2/activation"], ["x0"]]
    # A tap that two patterns match is one cell.
    assert len(taps_of(with_taps({"probe.taps": ["up*", "*/activation"]}))) == 4


def test_lists_and_sets_are_one_value_and_take_patterns() -> None:
    sets = {"deep": ["up_blocks.*/activation", "x0"], "one": ["x0"]}
    found = cells(
        with_taps({"sets": sets, "probe.taps": ["deep", ["mid*", "up*/attention", "mid*"], {"all": "deep"}, "one"]})
    )
    assert [cell.experiment.probe.taps for cell in found] == [
        ["up_blocks.2/activation", "up_blocks.10/activation", "x0"],
        ["mid_block/activation", "up_blocks.2.attentions.0/attention"],
        ["x0"],
    ]
    assert [cell.axes["probe.taps"] for cell in found] == ["deep", found[1].experiment.probe.taps, "one"]
    each = taps_of(with_taps({"sets": sets, "probe.taps": [{"each": "deep"}, {"each": ["one", "mid*"]}]}))
    assert each == [["up_blocks.2/activation"], ["up_blocks.10/activation"], ["x0"], ["mid_block/activation"]]
    assert all(cell.experiment.sets == {} for cell in found)


def test_a_set_that_a_baseline_does_not_read_is_not_its_label() -> None:
    sweep = {"sets": {"deep": ["up*", "x0"]}, "probe.taps": ["deep"], "probe.model": ["cnn", "noisy_latent"]}
    assert [cell.axes["probe.taps"] for cell in cells(with_taps(sweep))] == ["deep", ["latent"]]


def test_names_stand_for_taps_outside_of_a_sweep_too() -> None:
    experiment = with_taps({"sets": {"deep": ["up*/activation"]}}, taps=["deep", "x0"])
    expected = ["up_blocks.2/activation", "up_blocks.10/activation", "x0"]
    assert taps_of(experiment) == taps_of(single_cell(experiment)) == [expected]
    section = with_taps({"sets": {"deep": ["up*/activation"]}, "probe": [{"taps": ["deep", "x0"]}]})
    assert taps_of(section) == [expected]


def test_patterns_of_what_is_captured_are_looked_up_in_the_cache(tmp_path: Path) -> None:
    experiment = make_experiment(
        tmp_path, {"probe.taps": ["*", "paper"]}, capture={"taps": ["paper"]}, probe={"taps": ["x0"]}
    )
    write_manifest(experiment, taps=sorted(UP))
    assert taps_of(experiment) == [*([tap] for tap in UP), UP]


def test_before_there_is_a_cache_patterns_are_those_of_the_backbone(tmp_path: Path) -> None:
    grid = {"probe.taps": ["up_blocks.*/attention", "paper"]}
    changes = {"capture": {"taps": ["paper", "up_blocks.*"]}, "probe": {"taps": ["x0"]}}
    *single, paper = cells(make_experiment(tmp_path, grid, **changes))
    assert paper.axes["probe.taps"] == "paper"
    pipe = load_pipeline(Backbone("tiny-sd"), Sampling())
    family = family_of(pipe)
    assert {cell.arrays[0] for cell in single} == {f"5/{tap}" for tap in family.choose(pipe, ["up_blocks.*/attention"])}
    assert set(paper.experiment.probe.taps) == set(map(str, family.paper_taps(pipe)))
    # A published model is known without its weights.
    published = changes | {"backbone": {"family": "sdxl", "path": "stabilityai/stable-diffusion-xl-base-1.0"}}
    (cell,) = cells(make_experiment(tmp_path, {"probe.taps": ["paper"]}, **published))
    assert len(cell.experiment.probe.taps) == 11


@pytest.mark.parametrize(
    ("sweep", "message"),
    [
        (
            {"probe.taps": ["mid_blocks*"]},
            "'mid_blocks\\*' in probe.taps matches none of the 5 taps .* mid_block/activ",
        ),
        ({"probe.taps": [["x0", "down*"]]}, "'down\\*' in probe.taps matches none"),
        ({"probe.taps": ["deap"], "sets": {"deep": ["x0"]}}, "'deap' in probe.taps is no tap and no set .* 'deep'"),
        ({"probe.taps": [{"al": "x0"}]}, "write {each: ...} or {all: ...}"),
        ({"probe.taps": ["deep"], "sets": {"deep": ["down*"]}}, "'down\\*' in probe.taps matches none"),
    ],
)
def test_an_axis_that_names_nothing_is_refused(sweep: dict[str, object], message: str) -> None:
    with pytest.raises(SweepError, match=message) as caught:
        cells(with_taps(sweep))
    assert "\n" not in str(caught.value)


def test_a_conditional_axis_holds_only_where_its_test_does() -> None:
    grid = {
        "probe.temperature": {"values": [0.1, 1.0], "if": LISTWISE},
        "probe.loss": ["mse", "listwise"],
        "probe.width": {"values": [8], "if": "temperature < 0.5"},
        "probe.step": [1, 5],
    }
    points = [
        (c.experiment.probe.loss, c.experiment.probe.step, c.experiment.probe.temperature, c.experiment.probe.width)
        for c in cells(make_experiment(ROOT, grid))
    ]
    assert points == [
        ("mse", 1, 0.5, 64),
        ("mse", 5, 0.5, 64),
        ("listwise", 1, 0.1, 8),
        ("listwise", 1, 1.0, 64),
        ("listwise", 5, 0.1, 8),
        ("listwise", 5, 1.0, 64),
    ]
    with pytest.raises(SweepError, match=r"over 'probe.width' is empty: no point of its grid fulfils 'step == 3'"):
        cells(make_experiment(ROOT, {"probe.step": [1], "probe.width": {"values": [8], "if": "step == 3"}}))


def test_a_condition_sees_sections_and_sets() -> None:
    sweep = {
        "sets": {"deep": ["up*"]},
        "probe": [{"model": "linear"}, {"model": "cnn"}],
        "probe.taps": ["deep", "x0"],
        "probe.width": {"values": [8, 16], "if": "model == 'cnn' and taps == 'deep'"},
    }
    assert len(cells(with_taps(sweep))) == 2 + 1 + 2


def test_what_a_loss_does_not_read_is_one_cell() -> None:
    grid = {"probe.loss": ["mse", "listwise", "pearson", "mse+infonce"], "probe.temperature": [0.1, 1.0]}
    found = [(c.experiment.probe.loss, c.experiment.probe.temperature) for c in cells(make_experiment(ROOT, grid))]
    assert found == [("mse", 0.5), ("listwise", 0.1), ("listwise", 1.0), ("pearson", 0.5), ("mse+infonce", 0.5)]
    grid = {"probe.loss": ["mse", "mse+infonce"], "probe.alignment": [1.0, 2.0], "probe.within_prompt": [True, False]}
    assert len(cells(make_experiment(ROOT, grid))) == 1 + 2
    # The cell is that of a plain sweep, which is not trained again.
    plain = cells(make_experiment(ROOT, {"probe.loss": ["mse"]}))
    assert cells(make_experiment(ROOT, grid))[0].name == plain[0].name


@pytest.mark.parametrize("key", READ_BY_SOME)
@pytest.mark.parametrize("term", TERMS)
def test_the_keys_that_terms_read_are_those_that_change_their_value(key: str, term: str) -> None:
    generator = torch.Generator().manual_seed(0)
    prediction, target = torch.randn(2, 12, 2, generator=generator, dtype=torch.float64)
    group = torch.arange(12) // 4
    embedding, text = torch.randn(2, 12, 5, generator=generator, dtype=torch.float64)
    base = make_experiment(ROOT).probe
    other = dataclasses.replace(base, **{key: False if key == "within_prompt" else getattr(base, key) * 3})

    def value(config: object) -> float:
        terms = (term,) if LOSSES.get(term).score else ("mse", term)
        objective = Objective.of(config, terms, epochs=4)
        contrast = objective.contrast(embedding, text, group, 1) if objective.contrastive else 0.0
        return float(objective.scored(prediction, target, group, epoch=1) + contrast)

    assert (value(base) != value(other)) is LOSSES.get(term).reads(key)


def test_seeds_reach_every_cell_that_has_one() -> None:
    found = cells(make_experiment(ROOT, {"seeds": 3, "probe.model": ["cnn", "linear"]}))
    assert [(c.experiment.probe.model, c.experiment.trainer.seed) for c in found] == [
        ("cnn", 0), ("linear", 0), ("cnn", 1), ("cnn", 2)
    ]  # fmt: skip


def test_select_chooses_cells_and_changes_none() -> None:
    sweep = [{"probe.step": [1, 5], "probe.loss": ["mse", "listwise"]}, {"probe.model": ["linear"]}]
    every = cells(make_experiment(ROOT, sweep))
    chosen = lay_out(make_experiment(ROOT, {"select": "step == 5 and loss != 'mse'", "grids": sweep}))
    assert chosen.cells == tuple(c for c in every if c.experiment.probe.step == 5 and c.experiment.probe.loss != "mse")
    assert chosen.left_out == len(every) - len(chosen.cells) == 3
    # A key that is not swept, and a set by its name.
    assert len(cells(make_experiment(ROOT, {"select": "batch_prompts == 16", "grids": sweep}))) == len(every)
    named = {"sets": {"deep": ["up*"]}, "probe.taps": ["deep", "x0"], "select": "taps == 'deep'"}
    assert [cell.axes["probe.taps"] for cell in cells(with_taps(named))] == ["deep"]


def test_a_filter_that_leaves_no_cell_says_what_there_is() -> None:
    sweep = {"select": "step == 3 and loss == 'mse'", "probe.step": [1, 5], "probe.loss": ["mse", "listwise"]}
    with pytest.raises(SweepError, match=r"leaves none of 4 cells, where step is 1, 5; loss is mse, listwise"):
        cells(make_experiment(ROOT, sweep))
    with pytest.raises(ConfigError, match=r"5 and 'a' have no order|1 and 'a' have no order"):
        cells(make_experiment(ROOT, {"select": "step < 'a'", "probe.step": [1, 5]}))


def test_two_cells_with_one_name_are_refused() -> None:
    """The hash in a name has 32 bits; a hundred thousand cells are enough to find two that share it."""
    base = with_changes(make_experiment(ROOT), {"trainer.learning_rate": 0.123456789})
    before, after = json.dumps(identity(base), sort_keys=True).split("0.123456789")
    seen: dict[str, float] = {}
    for number in range(1, 2_000_000):
        rate = number / 1e9
        digest = hashlib.sha256(f"{before}{rate!r}{after}".encode()).hexdigest()[:8]
        if digest in seen:
            break
        seen[digest] = rate
    pair = [seen[digest], rate]
    names = {cell_name(with_changes(base, {"trainer.learning_rate": value})) for value in pair}
    assert len(names) == 1
    with pytest.raises(SweepError, match=f"two cells that differ in trainer are both called {names.pop()}"):
        cells(make_experiment(ROOT, {"trainer.learning_rate": pair}))


def test_thousands_of_cells_are_laid_out_in_seconds() -> None:
    grid = {"trainer.seed": {"from": 0, "to": 99}, "probe.step": {"from": 1, "to": 20}}
    started = time.process_time()
    assert len(cells(make_experiment(ROOT, grid))) == 2000
    assert time.process_time() - started < 3


def write_manifest(experiment: Experiment, taps: list[str]) -> None:
    folder = experiment.cache_folder
    folder.mkdir(parents=True)
    Manifest(
        name=folder.name, backbone="tiny-sd", scheduler="ddim", steps=25, guidance=2.0, height=64, width=64,
        dtype="float32", cache_dtype="float16", shard_size=8, captured_steps=(1, 5),
        taps=dict.fromkeys(taps, (4, 8, 8)), prompts_sha256="0", seeds=4, count=16, seed=0, code_version="0",
    ).save(folder)  # fmt: skip
