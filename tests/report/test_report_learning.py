"""The learning curve: which variants make the line of a model, and what it shows of them."""

from __future__ import annotations

from typing import Any

import pytest

from probe_lab.report.analysis.chosen import choose
from probe_lab.report.analysis.loaded_results import load_results
from probe_lab.report.analysis.results import Value
from probe_lab.report.layout.material import Material
from probe_lab.report.layout.style import drawing
from probe_lab.report.sections import learning

EVALUATOR = "shapes_reward"


def material_of(simulated: Any) -> Material:
    results = load_results(simulated.runs)
    return Material(results, choose(results, [EVALUATOR], None), None)


@pytest.fixture(scope="module")
def material(learned: Any) -> Material:
    return material_of(learned)


def test_a_line_joins_what_differs_in_nothing_but_the_captions(material: Material) -> None:
    curves = learning.learning_curves(material.results, EVALUATOR)
    assert {model: [*curve] for model, curve in curves.items()} == {"cnn": [4, 12, 36], "linear": [4, 12, 36]}
    for curve in curves.values():
        for size, variant in curve.items():
            cells = material.results.seeds(variant).values()
            assert {material.results.trained[cell].train_prompts for cell in cells} == {size}


def test_numbers_are_over_prompts_and_training_seeds(material: Material, learned: Any) -> None:
    with drawing():
        section = learning.section(material)
    curve = learning.learning_curves(material.results, EVALUATOR)["cnn"]
    (table,) = section.tables
    rows = [row for row in table.rows if row[0] == "probe (CNN)"]
    assert [row[1] for row in rows] == [4, 12, 36]
    for (_, size, srcc, gain, seeds), variant in zip(rows, curve.values(), strict=True):
        assert (srcc, gain) == tuple(material.results.value(variant, EVALUATOR, m) for m in learning.METRICS_SHOWN)
        assert isinstance(srcc, Value), size
        assert seeds == learned.world.training_seeds
    (figure,) = [drawn.figure for drawn in section.drawings]
    for ax, column in zip(figure.axes, (2, 3), strict=True):
        (line,) = [line for line in ax.get_lines() if line.get_label() == "probe (CNN)"]
        assert ax.get_xscale() == "log"
        assert line.get_xdata().tolist() == [4, 12, 36]  # type: ignore[union-attr]
        assert line.get_ydata().tolist() == [row[column].estimate for row in rows]  # type: ignore[union-attr]


def test_without_several_numbers_of_captions_there_is_no_curve(simulated: Any) -> None:
    section = learning.section(material_of(simulated))
    assert not section.drawings
    assert "data.train_prompts" in section.skipped[0]
