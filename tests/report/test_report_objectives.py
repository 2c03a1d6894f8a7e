"""Which loss: its numbers against loops over prompts, its recommendation from validation alone, its words."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pandas as pd
import pytest
from scipy.stats import spearmanr

from probe_lab.metrics import Measured, compare_predictions, holm
from probe_lab.metrics.bootstrap import mean_over
from probe_lab.report.analysis.loaded_results import load_results
from probe_lab.report.analysis.objectives import METRICS, LossesCompared, LossResult, LossSetting, Study, study, verdict
from probe_lab.report.analysis.results import RESAMPLES, Results
from probe_lab.runs.table import write_results

EVALUATORS = ("shapes_reward", "shapes_binding")
LOSSES = {"mse", "listwise", "listwise+infonce", "pairwise"}
Array = npt.NDArray[np.float64]


def parts_of(runs: Path) -> list[Results]:
    results = load_results(runs)
    return [results, *results.elsewhere]


@pytest.fixture(scope="module")
def found(two_backbones: Any) -> Study:
    result = study(parts_of(two_backbones.runs), EVALUATORS, 5)
    assert result is not None
    return result


def tables(runs: Path, backbone: str, loss: str) -> list[pd.DataFrame]:
    cells = sorted(
        path.parent for path in runs.glob(f"cnn-*-{loss}-[01]/config.yaml") if f"name: {backbone}\n" in path.read_text()
    )
    assert len(cells) == 2
    return [pd.read_parquet(cell / "predictions.parquet") for cell in cells]


def per_prompt(table: pd.DataFrame, evaluator: str) -> Array:
    """[prompts]: SRCC of the seeds of every test prompt."""
    rows = table[(table["evaluator"] == evaluator) & (table["split"] == "test")]
    return np.array([spearmanr(part["prediction"], part["target"]).statistic for _, part in rows.groupby("prompt_id")])


def test_every_pair_is_what_two_cells_compare_to(found: Study, two_backbones: Any) -> None:
    assert [(pair.origin, pair.evaluator) for pair in found.pairs] == [
        (origin, evaluator) for origin in ("tiny-sd", "tiny-sd3") for evaluator in EVALUATORS
    ]
    assert {one.loss for one in found.objectives} == LOSSES
    assert (found.seeds, found.left_out) == ((2, 2), ())
    for pair in found.pairs:
        sides = {loss: tables(two_backbones.runs, pair.origin, loss) for loss in LOSSES}
        assert pair.prompts == {"tiny-sd": 12, "tiny-sd3": 9}[pair.origin]
        for one in found.objectives:
            for other in found.references.values():
                expected = compare_predictions(
                    sides[one.loss], sides[other.loss], [*METRICS], evaluator=pair.evaluator, resamples=RESAMPLES
                )
                for metric in METRICS:
                    for value, interval in (
                        (pair.value(one, metric), expected[metric][0]),
                        (pair.minus(one, other, metric), expected[metric][2]),
                    ):
                        numbers = (value.estimate, value.lower, value.upper)
                        assert numbers == pytest.approx((interval.estimate, interval.lower, interval.upper))


def test_summary_is_the_mean_of_pairs_and_no_narrower_than_prompts_alone(found: Study, two_backbones: Any) -> None:
    """Evaluators of a backbone share its prompts and trainings, backbones are independent."""
    of_origin: dict[str, dict[str, Array]] = {loss: {} for loss in LOSSES}
    for origin in ("tiny-sd", "tiny-sd3"):
        for loss in LOSSES:
            sides = [
                [per_prompt(t, evaluator) for evaluator in EVALUATORS] for t in tables(two_backbones.runs, origin, loss)
            ]
            of_origin[loss][origin] = np.mean(sides, axis=(0, 1))
    for one in found.objectives:
        gaps = [of_origin[one.loss][origin] - of_origin["mse"][origin] for origin in ("tiny-sd", "tiny-sd3")]
        value = found.minus(one, found.references["mse"], "srcc_within")
        assert value.estimate == pytest.approx(np.mean([gap.mean() for gap in gaps]), abs=1e-12)
        error = np.sqrt(sum(gap.var(ddof=1) / len(gap) for gap in gaps)) / 2
        assert value.upper - value.lower >= 2 * 1.96 * error
        mean = found.value(one, "srcc_within").estimate
        assert mean == pytest.approx(np.mean([values.mean() for values in of_origin[one.loss].values()]))


def test_losses_are_told_apart_with_all_comparisons_considered(found: Study) -> None:
    for pair in found.pairs:
        asked = {frozenset(key) for key in pair.distinct}
        values = {key: pair.minus(*sorted(key, key=list(pair.outcomes).index), "srcc_within").p for key in asked}
        adjusted = dict(zip(values, holm(list(values.values())), strict=True))
        for (one, other), p in pair.distinct.items():
            assert p == pytest.approx(adjusted[frozenset((one, other))])
        for one in found.objectives:
            assert pair.apart(one) == (one != pair.best and pair.distinct[pair.best, one] < 0.05)
    assert set(found.distinct) == set(found.objectives) - {found.recommended}


def test_recommended_by_validation_of_all_pairs_never_by_test(
    found: Study, two_backbones: Any, tmp_path: Path, edit_metrics: Callable[..., None]
) -> None:
    worst = found.objectives[-1]
    runs = Path(shutil.copytree(two_backbones.runs, tmp_path / "study"))

    def praised(row: dict[str, Any]) -> None:
        row["estimate"] = 0.99

    edit_metrics(runs, f"cnn-5-*-{worst.loss}-", "val", praised)
    again = study(parts_of(runs), EVALUATORS, 5)
    assert again is not None
    assert again.recommended == worst
    assert again.validation(worst) == pytest.approx(0.99)
    before, after = (one.value(worst, "srcc_within") for one in (found, again))
    assert (after.estimate, after.lower, after.upper) == pytest.approx((before.estimate, before.lower, before.upper))
    assert f"Train with {worst.label}" in verdict(again)
    means = [found.validation(one) for one in found.objectives]
    assert means == sorted(means, reverse=True)


def test_a_loss_that_one_backbone_lacks_is_left_out(two_backbones: Any, tmp_path: Path) -> None:
    runs = Path(shutil.copytree(two_backbones.runs, tmp_path / "study"))
    table = pd.read_parquet(runs / "results.parquet")
    gone = table["cell"].str.contains("transformer_blocks") & (table["loss"] == "listwise")
    write_results(runs, table[~gone])
    less = study(parts_of(runs), EVALUATORS, 5)
    assert less is not None
    assert {one.loss for one in less.objectives} == LOSSES - {"listwise"}
    assert less.left_out == ("listwise",)
    assert list(less.references) == ["mse"]
    assert "Probe-Select" not in verdict(less)


def test_losses_are_compared_at_the_same_other_keys(two_backbones: Any, tmp_path: Path) -> None:
    """A grid over dropout of one loss is no loss of its own; settings that only some losses have are."""
    runs = Path(shutil.copytree(two_backbones.runs, tmp_path / "study"))
    original = pd.read_parquet(runs / "results.parquet")
    cell = "cnn-5-up_blocks.1.attentions.0_attention-mse-0"
    shutil.copytree(runs / cell, runs / "more")
    own = original[original["cell"] == cell]
    axes = json.loads(own["axes"].iloc[0]) | {"probe.dropout": 0.4}
    added = pd.concat([original, own.assign(cell="more", axes=json.dumps(axes))])
    write_results(runs, added)
    found = study(parts_of(runs)[:1], EVALUATORS, 5)
    assert found is not None
    assert {(one.loss, one.extra) for one in found.objectives} == {(loss, "{}") for loss in LOSSES}
    some = added["loss"].str.contains("listwise") & added["cell"].str.contains("attentions")
    warm = [json.dumps(json.loads(text) | {"probe.temperature": 0.5}) for text in added["axes"]]
    warmed = added.assign(axes=added["axes"].where(~some, pd.Series(warm, index=added.index)))
    write_results(runs, warmed)
    found = study(parts_of(runs)[:1], EVALUATORS, 5)
    assert found is not None
    assert sorted(one.label for one in found.objectives) == [
        "MSE", "MSE, dropout 0.4", "RankNet", "listwise + InfoNCE, temperature 0.5", "listwise, temperature 0.5"
    ]  # fmt: skip


def test_one_loss_is_no_choice(two_backbones: Any, tmp_path: Path) -> None:
    runs = Path(shutil.copytree(two_backbones.runs, tmp_path / "study"))
    table = pd.read_parquet(runs / "results.parquet")
    write_results(runs, table[table["loss"] == "mse"])
    assert study(parts_of(runs), EVALUATORS, 5) is None


def made(values: dict[str, tuple[float, float]], width: float = 0.02) -> Study:
    """One pair of the given (validation, test) SRCC on 100 prompts, which all losses share but for ``width``."""
    rng = np.random.default_rng(0)
    common = rng.normal(scale=0.3, size=100)
    outcomes = {}
    for loss, (validation, test) in values.items():
        own = common + rng.normal(scale=width, size=100)
        ratio = mean_over(test + own - own.mean(), np.zeros(100, np.bool_))
        measured = dict.fromkeys(METRICS, Measured.of_ratios([ratio]))
        outcomes[LossSetting(loss, "{}")] = LossResult(validation, measured, dict.fromkeys(METRICS, (test,)))
    order = tuple(sorted(outcomes, key=lambda one: -outcomes[one].validation))
    references = {one.loss: one for one in order if one.loss in ("listwise", "mse")}
    return Study(order, references, (LossesCompared("tiny-sd", "shapes_reward", "step 5", 100, outcomes),), (), (1, 1))


def test_of_many_losses_only_what_is_really_behind_is_told_apart() -> None:
    """Twelve equal losses and one worse: alone, one interval in twenty would leave out 0."""
    values = {f"l{i}": (0.3, 0.3) for i in range(12)} | {"mse": (0.1, 0.2), "listwise": (0.35, 0.3)}
    study = made(values, width=0.1)
    worst = next(one for one in study.objectives if one.loss == "mse")
    assert study.apart(worst) == 1
    assert sum(study.apart(one) for one in study.objectives) == 1
    assert [one.loss for one, p in study.distinct.items() if p < 0.05] == ["mse"]


def test_the_verdict_says_what_is_apart_and_what_is_not() -> None:
    text = verdict(made({"mse": (0.1, 0.1), "listwise": (0.3, 0.301), "spearman": (0.4, 0.305)}))
    assert text.startswith("Train with Spearman: of 3 losses it ranks the seeds of validation prompts best (mean over")
    assert "not told apart from listwise (the ranking loss of Probe-Select; difference 0.004 [" in text
    assert "] more than MSE (the loss of Diffusion Probe), and it is apart from the best there in 0 of 1 case." in text
    assert text.endswith("Not told apart from it on average: listwise.")
    text = verdict(made({"mse": (0.5, 0.1), "listwise": (0.3, 0.4), "spearman": (0.4, 0.3)}))
    assert text.startswith("Train with MSE (the loss of Diffusion Probe): of 3")
    assert "0.300 [0.29" in text
    assert (
        "] less than listwise (the ranking loss of Probe-Select), and it is apart from the best there in 1 of 1 case."
        in text
    )
    assert text.endswith("All others are told apart from it. On average Spearman and listwise are ahead of it.")
