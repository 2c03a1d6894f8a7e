"""The README's claim and the report's part "Which loss?" are one computation."""

from __future__ import annotations

import json
from pathlib import Path

import pandas as pd
import pytest

from benchmarks.losses import measure, table
from benchmarks.made_up_runs import experiment_in, truth_of, write_runs
from probe_lab.report.analysis.loaded_results import load_results
from probe_lab.report.analysis.objectives import study, verdict
from probe_lab.runs.table import write_results

EXPERIMENT = """
name: made_up
backbone: tiny-sd
prompts: {source: shapes, count: 60, seeds: 4}
sampling: {steps: 25, scheduler: ddim, height: 64, width: 64}
evaluators: [shapes_reward, shapes_layout]
probe: {step: 5, taps: [up_blocks.1.attentions.0/attention]}
sweep:
  - trainer.seed: [0, 1]
    probe.loss: [mse, listwise, spearman]
  - backbone: [tiny-sd3]
    cache.name: [other]
    probe.taps: [[transformer_blocks.3/attention]]
    trainer.seed: [0, 1]
    probe.loss: [mse, listwise, spearman]
"""


@pytest.fixture(scope="module")
def runs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    experiment = experiment_in(tmp_path_factory.mktemp("losses"), EXPERIMENT)
    write_runs(experiment, truth_of(experiment))
    return Path(experiment.runs_folder)


def test_numbers_and_words_are_the_report_s(runs: Path) -> None:
    result = json.loads(json.dumps(measure(runs)))
    results = load_results(runs)
    found = study([results, *results.elsewhere], ["shapes_reward", "shapes_layout"])
    assert found is not None
    assert result["sentence"] == verdict(found)
    assert (result["cells"], result["failed"], result["training_seeds"]) == (12, 0, [2, 2])
    assert sorted({pair["backbone"] for pair in result["pairs"]}) == ["tiny-sd", "tiny-sd3"]
    assert len(result["pairs"]) == 4
    listwise = found.references["listwise"]
    for one in found.objectives:
        value = found.minus(one, listwise, "selection_gain")
        numbers = result["losses"][one.label]["minus"]["listwise"]["selection_gain"]
        assert numbers == pytest.approx({"estimate": value.estimate, "lower": value.lower, "upper": value.upper})
    text = table(result)
    assert text.startswith(f"Train with {result['recommended']}")
    assert all(f"| {one.label} |" in text for one in found.objectives)


def test_runs_of_one_loss_are_refused(runs: Path) -> None:
    rows = pd.read_parquet(runs / "results.parquet")
    write_results(runs, rows[rows["loss"] == "mse"])
    with pytest.raises(SystemExit, match="no two losses that were trained alike"):
        measure(runs)
