"""Reliability: bins, slopes and errors are those of a plain loop; what was calibrated can be undone."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats

from probe_lab.errors import ReportError
from probe_lab.report.analysis.chosen import choose
from probe_lab.report.analysis.loaded_results import load_results
from probe_lab.report.layout.material import Material
from probe_lab.report.layout.style import drawing
from probe_lab.report.sections import reliability, scatter


def _table(prompts: int, seeds: int, slope: float, noise: float, seed: int = 0) -> pd.DataFrame:
    rng = np.random.default_rng(seed)
    prediction = rng.normal(2, 1, size=prompts * seeds)
    target = 5 + slope * (prediction - 2) + noise * rng.normal(size=len(prediction))
    return pd.DataFrame({"prompt_id": np.repeat(np.arange(prompts), seeds), "prediction": prediction, "target": target})


def _by_loop(table: pd.DataFrame) -> tuple[list[tuple[float, float, int]], float]:
    """(mean prediction, mean target, images) of each tenth, and the calibration error."""
    ordered = table.sort_values("prediction")
    parts = [ordered.iloc[i : i + len(table) // 10] for i in range(0, len(table), len(table) // 10)]
    bins = [(part["prediction"].mean(), part["target"].mean(), len(part)) for part in parts]
    return bins, sum(n * abs(t - p) for p, t, n in bins) / len(table)


@settings(max_examples=25, deadline=None)
@given(st.integers(0, 1000), st.floats(-2, 2), st.floats(0.01, 3))
def test_bins_line_and_error_are_those_of_a_loop(seed: int, slope: float, noise: float) -> None:
    table = _table(20, 4, slope, noise, seed)
    bins, error = _by_loop(table)
    found = reliability.bins_of(table)
    np.testing.assert_allclose(found.prediction, [p for p, _, _ in bins])
    np.testing.assert_allclose([value.estimate for value in found.target], [t for _, t, _ in bins])
    assert found.size.tolist() == [n for _, _, n in bins]
    known = reliability.calibration(table)
    assert known.error == pytest.approx(error)
    line = np.polyfit(table["prediction"], table["target"], 1)
    assert [known.slope.estimate, known.intercept.estimate] == pytest.approx(list(line), abs=1e-8)
    assert known.slope.lower <= known.slope.estimate <= known.slope.upper
    assert known.relative == pytest.approx(error / table["target"].std(ddof=0))


def test_intervals_of_the_line_are_those_of_a_jackknife_over_prompts() -> None:
    table = _table(30, 4, 0.7, 0.5)
    known = reliability.calibration(table)
    lines = [np.polyfit(*(t[["prediction", "target"]].to_numpy().T), 1) for t in _without_each_prompt(table)]
    errors = np.sqrt(29 / 30 * ((lines - np.mean(lines, axis=0)) ** 2).sum(axis=0))
    for value, error in zip((known.slope, known.intercept), errors, strict=True):
        assert value.upper - value.estimate == pytest.approx(stats.t.ppf(0.975, 29) * error)
        assert value.estimate - value.lower == pytest.approx(value.upper - value.estimate)


def _without_each_prompt(table: pd.DataFrame) -> list[pd.DataFrame]:
    return [table[table["prompt_id"] != prompt] for prompt in table["prompt_id"].unique()]


def test_the_line_of_several_trainings_is_their_mean_with_what_they_differ_by() -> None:
    one, other = _table(30, 4, 0.7, 0.5), _table(30, 4, 0.7, 0.5)
    other["prediction"] *= 1.5  # a training that is too sure of itself
    both, alone = reliability.calibration(one, other), reliability.calibration(one)
    slopes = [reliability.calibration(table).slope.estimate for table in (one, other)]
    assert both.slope.estimate == pytest.approx(np.mean(slopes))
    assert both.slope.upper - both.slope.lower > 2 * (alone.slope.upper - alone.slope.lower)


def test_right_predictions_err_by_chance_alone_and_wrong_ones_by_more() -> None:
    right = _table(100, 8, 1.0, 1.0).assign(target=lambda t: t["target"] - 3)
    known = reliability.calibration(right)
    assert known.slope.lower < 1 < known.slope.upper
    assert known.error < 2 * known.chance
    wide = reliability.calibration(right.assign(prediction=2 + 3 * (right["prediction"] - 2)))
    assert wide.slope.estimate == pytest.approx(known.slope.estimate / 3)
    assert wide.error > 5 * wide.chance


def test_equal_predictions_stay_together() -> None:
    table = _table(10, 4, 1.0, 1.0)
    blind = table.assign(prediction=table["prompt_id"] % 3)
    found = reliability.bins_of(blind)
    assert found.prediction.tolist() == [0, 1, 2]
    assert found.size.tolist() == [16, 12, 12]
    constant = reliability.calibration(table.assign(prediction=5.0))
    assert constant.slope.estimate == 0
    assert constant.error == pytest.approx(abs(table["target"].mean() - 5))


@pytest.fixture
def material(simulated: Any) -> Material:
    results = load_results(simulated.runs)
    return Material(results, choose(results, simulated.world.evaluators, None), None)


def test_section_shows_every_evaluator_and_the_baselines(material: Material) -> None:
    with drawing():
        section = reliability.section(material)
    assert section.skipped == ()
    (table,) = section.tables
    models = ["best probe", "prompt only", "linear probe", "decoded x0 prediction"]
    assert [row[:2] for row in table.rows] == [(e, m) for e in ("shapes reward", "shapes binding") for m in models]
    cells = material.results.seeds(material.choice.best).values()
    slopes = []
    for cell in cells:
        rows = material.results.predictions(cell, "shapes_reward")
        slopes.append(np.polyfit(rows["prediction"], rows["target"], 1)[0])
    assert table.rows[0][2].estimate == pytest.approx(np.mean(slopes))
    panels = [ax for ax in section.drawings[0].figure.axes if ax.get_title(loc="left")]
    assert [ax.get_title(loc="left").split("\n")[0] for ax in panels] == ["shapes reward", "shapes binding"]
    assert f"slope {np.mean(slopes):.2f}" in panels[0].get_title(loc="left")
    first = material.results.predictions(next(iter(cells)), "shapes_reward")
    shown = panels[0].lines[-1]
    np.testing.assert_allclose(np.asarray(shown.get_xdata(), float), reliability.bins_of(first).prediction)
    assert "Suspicious would be" in section.explanation


def test_calibration_can_be_undone_where_it_is_stored(simulated: Any, runs_copy: Path) -> None:
    results = load_results(runs_copy)
    choice = choose(results, ["shapes_reward"], None)
    for cell in results.seeds(choice.best).values():
        targets = {"evaluators": ["other", "shapes_reward"], "mean": [0, 0.5], "std": [1, 0.1], "slope": [1, 2.0]}
        (runs_copy / cell / "probe.json").write_text(json.dumps({"targets": targets | {"shift": [0, 0.3]}}))
    cell = next(iter(results.seeds(choice.best).values()))
    after = results.predictions(cell, "shapes_reward")
    before = reliability.uncalibrated(results, cell, "shapes_reward", after)
    assert before is not None
    raw = (before["prediction"] - 0.5) / 0.1  # what the network said
    np.testing.assert_allclose(0.5 + 0.1 * (0.3 + 2.0 * raw), after["prediction"])
    assert reliability.uncalibrated(results, cell, "shapes_layout", after) is None
    with drawing():
        (table,) = reliability.section(Material(results, choice, None)).tables
    rows = {row[1]: row for row in table.rows}
    assert rows["best probe, before"][2].estimate == pytest.approx(2 * rows["best probe"][2].estimate)


def test_constant_scores_and_missing_evaluators_are_named(material: Material, runs_copy: Path) -> None:
    cell = next(iter(material.results.seeds(material.choice.best).values()))
    path = runs_copy / cell / "predictions.parquet"
    table = pd.read_parquet(path)
    table.loc[table["evaluator"] == "shapes_reward", "target"] = 1.0
    table.to_parquet(path, index=False)
    results = load_results(runs_copy)
    choice = dataclasses.replace(material.choice, evaluators=("shapes_reward", "image_reward"))
    section = reliability.section(Material(results, choice, None))
    assert section.drawings == ()
    assert section.skipped == (
        "shapes reward: all test images have the same score.",
        "The best probe does not predict ImageReward.",
    )


def test_a_probe_without_units_is_said_where_its_predictions_are_drawn(simulated: Any, runs_copy: Path) -> None:
    """One of two trainings: its sentence counts; an older probe.json, which does not say, draws as before."""
    results = load_results(runs_copy)
    choice = choose(results, ["shapes_reward"], None)
    cells = list(results.seeds(choice.best).values())
    known = {"mean": [0], "std": [1], "slope": [1.0], "shift": [0.0], "evaluators": ["shapes_reward"]}
    for cell, unscaled in zip(cells, (["shapes_reward"], []), strict=True):
        (runs_copy / cell / "probe.json").write_text(json.dumps({"targets": known | {"unscaled": unscaled}}))
    material = Material(results, choice, None)
    with drawing():
        sections = [reliability.section(material), scatter.section(material)]
    for section in sections:
        assert "for shapes reward (1 of 2 trainings): these predictions have no units" in section.explanation
    (ax,) = (ax for ax in sections[1].drawings[0].figure.axes if ax.get_visible())
    assert ax.get_ylabel() == "predicted order (no units)"
    for cell in cells:
        (runs_copy / cell / "probe.json").write_text(json.dumps({"targets": known}))
    with drawing():
        assert "no units" not in reliability.section(material).explanation
        assert "no units" not in scatter.section(material).explanation


def test_a_training_without_a_rising_line_counts_before_as_it_does_after(simulated: Any, runs_copy: Path) -> None:
    results = load_results(runs_copy)
    choice = choose(results, ["shapes_reward"], None)
    cells = list(results.seeds(choice.best).values())

    def describe(cell: str, slope: float, unscaled: list[str]) -> None:
        targets = {"evaluators": ["shapes_reward"], "mean": [0.0], "std": [1.0], "slope": [slope], "shift": [0.0]}
        (runs_copy / cell / "probe.json").write_text(json.dumps({"targets": targets | {"unscaled": unscaled}}))

    describe(cells[0], 2.0, [])
    describe(cells[1], 1.0, ["shapes_reward"])
    one, other = (results.predictions(cell, "shapes_reward") for cell in cells)
    both = reliability.calibration(one.assign(prediction=one["prediction"] / 2), other)
    before = reliability.of_variant(results, choice.best, "shapes_reward", calibrated=False)
    assert before is not None
    assert before.slope.estimate == pytest.approx(both.slope.estimate)
    material = Material(results, choice, None)
    with drawing():
        assert "“before” in the table is without it" in reliability.section(material).explanation
        describe(cells[0], 1.0, ["shapes_reward"])
        assert "none of the trainings has a rising one" in reliability.section(material).explanation


@pytest.mark.parametrize("content", ["{", "[]", '{"targets": 3}'])
def test_a_damaged_description_of_a_probe_is_one_line(simulated: Any, runs_copy: Path, content: str) -> None:
    results = load_results(runs_copy)
    cell = str(results.cells["cell"].iloc[0])
    (runs_copy / cell / "probe.json").write_text(content)
    with pytest.raises(ReportError, match=r"probe\.json cannot be read .*: train the cell again"):
        reliability.unscaled(results, cell)
