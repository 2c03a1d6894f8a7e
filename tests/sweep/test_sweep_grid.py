from __future__ import annotations

import dataclasses
import re
from dataclasses import dataclass
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from sweep_world import ACTIVATION, ATTENTION, make_experiment

from probe_lab.config import Experiment, Trainer, load_experiment, with_changes
from probe_lab.config.declare import key
from probe_lab.errors import ConfigError, SweepError
from probe_lab.losses import TERMS
from probe_lab.sweep import cell_name, cells

ROOT = Path("somewhere")
BASE = make_experiment(ROOT)


def test_an_experiment_without_a_sweep_is_one_cell_with_the_same_name_as_in_a_sweep() -> None:
    (alone,) = cells(BASE)
    assert alone.axes == {}
    assert alone.experiment == BASE
    swept = cells(make_experiment(ROOT, {"probe.step": [1, 5]}))
    assert [cell.experiment.probe.step for cell in swept] == [1, 5]
    assert swept[1].name == alone.name == cell_name(BASE)
    assert re.fullmatch(r"step05-cnn-up_blocks\.1\.attentions\.0\.attention-listwise-seed0-[0-9a-f]{8}", alone.name)


def test_grids_are_united_and_equal_cells_merged() -> None:
    grids = [
        {"probe.step": [1, 5], "trainer.seed": [0, 1]},
        {"probe.loss": ["listwise", "mse"]},
    ]
    found = cells(make_experiment(ROOT, grids))
    points = [(c.experiment.probe.step, c.experiment.trainer.seed, c.experiment.probe.loss) for c in found]
    assert points == [
        (1, 0, "listwise"),
        (1, 1, "listwise"),
        (5, 0, "listwise"),
        (5, 1, "listwise"),
        (5, 0, "mse"),
    ]
    assert len({cell.name for cell in found}) == 5
    assert found[0].axes == {"probe.step": 1, "trainer.seed": 0, "probe.loss": "listwise"}


def test_a_taps_axis_takes_a_tap_or_a_list_of_taps() -> None:
    found = cells(make_experiment(ROOT, {"probe.taps": [ATTENTION, [ATTENTION, ACTIVATION]]}))
    assert [cell.experiment.probe.taps for cell in found] == [[ATTENTION], [ATTENTION, ACTIVATION]]
    assert [cell.axes["probe.taps"] for cell in found] == [[ATTENTION], [ATTENTION, ACTIVATION]]
    assert found[1].arrays == (f"5/{ATTENTION}", f"5/{ACTIVATION}")


def test_a_section_and_coupled_keys_can_be_axes() -> None:
    sections = [{"model": "shuffled_labels", "width": 8}, {"model": "cnn"}]
    found = cells(make_experiment(ROOT, {"probe": sections}))
    probes = [cell.experiment.probe for cell in found]
    assert [(p.model, p.width) for p in probes] == [("shuffled_labels", 8), ("cnn", 64)]
    # Neither value is possible without the other.
    grid = {"evaluators": [["a", "b"]], "probe.evaluators": [["a"], ["b"]]}
    assert [c.experiment.probe_evaluators for c in cells(make_experiment(ROOT, grid))] == [["a"], ["b"]]


@pytest.mark.parametrize(
    ("grid", "text"),
    [
        ({"probe.stop": [1]}, "probe.step"),
        ({"probe.step": [99]}, "1 to 25"),
        ({"probe.loss": ["listwize"]}, "listwise"),
        ({"probe.width": ["wide"]}, "probe.width"),
        ({"probe.dropout": [1.5]}, "probe.dropout"),
        ({"trainer.learning_rate": [0]}, "trainer.learning_rate"),
    ],
)
def test_impossible_axes_are_refused(grid: dict[str, list[object]], text: str) -> None:
    with pytest.raises(ConfigError, match=text):
        cells(make_experiment(ROOT, grid))


@pytest.mark.parametrize("key", ["runs", "workers", "tracking.uri", "capture.steps"])
def test_an_axis_that_changes_no_result_is_refused(key: str) -> None:
    with pytest.raises(SweepError, match=key):
        cells(make_experiment(ROOT, {key: [[1], [2]]}))


@pytest.mark.parametrize(
    ("grids", "told"),
    [
        ({"sampling.guidance": [1.0, 2.0]}, r"'sampling.guidance' \(1.0, 2.0\)"),
        ({"seed": [0, 1]}, r"'seed' \(0, 1\)"),
        ({"prompts": [{"count": 100}, {"count": 320, "seeds": 4}]}, r"'prompts.count' .* and 'prompts.seeds' \(8, 4\)"),
        ({"cache.dtype": ["float16", "float32"]}, r"'cache.dtype' \(float16, float32\)"),
        ({"backbone": ["tiny-sd", "tiny-sd3"], "cache.name": ["one"]}, r"'backbone' \(tiny-sd, tiny-sd3\)"),
        ([{"probe.step": [1]}, {"sampling.steps": [20]}], r"'sampling.steps' \(25, 20\)"),
    ],
)
def test_other_images_in_one_cache_are_refused(grids: object, told: str) -> None:
    with pytest.raises(SweepError, match=rf"{told} and read one cache, .*: give each value a grid with a cache.name"):
        cells(make_experiment(ROOT, grids))


def test_other_images_in_caches_of_their_own_are_laid_out() -> None:
    grids = [{"probe.step": [1, 5]}, {"backbone": ["tiny-sd3"], "seed": [2], "cache.name": ["other"]}]
    assert len(cells(make_experiment(ROOT, grids))) == 3
    assert len(cells(make_experiment(ROOT, {"sampling.guidance": [1.0], "sampling": [{"batch_size": 4}]}))) == 1


def test_baselines_are_not_trained_twice_for_what_they_do_not_read() -> None:
    grid = {
        "probe.model": ["cnn", "noisy_latent", "prompt_only", "x0_preview", "attention_entropy", "linear"],
        "probe.step": [1, 5],
        "probe.taps": [ATTENTION, ACTIVATION],
        "probe.loss": ["mse", "listwise"],
    }
    by_model: dict[str, list[tuple[int, list[str], str]]] = {}
    for cell in cells(make_experiment(ROOT, grid)):
        probe = cell.experiment.probe
        by_model.setdefault(probe.model, []).append((probe.step, probe.taps, probe.loss))
    assert len(by_model["cnn"]) == 8
    assert by_model["noisy_latent"] == [(step, ["latent"], loss) for step in (1, 5) for loss in ("mse", "listwise")]
    assert by_model["prompt_only"] == [(5, [], "mse")]
    assert by_model["x0_preview"] == [(1, ["x0"], "listwise"), (5, ["x0"], "listwise")]
    assert by_model["attention_entropy"] == [(1, [ATTENTION], "listwise"), (5, [ATTENTION], "listwise")]
    assert len(by_model["linear"]) == 4
    with pytest.raises(SweepError, match="attention taps"):
        cells(with_changes(BASE, {"probe.model": "attention_entropy", "probe.taps": [ACTIVATION]}))


def test_what_reads_no_text_is_one_cell_for_all_text_encoders() -> None:
    grid = {"probe.model": ["cnn", "linear"], "text.encoder": ["backbone", "clip_score"]}
    found = [(cell.experiment.probe.model, cell.experiment.text.encoder) for cell in cells(make_experiment(ROOT, grid))]
    assert found == [("cnn", "backbone"), ("cnn", "clip_score"), ("linear", "backbone")]


def test_a_sweep_over_scoring_is_refused() -> None:
    with pytest.raises(SweepError, match="one result many times"):
        cells(make_experiment(ROOT, {"scoring.dtype": ["float32", "float16"]}))


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("probe.width", 32),
        ("trainer.max_epochs", 3),
        ("data.batch_prompts", 4),
        ("data.split.test", None),
        ("cache.name", "other"),
        ("evaluators", ["shapes_reward"]),
        ("backbone", "tiny-sd3"),
        ("sampling.guidance", 3.0),
        ("prompts.count", 5),
        ("seed", 7),
        ("text.encoder", "clip_score"),
        ("scoring.dtype", "float16"),
        ("scoring.models", {"shapes_reward": {"checkpoint": "other"}}),
    ],
)
def test_a_key_that_changes_the_result_changes_the_name(key: str, value: object) -> None:
    changes = {"data.split": {"train": 0.7, "val": 0.1, "test": 0.2}} if value is None else {key: value}
    assert cell_name(with_changes(BASE, changes)) != cell_name(BASE)


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("runs", "elsewhere"),
        ("reports", "elsewhere"),
        ("tracking.uri", "http://server"),
        ("workers", 7),
        ("cache.root", "elsewhere"),
        ("capture.steps", [1, 2, 3, 5]),
        ("sampling.batch_size", 4),
        ("sampling.device", "cuda"),
        ("scoring.batch_size", 4),
        ("scoring.device", "cuda"),
        ("scoring.resident", True),
        ("scoring.models", {"image_reward": {"checkpoint": "other"}}),
        ("data.num_workers", 3),
        ("trainer.accelerator", "gpu"),
        ("probe.evaluators", ["shapes_reward", "shapes_binding"]),
    ],
)
def test_a_key_that_does_not_change_the_result_keeps_the_name(key: str, value: object) -> None:
    assert cell_name(with_changes(BASE, {key: value})) == cell_name(BASE)


def test_names_outlive_keys_that_came_later() -> None:
    """Else an update would train finished sweeps again."""
    as_it_was = ["seed=0", "prompts.exclude=[]", "trainer.max_epochs=8", "trainer.learning_rate=0.002"]
    names = [cell.name for cell in cells(load_experiment("shapes_full", as_it_was))]
    assert "step01-cnn-up_blocks.1.attentions.0.attention-mse+listwise-seed0-1cc9ea61" in names


@dataclass(frozen=True)
class LongerTrainer(Trainer):
    """A section to which the schema, and nothing else, gives one key more."""

    momentum: float = key(0.9, "Share of the last step that is taken again.")


def test_a_key_that_is_added_to_the_schema_counts_only_where_it_is_set() -> None:
    known = dataclasses.asdict(BASE.trainer)
    assert cell_name(dataclasses.replace(BASE, trainer=LongerTrainer(**known))) == cell_name(BASE)
    longer = dataclasses.replace(BASE, trainer=LongerTrainer(**known, momentum=0.5))
    assert cell_name(longer) != cell_name(BASE)


def test_the_experiment_name_counts_only_as_the_name_of_the_cache() -> None:
    named = with_changes(BASE, {"cache.name": "shared"})
    assert cell_name(dataclasses.replace(named, name="other")) == cell_name(named)
    assert cell_name(dataclasses.replace(BASE, name="other")) != cell_name(BASE)


def test_terms_of_a_loss_in_another_order_are_one_cell() -> None:
    assert len(cells(make_experiment(ROOT, {"probe.loss": ["listwise+infonce", "infonce+listwise"]}))) == 1


def _probes() -> st.SearchStrategy[Experiment]:
    tap = st.text("ab.é/ _1", min_size=1, max_size=90)
    return st.builds(
        lambda step, taps, loss, seed, width: dataclasses.replace(
            BASE,
            probe=dataclasses.replace(BASE.probe, step=step, taps=taps, loss=loss, width=width),
            trainer=dataclasses.replace(BASE.trainer, seed=seed),
        ),
        st.integers(1, 25),
        st.lists(tap, max_size=5),
        st.sampled_from(TERMS),
        st.integers(0, 3),
        st.integers(1, 3),
    )


@settings(max_examples=200, deadline=None)
@given(_probes(), _probes())
def test_names_are_unique_stable_and_fit_a_folder(first: Experiment, second: Experiment) -> None:
    names = [cell_name(first), cell_name(second)]
    assert (names[0] == names[1]) == (first == second)
    for name, experiment in zip(names, (first, second), strict=True):
        assert name == cell_name(dataclasses.replace(experiment, workers=9))
        assert re.fullmatch(r"step[A-Za-z0-9._+-]{1,150}", name)
