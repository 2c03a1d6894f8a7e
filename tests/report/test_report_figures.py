"""What the figures show is what the files say; what cannot be shown is said."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from probe_lab.cache import Cache
from probe_lab.data.splits import RULE, SplitFractions, split_of
from probe_lab.metrics import selection_gain_curve
from probe_lab.report.analysis.chosen import choose, main_slice
from probe_lab.report.analysis.loaded_results import load_results
from probe_lab.report.layout.material import Material, Section
from probe_lab.report.layout.pictures import phrases, read_sample
from probe_lab.report.layout.style import drawing
from probe_lab.report.sections import activations, attention, curves, heatmap, losses, scatter, selection
from probe_lab.report.sections.cell_listing import environment_table
from probe_lab.runs.table import write_results

ATTENTION = "up_blocks.1.attentions.0/attention"


@pytest.fixture(autouse=True)
def style() -> Iterator[None]:
    with drawing():
        yield


@pytest.fixture
def material(simulated: Any) -> Material:
    results = load_results(simulated.runs)
    return Material(results, choose(results, simulated.world.evaluators, None), Cache(simulated.cache))


def _kept(runs: Path, **wanted: list[object]) -> Material:
    """The experiment as if only some cells had been trained."""
    table = pd.read_parquet(runs / "results.parquet")
    for column, values in wanted.items():
        table = table[table[column].isin(values)]
    write_results(runs, table)
    results = load_results(runs)
    return Material(results, choose(results, ["shapes_reward"], None), None)


def _reason(section: Section) -> str:
    assert section.drawings == ()
    assert len(section.skipped) == 1
    return section.skipped[0]


def test_curves_show_the_means(material: Material) -> None:
    section = curves.section(material)
    assert [drawing.name for drawing in section.drawings] == ["curve_shapes_reward", "curve_shapes_binding"]
    means = material.results.means
    rows = means[(means["model"] == "cnn") & (means["taps"] == ATTENTION) & (means["loss"] == "listwise")]
    rows = rows[(rows["split"] == "test") & (rows["evaluator"] == "shapes_reward")]
    for ax, metric in zip(section.drawings[0].figure.axes, ("srcc_within", "srcc"), strict=True):
        line = next(line for line in ax.lines if line.get_label() == "up 1.0 attn")
        expected = rows[rows["metric"] == metric].sort_values("step")["estimate"]
        np.testing.assert_allclose(np.asarray(line.get_ydata()), expected)
        assert {text.get_text() for text in ax.texts} >= {"prompt only", "shuffled labels", "linear probe"}


def test_heatmap_shows_the_means(material: Material) -> None:
    (drawn,) = heatmap.section(material).drawings
    shown = drawn.figure.axes[0].images[0].get_array()
    assert shown is not None
    assert shown.shape == (3, 4)
    labels = [label.get_text() for label in drawn.figure.axes[0].get_yticklabels()]
    means = material.results.means
    field = means[
        (means["taps"] == ATTENTION)
        & (means["step"] == 8)
        & (means["metric"] == "srcc_within")
        & (means["evaluator"] == "shapes_reward")
        & (means["split"] == "test")
    ]
    assert shown[labels.index("up 1.0 attn"), 3] == pytest.approx(field["estimate"].item())


def test_fields_that_may_be_chance_stand_in_brackets(material: Material) -> None:
    """By Holm over all fields of a panel, so more than those whose own interval includes 0."""
    (drawn,) = heatmap.section(material).drawings
    numbers = [text.get_text() for text in drawn.figure.axes[0].texts]
    bracketed = [text for text in numbers if text.startswith("(")]
    means = main_slice(material.results)
    wanted = means["metric"].eq("srcc_within") & means["split"].eq("test")
    fields = means[wanted & means["evaluator"].eq("shapes_reward")]
    assert len(numbers) == len(fields)
    alone = int((fields["lower"] <= 0).sum())
    assert 0 < alone <= len(bracketed) < len(numbers)


def _many(runs: Path, taps: int) -> Material:
    """The experiment with the listwise probes of one tap repeated as many taps, the first ones the best."""
    results = load_results(runs)
    means = results.means[results.means["taps"].eq(ATTENTION) & results.means["loss"].eq("listwise")]
    means = means[means["model"] == "cnn"]
    copies = [means.assign(taps=f"blocks.{i}/activation", estimate=means["estimate"] - 0.001 * i) for i in range(taps)]
    many = dataclasses.replace(results, means=pd.concat(copies))
    return Material(many, choose(results, ["shapes_reward"], None), None)


def test_of_many_taps_those_that_validate_best_are_shown(simulated: Any) -> None:
    material = _many(simulated.runs, 45)
    section = heatmap.section(material)
    labels = [label.get_text() for label in section.drawings[0].figure.axes[0].get_yticklabels()]
    assert labels == [f"blocks {i} act" for i in range(heatmap.MOST_ROWS)]
    assert "Shown are the 30 of 45 taps that validate best." in section.explanation
    lines = curves.section(material).drawings[0].figure.axes[0].lines
    named = {str(line.get_label()) for line in lines}
    assert {f"blocks {i} act" for i in range(curves.MOST_LINES)} <= named
    assert "blocks 7 act" not in named


def test_losses_have_a_row_per_objective(material: Material) -> None:
    (drawn,) = losses.section(material).drawings
    rows = [label.get_text() for label in drawn.figure.axes[0].get_yticklabels()]
    assert rows == ["MSE", "listwise", "listwise + InfoNCE"]


def test_scatter_shows_every_test_image_of_the_first_training_seed(material: Material) -> None:
    (drawn,) = scatter.section(material).drawings
    cloud = drawn.figure.axes[0].lines[0]
    cell = material.results.seeds(material.choice.best)[0]
    table = material.results.predictions(cell, "shapes_reward")
    np.testing.assert_allclose(np.asarray(cloud.get_xdata()), table["target"])
    np.testing.assert_allclose(np.asarray(cloud.get_ydata()), table["prediction"])


def test_selection_curve_is_the_mean_over_training_seeds(material: Material, simulated: Any) -> None:
    best = material.choice.best
    curve = selection.selection_curve(material.results, best, "shapes_reward")
    assert curve is not None
    assert curve.counts == list(range(1, simulated.world.seeds + 1))
    gains = []
    for cell in material.results.seeds(best).values():
        table = material.results.predictions(cell, "shapes_reward")
        points = selection_gain_curve(table["prediction"], table["target"], table["prompt_id"], curve.counts)
        gains.append(points[4].gain.estimate)
    assert curve.gain[3, 0] == pytest.approx(np.mean(gains))
    assert curve.score[0, 0] == pytest.approx(curve.random[0])
    assert (np.diff(curve.oracle) > 0).all()
    assert (curve.score[:, 0] <= curve.oracle + 1e-12).all()


def test_compute_axis_follows_the_cost_formula(material: Material) -> None:
    ax = selection.section(material).drawings[0].figure.axes[2]
    cost = np.asarray(ax.lines[-1].get_xdata(), dtype=float)
    np.testing.assert_allclose(cost, [0.2 * n + 0.8 for n in range(1, 6)])  # step 5 of 25


def test_a_lookahead_costs_a_call_more_for_every_candidate(
    material: Material, runs_copy: Path, write_scalars: Callable[[Path, str, list[str]], None]
) -> None:
    write_scalars(runs_copy, "cnn-5-", ["lookahead:shapes_reward"])
    results = load_results(runs_copy)
    choice = choose(results, material.choice.evaluators, None)
    section = selection.section(dataclasses.replace(material, results=results, choice=choice))
    cost = np.asarray(section.drawings[0].figure.axes[2].lines[-1].get_xdata(), dtype=float)
    np.testing.assert_allclose(cost, [6 / 25 * n + 20 / 25 for n in range(1, 6)])  # 5 calls and one, then 20
    text = " ".join(section.explanation.split())
    assert "with one more denoiser call each for the lookahead, and one to the end cost 0.24·N + 0.80" in text
    assert "takes one more denoiser call, a decode and an evaluator run for every candidate" in text
    assert "evaluator run" not in selection.section(material).explanation


def test_attention_finds_the_tokens_of_a_phrase(material: Material) -> None:
    assert material.cache is not None
    samples = material.cache.samples
    sample = int(samples.loc[samples["prompt"].str.count(" a ") >= 1, "sample_id"].iloc[0])
    maps = read_sample(material.cache, f"8/{ATTENTION}", sample)
    words = samples["prompt"].iloc[sample].split()
    lit = attention._lit(maps, samples["prompt"].iloc[sample])
    assert [part.name for part in lit[1:]] == [" ".join(words[i] for i in at) for _, at in phrases(words)]
    torch.testing.assert_close(lit[1].map, maps[2:4].mean(dim=0))  # "a red circle": begin, a, red, circle


def test_attention_without_aligned_tokens_shows_their_mean() -> None:
    maps = torch.rand(9, 4, 4)
    maps[7:] = 0
    (lit,) = attention._lit(maps, "an unalignable hippopotamus")
    torch.testing.assert_close(lit.map, maps[1:6].mean(dim=0))


def test_attention_shows_the_ends_of_the_ranking(material: Material) -> None:
    cell = material.results.seeds(material.choice.best)[0]
    table = material.results.predictions(cell, "shapes_reward")
    prompt = int(table["prompt_id"].iloc[0])
    rows = table[table["prompt_id"] == prompt]
    row = attention._row(material, f"5/{ATTENTION}", rows, "a red circle", 0.5)
    ordered = rows.sort_values("prediction")
    assert row.scores == [ordered["target"].iloc[-1], ordered["target"].iloc[0]]


def test_phrases() -> None:
    words = str.split("a red circle and a blue square left of a green cross")
    assert phrases(words) == [("red circle", [1, 2]), ("blue square", [5, 6]), ("green cross", [10, 11])]
    assert phrases(["cats,", "dogs"]) == [("cats", [0]), ("dogs", [1])]


def test_one_basis_for_all_samples_from_training_samples(material: Material) -> None:
    assert material.cache is not None
    tap = "up_blocks.1/activation"
    train = [0, 1, 5, 6]
    basis = activations.fit_basis(material.cache, tap, train)
    torch.testing.assert_close(basis.components.T @ basis.components, torch.eye(3).double())
    assert (basis.components.gather(0, basis.components.abs().argmax(0, keepdim=True)) > 0).all()
    arrays = [read_sample(material.cache, f"{step}/{tap}", s) for step in (1, 3, 5, 8) for s in train]
    vectors = torch.stack(arrays).permute(0, 2, 3, 1).reshape(-1, 6).double()
    centred = (vectors - vectors.mean(0)) / vectors.std(0, correction=0)
    _, _, right = torch.linalg.svd(centred, full_matrices=False)
    torch.testing.assert_close((basis.components.T @ right[:3].T).abs(), torch.eye(3).double(), atol=1e-4, rtol=0)
    colours = basis.colours(arrays[0])
    assert colours.shape == (8, 8, 3)
    assert 0 <= colours.min() <= colours.max() <= 1


def test_splits_are_those_of_training_not_of_generation(
    material: Material, runs_copy: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    fractions = SplitFractions(train=0.5, val=0.2, test=0.3)
    for path in runs_copy.glob("*/config.yaml"):
        path.write_text(path.read_text() + "data:\n  split:\n    train: 0.5\n    val: 0.2\n    test: 0.3\n")
    changed = dataclasses.replace(material, results=load_results(runs_copy))
    assert material.cache is not None
    samples = material.cache.samples
    split = pd.Series([split_of(prompt, fractions) for prompt in samples["prompt"]])
    counts = split[~samples["prompt_id"].duplicated()].value_counts()
    assert counts.to_dict() != samples.drop_duplicates("prompt_id")["split"].value_counts().to_dict()
    said = dict(environment_table(changed).rows)["prompts"]
    assert said == f"{counts['train']} train, {counts['val']} val, {counts['test']} test"
    seen: dict[str, list[int]] = {}
    fit, draw = activations.fit_basis, activations._draw
    monkeypatch.setattr(
        activations, "fit_basis", lambda cache, tap, train: seen.update(train=train) or fit(cache, tap, train)
    )
    monkeypatch.setattr(
        activations, "_draw", lambda cache, tap, shown, basis: seen.update(test=shown) or draw(cache, tap, shown, basis)
    )
    activations.section(changed)
    assert {name: set(split[samples]) for name, samples in seen.items()} == {"train": {"train"}, "test": {"test"}}
    assert dict(environment_table(material).rows)["prompts"] == "36 train, 12 val, 12 test"


def test_splits_of_a_former_rule_are_those_of_the_predictions(material: Material, runs_copy: Path) -> None:
    assert material.cache is not None
    for path in runs_copy.glob("*/metrics.json"):
        path.write_text(json.dumps(json.loads(path.read_text()) | {"inputs": {"samples": 1, "scores": {}}}))
    changed = dataclasses.replace(material, results=load_results(runs_copy))
    cell = next(iter(changed.results.seeds(changed.choice.best).values()))
    predicted = pd.read_parquet(runs_copy / cell / "predictions.parquet")
    prompts = material.cache.samples.drop_duplicates("prompt_id")
    found = dict(zip(prompts["prompt_id"], changed.splits(prompts), strict=True))
    of_prediction = dict(zip(predicted["prompt_id"], predicted["split"], strict=True))
    assert found == dict.fromkeys(prompts["prompt_id"], "train") | of_prediction
    for path in runs_copy.glob("*/metrics.json"):
        path.write_text(json.dumps(json.loads(path.read_text()) | {"splits": RULE}))
    assert load_results(runs_copy).former_splits(cell) == {}


def test_what_a_small_sweep_lacks_is_said(runs_copy: Path) -> None:
    material = _kept(runs_copy, step=[5], loss=["listwise"])
    assert "one step only (5)" in _reason(curves.section(material))
    assert "1 × 3" in _reason(heatmap.section(material))
    assert "one objective" in _reason(losses.section(material))
    assert "without the cache" in _reason(attention.section(material))
    assert "without the cache" in _reason(activations.section(material))


def test_a_cache_without_the_taps_is_said(material: Material, monkeypatch: pytest.MonkeyPatch) -> None:
    assert material.cache is not None
    manifest = dataclasses.replace(material.cache.manifest, taps={"latent": (4, 8, 8)})
    monkeypatch.setattr(material.cache, "manifest", manifest)
    assert "no maps of an attention tap" in _reason(attention.section(material))
    assert "no activation tap" in _reason(activations.section(material))


def test_an_evaluator_that_the_best_probe_does_not_predict_is_said(runs_copy: Path) -> None:
    for path in runs_copy.glob("cnn-*/predictions.parquet"):
        frame = pd.read_parquet(path)
        frame[frame["evaluator"] == "shapes_reward"].to_parquet(path)
    results = load_results(runs_copy)
    material = Material(results, choose(results, ["shapes_reward", "shapes_binding"], None), None)
    assert "does not predict shapes binding" in scatter.section(material).skipped[0]
    assert [drawn.name for drawn in selection.section(material).drawings] == ["selection_shapes_reward"]


@given(st.lists(st.floats(0, 1), min_size=1, max_size=8))
def test_labels_are_spread_without_overlap_or_reordering(values: list[float]) -> None:
    positions = np.sort(np.array(values))
    moved = curves.spread(positions, gap=0.1)
    assert (np.diff(moved) >= 0.1 - 1e-9).all()
    assert moved.mean() == pytest.approx(positions.mean())
    apart = np.arange(len(positions)) * 0.2
    np.testing.assert_allclose(curves.spread(apart, gap=0.1), apart)
