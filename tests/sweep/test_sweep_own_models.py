"""Baselines and architectures from outside the package: swept by spawned workers, compared, reported, loaded."""

from __future__ import annotations

import shutil
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch
from omegaconf import OmegaConf

from probe_lab.config import Experiment, with_changes
from probe_lab.config.load import build_experiment
from probe_lab.engines import local
from probe_lab.errors import ConfigError, ProbeError, SweepError
from probe_lab.probes import Inputs, load_probe
from probe_lab.processes import spawn_context
from probe_lab.report import build_report
from probe_lab.sweep import cells, compare, run_sweep
from probe_lab.sweep.plan import plan_sweep

OWN = ["my_probes:Median", "my_probes:Edges", "my_probes:Mine"]


def swept(experiment: Experiment, *models: str) -> Experiment:
    content = experiment.to_dict() | {"sweep": [{"probe.model": [*models]}]}
    return build_experiment(OmegaConf.create(content), OmegaConf.create({}))


def test_models_from_outside_are_swept_by_spawned_workers_compared_and_reported(
    experiment: Experiment, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setattr(local, "start_context", lambda **how: spawn_context())
    ours = swept(experiment, "cnn", "linear", *OWN)
    plan = plan_sweep(ours)
    assert {cell.experiment.probe.model for cell in plan.cells} == {"cnn", "linear", *OWN}
    summary = run_sweep(ours)
    assert summary.failed == ()

    folders = {cell.experiment.probe.model: ours.runs_folder / cell.name for cell in cells(ours)}
    table = compare(ours.runs_folder).set_index("model")
    assert set(table.index) == {"cnn", "linear", *OWN}
    assert table.loc["my_probes:Median", "good/srcc_within"] == pytest.approx(1.0)
    assert table.loc["my_probes:Edges", "good/srcc_within"] > 0.5
    assert table.loc["my_probes:Median", "taps"] == "x0"
    assert not (folders["my_probes:Median"] / "probe.json").exists()

    page = build_report(
        runs=ours.runs_folder, cache=ours.cache_folder, out=tmp_path / "report", title="own", evaluators=[]
    )
    headline = pd.read_csv(next((tmp_path / "report" / "tables").glob("headline_good*.csv"))).iloc[:, 0].astype(str)
    for label in ("median of x0", "extremes"):
        assert headline.str.contains(label).any()
    assert "my probe" in page.read_text()

    probe = load_probe(folders["my_probes:Mine"])
    values = torch.randn(3, 4, 8, 8)
    alone = probe.predict(Inputs({"mid/activation": values}, torch.full((3,), 5)))
    assert np.isfinite(alone.numpy()).all()
    # A file names no module that is imported for it: whoever loads such a probe has imported what builds it.
    (tmp_path / "sly.py").write_text("raise AssertionError")
    monkeypatch.chdir(tmp_path)
    shutil.copy(folders["my_probes:Mine"] / "probe.safetensors", tmp_path)
    described = (folders["my_probes:Mine"] / "probe.json").read_text()
    (tmp_path / "probe.json").write_text(described.replace("my_probes:Mine", "sly:Mine"))
    with pytest.raises(ProbeError, match=r"kind='sly:Mine', .*import the module of your own first"):
        load_probe(tmp_path)


@pytest.mark.parametrize(
    ("model", "told"),
    [
        ("median", "there is no probe model 'median': .*allowed: attention_entropy, cnn.*or write module:attribute"),
        ("my_probes:Medain", "'my_probes' has no 'Medain': did you mean 'Median'"),
        ("my_probez:Median", "there is no module 'my_probez'"),
        ("my_probes:no_kind", "'my_probes:no_kind' is a int: name an instance of ProbeKind"),
        ("my_probes:Corner", "'my_probes:Corner' is a Corner: name an instance of ProbeKind"),
        ("my_probes:", "names no object: write module:attribute"),
    ],
)
def test_what_names_no_model_is_refused_before_any_work(experiment: Experiment, model: str, told: str) -> None:
    for refused in (lambda: with_changes(experiment, {"probe.model": model}), lambda: swept(experiment, "cnn", model)):
        with pytest.raises(ConfigError, match=rf"'probe.model' is not valid: .*{told}"):
            refused()


def test_predictions_of_another_shape_are_a_failed_cell(experiment: Experiment) -> None:
    ours = with_changes(experiment, {"probe.model": "my_probes:Flat"})
    with pytest.raises(SweepError, match=r"my_probes:Flat predicts numbers of shape .* give \[samples, evaluators\]"):
        run_sweep(ours)
