"""The first table: the difference of the best probe and a baseline, on the same prompts."""

from __future__ import annotations

import json
from typing import Any

import numpy as np
import pandas as pd
import pytest

from probe_lab.metrics import compare_predictions, holm, within_prompt_estimate
from probe_lab.report.analysis.chosen import choose
from probe_lab.report.analysis.loaded_results import load_results
from probe_lab.report.analysis.results import Value
from probe_lab.report.layout.material import Material
from probe_lab.report.sections.headline import DIFFERENCE, headline_tables

EVALUATOR = "shapes_binding"


def test_differences_average_the_seeds_in_every_resample(simulated: Any) -> None:
    results = load_results(simulated.runs)
    choice = choose(results, [EVALUATOR], None)
    (table,) = headline_tables(Material(results, choice, None))
    at = table.columns.index(DIFFERENCE)
    for row, (model, variant) in zip(table.rows[1:], choice.baselines.items(), strict=True):
        sides = [
            [pd.read_parquet(simulated.runs / cell / "predictions.parquet") for cell in results.seeds(one).values()]
            for one in (choice.best, variant)
        ]
        expected = compare_predictions(*sides, ["srcc_within"], evaluator=EVALUATOR)["srcc_within"][2]
        found = row[at]
        assert isinstance(found, Value), model
        assert (found.estimate, found.lower, found.upper) == (expected.estimate, expected.lower, expected.upper)
        parts = [[t[(t["evaluator"] == EVALUATOR) & (t["split"] == "test")] for t in side] for side in sides]
        means = [
            np.mean([within_prompt_estimate(p["prediction"], p["target"], p["prompt_id"], "srcc_within") for p in side])
            for side in parts
        ]
        assert found.estimate == pytest.approx(means[0] - means[1])
    assert len(sides[0]) == 2


def test_what_was_not_tested_alike_has_no_difference(runs_copy: Any) -> None:
    path = next(runs_copy.glob("linear*/predictions.parquet"))
    table = pd.read_parquet(path)
    table[(table["split"] == "val") | (table["prompt_id"] % 10 == 4)].to_parquet(path)
    results = load_results(runs_copy)
    (table,) = headline_tables(Material(results, choose(results, [EVALUATOR], None), None))
    differences = {row[0]: row[table.columns.index(DIFFERENCE)] for row in table.rows[1:]}
    absent = [name for name, value in differences.items() if value is None]
    assert [name.split(",")[0] for name in absent] == ["linear probe"]


def test_the_control_is_a_range_over_shuffles(runs_copy: Any) -> None:
    """Its predictions are those of one shuffle, so it has no paired difference; once trained, the caption warns."""
    results = load_results(runs_copy)
    (table,) = headline_tables(Material(results, choose(results, [EVALUATOR], None), None))
    assert "Shuffled labels were trained once" in table.caption
    path = next(runs_copy.glob("shuffled_labels*")) / "metrics.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | {"shuffles": 10}))
    results = load_results(runs_copy)
    (table,) = headline_tables(Material(results, choose(results, [EVALUATOR], None), None))
    row = next(row for row in table.rows if str(row[0]).startswith("shuffled labels"))
    assert row[table.columns.index(DIFFERENCE)] is None
    assert "Shuffled labels: mean of 10 trainings" in table.caption
    assert "Suspicious is a range within prompts that leaves out 0" in table.caption


def test_differences_of_all_baselines_are_one_family(simulated: Any) -> None:
    results = load_results(simulated.runs)
    (table,) = headline_tables(Material(results, choose(results, [EVALUATOR], None), None))
    rows = table.rows[1:]
    values = [row[table.columns.index(DIFFERENCE)] for row in rows]
    assert all(isinstance(value, Value) for value in values)
    adjusted = holm([value.p for value in values if isinstance(value, Value)])
    assert [row[table.columns.index("p (Holm)")] for row in rows] == pytest.approx(adjusted.tolist())
