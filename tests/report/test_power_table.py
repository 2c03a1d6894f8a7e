"""How large an experiment has to be, from the finished cells of a simulated one."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest

from probe_lab.compare.power_table import CANDIDATES, DIFFERENCES, assumed_basis, basis_of, power_lines, power_tables
from probe_lab.metrics import measured_predictions
from probe_lab.metrics.power import difference_variance, prompts_needed


def test_components_are_medians_over_pairs_of_settings(learned: Any) -> None:
    basis = basis_of(learned.runs, "shapes_reward")
    assert basis.candidates == learned.world.seeds
    groups: dict[str, list[pd.DataFrame]] = {}
    for path in sorted(learned.runs.glob("*/predictions.parquet")):
        if not path.parent.name.startswith("prompt_only"):
            groups.setdefault(path.parent.name.rpartition("-")[0], []).append(pd.read_parquet(path))
    names = list(groups)
    measured = measured_predictions(groups, ["srcc_within"], evaluator="shapes_reward")
    pairs = [(one, other) for i, one in enumerate(names) for other in names[i + 1 :]]
    found = [difference_variance(*(measured[side]["srcc_within"] for side in pair)) for pair in pairs]
    assert f"from {len(pairs)} pairs of settings" in basis.text
    variance = basis.variances["srcc_within"]
    assert variance.prompt == pytest.approx(np.median([one.prompt for one in found]))
    assert variance.training == pytest.approx(np.median([one.training for one in found if one.training >= 0]))


def test_without_cells_the_assumptions_are_said(tmp_path: Path) -> None:
    basis = basis_of(tmp_path, "shapes_reward")
    assert basis == assumed_basis()
    assert "assumed, since nothing is trained yet" in " ".join(power_lines(basis))


def test_the_tables_have_the_fewest_prompts() -> None:
    basis = assumed_basis()
    first, second = power_tables(basis)
    assert first.row_count == second.row_count == len(DIFFERENCES) * len(CANDIDATES)
    row = [list(column.cells)[-2] for column in second.columns]
    expected = [prompts_needed(basis.variances["selection_gain"], 0.1, trainings) for trainings in (1, 2, 4, 8)]
    assert row == ["0.1", "8", *(str(count) for count in expected)]
    assert math.isfinite(basis.variances["srcc_within"].training)
