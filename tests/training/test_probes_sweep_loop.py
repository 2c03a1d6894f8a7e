"""A probe that a sweep trains is the one that Lightning's trainer gives."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest

from probe_lab.cache import Cache
from probe_lab.config import Experiment
from probe_lab.data import load_resident
from probe_lab.training.fit_cell import train_cell

ProbeOf = Callable[..., Experiment]


@pytest.mark.parametrize(
    ("probe", "trainer"),
    [
        ({"loss": "listwise"}, {}),
        ({"loss": "mse+listwise+infonce", "oversample": 1.0}, {}),
        ({"loss": "pairwise", "ema": 0.0, "text": "pooled"}, {"gradient_clip": 0.0}),
        ({"loss": "mse"}, {"accumulate": 3}),
        ({"loss": "listwise"}, {"patience": 1}),
        ({"model": "prompt_only"}, {}),
        ({"model": "shuffled_labels", "shuffles": 2}, {}),
    ],
)
def test_a_grouped_probe_is_the_one_that_is_trained_alone(
    experiment: Experiment,
    probe_of: ProbeOf,
    planted: Cache,
    tmp_path: Path,
    probe: dict[str, Any],
    trainer: dict[str, Any],
) -> None:
    experiment = probe_of(experiment, **probe)
    experiment = replace(experiment, trainer=replace(experiment.trainer, max_epochs=4, **trainer))
    shared = load_resident(planted, [f"5/{tap}" for tap in planted.manifest.taps])
    train_cell(experiment, planted, tmp_path / "alone", with_trainer=True)
    train_cell(experiment, planted, tmp_path / "grouped", with_trainer=False, resident=shared)
    alone, grouped = (pd.read_parquet(tmp_path / name / "predictions.parquet") for name in ("alone", "grouped"))
    np.testing.assert_allclose(alone["prediction"], grouped["prediction"], rtol=0, atol=1e-5)
    assert alone["prediction"].std() > 0
    first, second = (json.loads((tmp_path / name / "metrics.json").read_text()) for name in ("alone", "grouped"))
    assert len(first["history"]) == len(second["history"])
    assert first.get("stopped") == second.get("stopped")
    assert first["history"][-1] == pytest.approx(second["history"][-1], abs=1e-5)
