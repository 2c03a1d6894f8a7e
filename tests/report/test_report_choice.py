"""The probe in front is chosen on the validation split; the step by the documented rule."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pandas as pd
import pytest

from probe_lab.errors import ReportError
from probe_lab.report.analysis.chosen import choose, main_slice, variant_text
from probe_lab.report.analysis.loaded_results import load_results
from probe_lab.report.analysis.results import Variant
from probe_lab.runs.table import write_results

Edit = Callable[[Path, str, str, Callable[[dict[str, Any]], None]], None]
WEAK = "cnn-5-down_blocks.1.attentions.0_attention-mse"


def _set(value: float) -> Callable[[dict[str, Any]], None]:
    def change(row: dict[str, Any]) -> None:
        if row["metric"] == "srcc_within" and row["evaluator"] == "shapes_reward":
            row["estimate"] = value

    return change


def test_best_is_chosen_on_validation_not_on_test(runs_copy: Path, edit_metrics: Edit) -> None:
    before = choose(load_results(runs_copy), ["shapes_reward"], None).best
    edit_metrics(runs_copy, WEAK, "val", _set(0.99))  # its test numbers stay the poorest
    results = load_results(runs_copy)
    best = choose(results, ["shapes_reward"], None).best
    assert (best.taps, best.loss) == ("down_blocks.1.attentions.0/attention", "mse")
    values = {v: results.value(v, "shapes_reward", "srcc_within") for v in (before, best)}
    assert values[before].estimate > values[best].estimate + 0.05


def test_validation_is_averaged_over_training_seeds(runs_copy: Path, edit_metrics: Edit) -> None:
    edit_metrics(runs_copy, f"{WEAK}-0", "val", _set(0.99))  # one lucky seed
    edit_metrics(runs_copy, f"{WEAK}-1", "val", _set(-0.99))
    assert choose(load_results(runs_copy), ["shapes_reward"], None).best.loss != "mse"


def test_the_first_evaluator_decides(runs_copy: Path, edit_metrics: Edit) -> None:
    edit_metrics(runs_copy, WEAK, "val", _set(0.99))
    results = load_results(runs_copy)
    assert choose(results, ["shapes_reward", "shapes_binding"], None).best.loss == "mse"
    assert choose(results, ["shapes_binding", "shapes_reward"], None).best.loss != "mse"


def test_undefined_validation_never_wins(runs_copy: Path, edit_metrics: Edit) -> None:
    edit_metrics(runs_copy, WEAK, "val", _set(float("nan")))
    assert choose(load_results(runs_copy), ["shapes_reward"], None).best.loss != "mse"


def test_primary_step(simulated: Any, runs_copy: Path) -> None:
    results = load_results(simulated.runs)
    assert choose(results, ["shapes_reward"], None).step == 5
    assert choose(results, ["shapes_reward"], 8).step == 8
    assert choose(results, ["shapes_reward"], 8).baselines == {}
    with pytest.raises(ReportError, match=r"step 4: .* one of 1, 3, 5, 8"):
        choose(results, ["shapes_reward"], 4)

    def step_of(keep: Callable[[pd.DataFrame], pd.Series]) -> int:
        table = pd.read_parquet(simulated.runs / "results.parquet")
        write_results(runs_copy, table[keep(table)])
        return choose(load_results(runs_copy), ["shapes_reward"], None).step

    probes = ["cnn"]
    assert step_of(lambda t: t["model"].isin(probes)) == 5
    assert step_of(lambda t: t["model"].isin(probes) & (t["step"] != 5)) == 3
    with pytest.raises(ReportError, match="baselines only"):
        step_of(lambda t: ~t["model"].isin(probes))


def test_the_step_of_the_baselines_comes_before_five(simulated: Any, runs_copy: Path) -> None:
    table = pd.read_parquet(simulated.runs / "results.parquet")
    table.loc[table["model"] != "cnn", "step"] = 3
    write_results(runs_copy, table)
    choice = choose(load_results(runs_copy), ["shapes_reward"], None)
    assert choice.step == 3
    assert len(choice.baselines) == 6


def test_an_unknown_evaluator_is_named_with_the_nearest(simulated: Any) -> None:
    with pytest.raises(ReportError, match="did you mean 'shapes_reward'"):
        choose(load_results(simulated.runs), ["shape_reward"], None)


def test_main_slice_is_the_widest_grid(simulated: Any) -> None:
    rows = main_slice(load_results(simulated.runs))
    assert set(rows["loss"]) == {"listwise"}
    assert set(rows["model"]) == {"cnn"}
    assert rows["step"].nunique() == 4


def test_variant_text_is_for_people() -> None:
    variant = Variant("cnn", 5, "up_blocks.1.attentions.0/attention+x0", "listwise+infonce", '{"ema": 0.9}')
    assert variant_text(variant) == "probe (CNN), up 1.0 attn + x0, listwise + InfoNCE, ema 0.9, step 5"
    assert variant_text(Variant("linear", 5, "x0", "listwise", "{}"), step=False) == "linear probe, x0"
    assert variant_text(Variant("noisy_latent", 5, "latent", "", "{}"), step=False) == "noisy latent"
