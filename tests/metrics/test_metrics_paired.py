"""Paired differences against the jackknife, the analysis of variance and scipy, and their promises."""

from __future__ import annotations

import itertools
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
from probe_lab.metrics.bootstrap import mean_over, resample
from probe_lab.metrics.measured import mean_measured

Array = npt.NDArray[np.float64]
THRESHOLD = 0.2


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


@pytest.mark.parametrize("metric", metrics.METRICS)
def test_one_training_against_another_is_a_t_interval_over_the_jackknife(metric: metrics.MetricName) -> None:
    """Independent: the metric is computed anew without each prompt; equal to first order, so on many prompts."""
    prompts = 60
    (a, target, prompt), (b, _, _) = world(1, prompts), world(1, prompts, noise=2.0)
    ranked = [p for p in range(prompts) if metric not in metrics.WITHIN_METRICS or len(set(target[prompt == p])) > 1]

    def difference(kept: Array) -> float:
        return plainly(metric, a[0][kept], target[kept], prompt[kept]) - plainly(
            metric, b[0][kept], target[kept], prompt[kept]
        )

    without = np.array([difference(prompt != p) for p in ranked])
    error = math.sqrt((len(ranked) - 1) / len(ranked) * ((without - without.mean()) ** 2).sum())
    found = metrics.paired_difference(a[0], b[0], target, prompt, metric, threshold=THRESHOLD)
    reach = stats.t.ppf(0.975, len(ranked) - 1) * error
    assert found.estimate == pytest.approx(difference(np.full(len(prompt), True)), abs=1e-12)
    assert (found.lower, found.upper) == pytest.approx(
        (found.estimate - reach, found.estimate + reach), abs=0.12 * reach
    )
    assert found.tied == (1 if metric in metrics.WITHIN_METRICS else 0)
    assert found.prompts + found.tied == prompts


def crossed(trainings: int, prompts: int, of_training: float, of_both: float, seed: int) -> Array:
    """``[S, P]`` with mean 0 and random effects of prompts (1), trainings and both."""
    rng = np.random.default_rng(seed)
    return (
        rng.normal(size=prompts)
        + of_training * rng.normal(size=(trainings, 1))
        + of_both * rng.normal(size=(trainings, prompts))
    )


def measured(values: Array) -> metrics.Measured:
    nobody = np.zeros(values.shape[1], np.bool_)
    return metrics.Measured.of_ratios([mean_over(row, nobody) for row in values])


def test_several_trainings_have_the_variance_of_a_two_way_layout() -> None:
    """Independent: the mean squares of the analysis of variance, and both rules for adding two uncertain variances."""
    values = crossed(4, 50, 0.5, 0.7, seed=1)
    count, prompts = values.shape
    grand = values.mean()
    rows, columns = values.mean(axis=1) - grand, values.mean(axis=0) - grand
    of_rows = prompts * (rows**2).sum() / (count - 1)
    of_columns = count * (columns**2).sum() / (prompts - 1)
    rest = ((values - grand - rows[:, None] - columns) ** 2).sum() / ((count - 1) * (prompts - 1))
    spread = measured(values).spread(resample(prompts, 1000, 0), 0.95)
    assert (spread.variance, spread.degrees) == (pytest.approx(of_columns / (count * prompts)), prompts - 1)
    assert spread.trainings == pytest.approx((of_rows - rest) / (count * prompts))
    assert spread.training_degrees == pytest.approx(count - 1)
    sources = np.array([spread.tail**2 * of_columns, of_rows - rest]) / (count * prompts)
    degrees = np.array([prompts - 1, count - 1])
    pooled = sources.sum() ** 2 / (sources**2 / degrees).sum()
    weight = min(1, 1.2 * sources[1] / sources.sum())
    apart, together = stats.t.ppf(0.975, degrees) ** 2 @ sources, stats.t.ppf(0.975, pooled) ** 2 * sources.sum()
    reach = np.sqrt(weight * apart + (1 - weight) * together)
    found = measured(values).interval(resample(prompts, 1000, 0), 0.95)
    assert (found.lower, found.upper) == pytest.approx((grand - reach, grand + reach))


def test_p_values_are_the_levels_at_which_the_bounds_leave_out_zero() -> None:
    draws = resample(30, 200, 0)
    for seed, shift in itertools.product(range(3), (0.0, 0.2, 1.0, 30.0)):
        several = measured(crossed(3, 30, 0.5, 0.3, seed=seed) + shift)
        spread = several.spread(draws, 0.95)
        p = several.interval(draws, 0.95).p
        assert spread.trainings > 0
        assert spread.reach(p) == pytest.approx(abs(several.estimate))
        assert (p < 0.05) == several.interval(draws, 0.95).excludes_zero


@pytest.mark.parametrize("trainings", [2, 3])
def test_intervals_hold_the_truth_where_trainings_make_most_of_the_variance(trainings: int) -> None:
    """One variance with Satterthwaite's degrees of freedom fails this: it holds 0.87 for two, 0.91 for three."""
    draws = resample(100, 50, 0)
    held = []
    for seed in range(600):
        found = measured(crossed(trainings, 100, 0.2, 0.3, seed)).interval(draws, 0.95)
        held.append(found.lower <= 0 <= found.upper)
    error = np.sqrt(0.95 * 0.05 / len(held))
    assert 0.93 - 2.5 * error < np.mean(held) < 0.97 + 2.5 * error


@pytest.mark.parametrize("trainings", [3, 5])
@pytest.mark.parametrize("of_training", [0.05, 0.3])
def test_intervals_over_trainings_hold_the_truth(trainings: int, of_training: float) -> None:
    """Both sides have seeds of their own; without their variance the coverage is 0.6 where they differ much."""
    draws, held = resample(40, 200, 0), 0
    for seed in range(400):
        sides = [measured(crossed(trainings, 40, of_training, 1.0, 2 * seed + side)) for side in (0, 1)]
        found = sides[0].minus(sides[1]).interval(draws, 0.95)
        held += found.lower <= 0 <= found.upper
    assert stats.binomtest(held, 400, 0.95).pvalue > 0.001 or held / 400 > 0.93


def test_one_training_speaks_of_itself_and_equal_ones_are_no_noise() -> None:
    values = crossed(1, 30, 1.0, 1.0, seed=0)
    draws = resample(30, 100, 0)
    one, copies = measured(values).interval(draws, 0.95), measured(np.repeat(values, 3, axis=0)).interval(draws, 0.95)
    assert (copies.lower, copies.upper) == pytest.approx((one.lower, one.upper))
    far = np.concatenate([values, values + 1.0])
    wide = measured(far).interval(draws, 0.95)
    assert wide.upper - wide.lower > 3 * (one.upper - one.lower)


def test_a_paired_mean_is_a_t_test() -> None:
    rng = np.random.default_rng(0)
    first, second = rng.normal(size=(2, 200)) + np.array([[0.3], [0.0]])
    found = metrics.paired_mean(first, second)
    expected = stats.ttest_rel(first, second)
    bounds = expected.confidence_interval()
    assert (found.estimate, found.prompts) == (pytest.approx((first - second).mean()), 200)
    assert (found.lower, found.upper, found.p) == pytest.approx((bounds.low, bounds.high, expected.pvalue))
    assert metrics.paired_mean(first, first).p == 1
    for wrong in ([1.0, 2.0], [[1.0]], [math.nan] * 200):
        with pytest.raises(DataError, match="one per prompt"):
            metrics.paired_mean(first, wrong)


@given(st.lists(st.floats(0, 1), min_size=1, max_size=8))
def test_holm_equals_its_definition(p_values: list[float]) -> None:
    """Reject in ascending order while p ≤ α / (what is left): the adjusted value is the smallest such α."""
    order = sorted(range(len(p_values)), key=lambda i: p_values[i])
    expected, highest = [0.0] * len(p_values), 0.0
    for rank, i in enumerate(order):
        highest = max(highest, (len(p_values) - rank) * p_values[i])
        expected[i] = min(highest, 1.0)
    assert metrics.holm(p_values).tolist() == pytest.approx(expected)
    with_gap = metrics.holm([*p_values, math.nan])
    assert with_gap[:-1].tolist() == pytest.approx(expected)
    assert math.isnan(with_gap[-1])


def test_holm_keeps_false_alarms_of_a_family_rare() -> None:
    rng = np.random.default_rng(0)
    draws, alarms = resample(40, 100, 0), 0
    nobody = np.zeros(40, np.bool_)
    for _ in range(120):
        values = [mean_over(row, nobody, "difference").interval(draws, 0.95).p for row in rng.normal(size=(12, 40))]
        alarms += bool((metrics.holm(values) < 0.05).any())
    assert alarms < 16  # of 120; unadjusted about 55


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
    """One, two and three trainings; the difference of two settings is that of those two alone."""
    sizes = {"a": 1, "b": 2, "c": 3}
    _, target, prompt = world()
    sides = {name: [table(row, target, prompt) for row in world(n, noise=n)[0]] for name, n in sizes.items()}
    names: list[metrics.MetricName] = ["srcc_within", "selection_gain", "srcc"]
    found = metrics.measured_predictions(sides, names, evaluator="e")
    draws = resample(12, 30, 7)
    for one, other in (("a", "b"), ("c", "a"), ("b", "c")):
        expected = metrics.compare_predictions(sides[one], sides[other], names, evaluator="e", resamples=30, seed=7)
        for name in names:
            assert found[one][name].minus(found[other][name]).interval(draws, 0.95) == expected[name][2]
            assert found[one][name].interval(draws, 0.95) == expected[name][0]
    with pytest.raises(DataError, match="no cell"):
        metrics.measured_predictions({"a": sides["a"], "b": []}, names, evaluator="e")
    with pytest.raises(ConfigError, match="pass threshold="):
        metrics.measured_predictions(sides, ["auc"], evaluator="e")


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


def test_differences_that_cancel_for_one_evaluator_alone_are_averaged() -> None:
    """Two losses that collapsed give one evaluator the same predictions, and another one different ones."""
    values = [crossed(3, 30, 0.5, 1.0, seed) for seed in range(3)]
    same, first, second = (measured(rows) for rows in values)
    draws = resample(30, 100, 0)
    alike = same.minus(measured(values[0]))
    assert (alike.estimate, alike.spread(draws, 0.95).variance) == (0, 0)
    half = mean_measured([first.minus(second), alike])
    apart, mean = first.minus(second).interval(draws, 0.95), half.interval(draws, 0.95)
    assert mean.estimate == pytest.approx(apart.estimate / 2)
    assert mean.upper - mean.lower == pytest.approx((apart.upper - apart.lower) / 2)
