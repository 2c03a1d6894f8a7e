"""The paired bootstrap against a loop that copies rows, and its promises."""

from __future__ import annotations

import math

import numpy as np
import numpy.typing as npt
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats
from sklearn.metrics import roc_auc_score

from probe_lab import metrics
from probe_lab.errors import ConfigError, DataError

Array = npt.NDArray[np.float64]
RESAMPLES, SEED, THRESHOLD = 40, 3, 0.2


def world(trainings: int = 1, prompts: int = 12, seeds: int = 5, noise: float = 1.0) -> tuple[Array, Array, Array]:
    """Predictions [trainings, n], targets [n] with ties, prompts [n]; one prompt cannot be ranked."""
    rng = np.random.default_rng(trainings + int(10 * noise))
    target = (np.random.default_rng(9).normal(size=(prompts, seeds)) * 2).round() / 2
    target[4] = 1.0
    prediction = target.ravel() + noise * rng.normal(size=(trainings, target.size)).round(1)
    return prediction, target.ravel(), np.repeat(np.arange(prompts), seeds)


def plainly(metric: metrics.MetricName, prediction: Array, target: Array, prompt: Array) -> float:
    if metric in metrics.WITHIN_METRICS:
        return metrics.within_prompt_estimate(prediction, target, prompt, metric)  # type: ignore[arg-type]
    if metric == "auc":
        return float(roc_auc_score(target > THRESHOLD, prediction))
    statistic = {"srcc": stats.spearmanr, "ktc": stats.kendalltau, "pcc": stats.pearsonr}[metric]
    return float(statistic(prediction, target).statistic)


def copied_out(drawn: npt.NDArray[np.int64], prompt: Array) -> tuple[npt.NDArray[np.int64], npt.NDArray[np.int64]]:
    """Rows of a resample, and the prompt that each belongs to: a prompt that is drawn twice is two prompts."""
    rows = [np.flatnonzero(prompt == p) for p in drawn]
    return np.concatenate(rows), np.repeat(np.arange(len(drawn)), [len(r) for r in rows])


@pytest.mark.parametrize("metric", metrics.METRICS)
def test_equals_a_loop_over_copied_rows(metric: metrics.MetricName) -> None:
    """Three trainings against two, on the same prompts in every resample, averaged within it."""
    (a, target, prompt), (b, _, _) = world(3), world(2, noise=2.0)
    drawn = np.random.default_rng(SEED).integers(12, size=(RESAMPLES, 12))
    differences = []
    for draw in drawn:
        rows, group = copied_out(draw, prompt)
        means = [
            np.mean([plainly(metric, training[rows], target[rows], group) for training in side]) for side in (a, b)
        ]
        differences.append(means[0] - means[1])
    found = metrics.paired_difference(
        a, b, target, prompt, metric, threshold=THRESHOLD, resamples=RESAMPLES, seed=SEED, confidence=0.9
    )
    whole = [np.mean([plainly(metric, training, target, prompt) for training in side]) for side in (a, b)]
    assert found.estimate == pytest.approx(whole[0] - whole[1], abs=1e-12)
    assert (found.lower, found.upper) == pytest.approx(tuple(np.percentile(differences, [5, 95])), abs=1e-12)
    assert found.tied == (1 if metric in metrics.WITHIN_METRICS else 0)
    assert found.prompts + found.tied == 12


@pytest.mark.parametrize("metric", metrics.METRICS)
def test_a_probe_does_not_differ_from_itself(metric: metrics.MetricName) -> None:
    a, target, prompt = world(3)
    none = metrics.paired_difference(a, a, target, prompt, metric, threshold=THRESHOLD, resamples=20)
    assert (none.estimate, none.lower, none.upper) == (0, 0, 0)


@settings(max_examples=25)
@given(st.integers(0, 10_000), st.sampled_from(metrics.METRICS))
def test_exchanging_the_sides_exchanges_the_signs(seed: int, metric: metrics.MetricName) -> None:
    rng = np.random.default_rng(seed)
    _, target, prompt = world()
    a, b = rng.normal(size=(2, target.size)).round(1)
    there, back = (
        metrics.paired_difference(x, y, target, prompt, metric, threshold=THRESHOLD, resamples=30)
        for x, y in ((a, b), (b, a))
    )
    assert there.estimate == -back.estimate
    assert (there.lower, there.upper) == pytest.approx((-back.upper, -back.lower), abs=1e-12)


def test_the_sides_are_those_of_evaluate_and_the_difference_is_narrower() -> None:
    """A pair of like probes: what they share leaves the interval."""
    a, target, prompt = world(prompts=80)
    b = a + 0.2 * np.random.default_rng(0).normal(size=a.shape)
    found = metrics.paired_differences(a, b, target, prompt, metrics.METRICS, threshold=THRESHOLD)
    alone = [metrics.evaluate(x[0], target, prompt, threshold=THRESHOLD) for x in (a, b)]
    for metric, (first, second, difference) in found.items():
        for mine, theirs in ((first, alone[0][metric]), (second, alone[1][metric])):
            assert (mine.estimate, mine.lower, mine.upper) == pytest.approx(
                (theirs.estimate, theirs.lower, theirs.upper), abs=1e-12
            )
        assert difference.upper - difference.lower < 0.8 * (first.upper - first.lower)


def test_nothing_to_rank_is_nan() -> None:
    found = metrics.paired_difference([1, 2], [2, 1], [3, 3], [0, 0], "srcc_within", resamples=5)
    assert math.isnan(found.estimate)
    assert math.isnan(found.lower)
    assert (found.prompts, found.tied) == (0, 1)


def table(prediction: Array, target: Array, prompt: Array) -> pd.DataFrame:
    """As predictions.parquet holds it, with another split and another evaluator beside."""
    test = pd.DataFrame({"sample_id": np.arange(len(target)), "prompt_id": prompt, "split": "test", "evaluator": "e"})
    test = test.assign(target=target.astype(np.float32), prediction=prediction)
    beside = [test.assign(split="val", prediction=0.0), test.assign(evaluator="f", prediction=0.0)]
    return pd.concat([test, *beside], ignore_index=True)


def test_tables_are_laid_side_by_side_whatever_their_order() -> None:
    (a, target, prompt), (b, _, _) = world(2), world(1, noise=2.0)
    sides = [[table(row, target, prompt) for row in side] for side in (a, b)]
    sides[0][1] = sides[0][1].sample(frac=1.0, random_state=0)
    found = metrics.compare_predictions(sides[0], sides[1], ["srcc_within"], evaluator="e", resamples=30)
    expected = metrics.paired_differences(a, b, target, prompt, ["srcc_within"], resamples=30)
    assert found == expected


def test_several_settings_at_once_are_each_two_of_them() -> None:
    """One, two and three trainings; percentiles of the difference of two rows are the interval of those two alone."""
    sizes = {"a": 1, "b": 2, "c": 3}
    _, target, prompt = world()
    sides = {name: [table(row, target, prompt) for row in world(n, noise=n)[0]] for name, n in sizes.items()}
    names: list[metrics.MetricName] = ["srcc_within", "selection_gain", "srcc"]
    found = metrics.resample_predictions(sides, names, evaluator="e", resamples=30, seed=7)
    for one, other in (("a", "b"), ("c", "a"), ("b", "c")):
        expected = metrics.compare_predictions(sides[one], sides[other], names, evaluator="e", resamples=30, seed=7)
        for name in names:
            values = found[one][name] - found[other][name]
            assert values.shape == (31,)
            assert values[0] == expected[name][2].estimate
            lower, upper = np.percentile(values[1:], [2.5, 97.5])
            assert (lower, upper) == pytest.approx((expected[name][2].lower, expected[name][2].upper))
    with pytest.raises(DataError, match="no cell"):
        metrics.resample_predictions({"a": sides["a"], "b": []}, names, evaluator="e")
    with pytest.raises(ConfigError, match="pass threshold="):
        metrics.resample_predictions(sides, ["auc"], evaluator="e")


def test_tables_of_other_images_scores_or_evaluators_are_refused() -> None:
    a, target, prompt = world()
    one = table(a[0], target, prompt)
    with pytest.raises(DataError, match="60 and 55 images, 55 of them the same"):
        metrics.compare_predictions([one], [one[one["prompt_id"] > 0]], ["srcc"], evaluator="e")
    with pytest.raises(DataError, match="scores of e are not those of one scoring"):
        metrics.compare_predictions([one], [one.assign(target=one["target"] + 1)], ["srcc"], evaluator="e")
    with pytest.raises(DataError, match=r"no predictions of g on the test split: it has e \(test\), e \(val\)"):
        metrics.compare_predictions([one], [one], ["srcc"], evaluator="g")
    with pytest.raises(DataError, match="no cell"):
        metrics.compare_predictions([one], [], ["srcc"], evaluator="e")


def test_unknown_metrics_and_a_missing_threshold_are_refused() -> None:
    a, target, prompt = world()
    with pytest.raises(ConfigError, match="did you mean 'srcc_within'"):
        metrics.paired_difference(a, a, target, prompt, "srcc_wihtin")  # type: ignore[arg-type]
    with pytest.raises(ConfigError, match="pass threshold="):
        metrics.paired_difference(a, a, target, prompt, "auc")
    with pytest.raises(DataError, match="S ≥ 1"):
        metrics.paired_difference(np.zeros((0, len(target))), a, target, prompt, "srcc")
