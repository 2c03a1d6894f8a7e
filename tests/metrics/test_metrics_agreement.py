"""Agreement of evaluators against scipy, intervals against plain statistics over prompts, spread against pandas."""

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

from probe_lab.errors import DataError
from probe_lab.metrics import agreements, spreads

Array = npt.NDArray[np.float64]
NAMES = ("a", "b", "c")
SCORE = st.one_of(st.just(math.nan), st.integers(-2, 2).map(float), st.floats(-3, 3).map(lambda v: round(v, 3)))
ROWS = st.lists(st.tuples(SCORE, SCORE, SCORE, st.integers(0, 3)), min_size=1, max_size=16)


def _spearman(x: Array, y: Array) -> float:
    """scipy's, nan where one of the two is constant."""
    if len(set(x)) < 2 or len(set(y)) < 2:
        return math.nan
    return float(stats.spearmanr(x, y).statistic)


def _world(seed: int = 0) -> tuple[dict[str, Array], npt.NDArray[np.int64]]:
    """Three evaluators with ties, of which one lacks five scores; prompts of different sizes."""
    rng = np.random.default_rng(seed)
    prompt = rng.permutation(np.repeat(np.arange(30), rng.integers(2, 7, size=30)))
    common = rng.normal(size=30)[prompt]
    scores = {name: (common + rng.normal(size=len(prompt))).round(1) for name in NAMES}
    scores["b"][rng.permutation(len(prompt))[:5]] = math.nan
    return scores, prompt


@given(rows=ROWS)
@settings(max_examples=80, deadline=None)
def test_agreement_follows_its_definition(rows: list[tuple[float, float, float, int]]) -> None:
    *columns, prompt = (np.array(column) for column in zip(*rows, strict=True))
    scores = dict(zip(NAMES, columns, strict=True))
    found = agreements(scores, prompt, resamples=10)
    assert list(found) == list(itertools.combinations(NAMES, 2))
    for (first, second), agreement in found.items():
        both = np.isfinite(scores[first]) & np.isfinite(scores[second])
        x, y, group = scores[first][both], scores[second][both], prompt[both]
        each = [_spearman(x[group == p], y[group == p]) for p in np.unique(prompt)]
        defined = [value for value in each if math.isfinite(value)]
        within = agreement.within
        np.testing.assert_allclose(within.estimate, np.mean(defined) if defined else math.nan, atol=1e-12)
        np.testing.assert_allclose(agreement.overall.estimate, _spearman(x, y), atol=1e-12)
        assert (agreement.images, within.prompts, within.tied) == (len(x), len(defined), len(each) - len(defined))


def test_order_of_the_two_does_not_matter() -> None:
    scores, prompt = _world()
    turned = agreements(dict(reversed(scores.items())), prompt, resamples=20)
    for (first, second), agreement in agreements(scores, prompt, resamples=20).items():
        other = turned[second, first]
        for one, two in ((agreement.within, other.within), (agreement.overall, other.overall)):
            np.testing.assert_allclose([one.estimate, one.lower, one.upper], [two.estimate, two.lower, two.upper])


def test_intervals_are_those_of_plain_statistics_over_prompts() -> None:
    """Within prompts scipy's t of their correlations, in every resample too; over all images, a jackknife in z.

    Nothing of the package but the function itself is used.
    """
    scores, prompt = _world()
    found = agreements(scores, prompt, resamples=40, seed=3)
    draws = np.random.default_rng(3).integers(30, size=(40, 30))  # prompts, with replacement
    for (first, second), agreement in found.items():
        both = np.isfinite(scores[first]) & np.isfinite(scores[second])
        x, y = scores[first], scores[second]
        by_prompt = [np.flatnonzero(both & (prompt == p)) for p in range(30)]
        each = np.array([_spearman(x[rows], y[rows]) for rows in by_prompt])
        known = np.isfinite(each)
        drawn = [each[draw][known[draw]] for draw in draws]
        studentised = [abs(stats.ttest_1samp(sample, each[known].mean()).statistic) for sample in drawn]
        reach = max(np.quantile(studentised, 0.95), stats.t.ppf(0.975, known.sum() - 1)) * stats.sem(each[known])
        mean = each[known].mean()
        assert (agreement.within.lower, agreement.within.upper) == pytest.approx((mean - reach, mean + reach))
        here = [p for p in range(30) if len(by_prompt[p])]
        without = np.array([_spearman(x[both & (prompt != p)], y[both & (prompt != p)]) for p in here])
        error = np.sqrt((len(here) - 1) / len(here) * ((without - without.mean()) ** 2).sum())
        r = _spearman(x[both], y[both])
        bounds = np.tanh(np.arctanh(r) + stats.t.ppf(0.975, len(here) - 1) * error / (1 - r**2) * np.array([-1, 1]))
        assert (agreement.overall.lower, agreement.overall.upper) == pytest.approx(tuple(bounds), abs=1e-6)


def test_difficulty_of_prompts_is_agreement_over_all_images_only() -> None:
    rng = np.random.default_rng(0)
    prompt = np.repeat(np.arange(200), 6)
    difficulty = 3 * rng.normal(size=200)[prompt]
    scores = {name: difficulty + rng.normal(size=len(prompt)) for name in "ab"}
    found = agreements(scores, prompt, resamples=200)["a", "b"]
    assert found.overall.lower > 0.8
    assert found.within.lower < 0 < found.within.upper


def test_an_evaluator_that_is_constant_has_no_agreement() -> None:
    scores, prompt = _world()
    found = agreements({"a": scores["a"], "flat": np.ones(len(prompt))}, prompt, resamples=10)["a", "flat"]
    assert math.isnan(found.overall.estimate)
    assert math.isnan(found.within.lower)
    assert (found.within.prompts, found.within.tied) == (0, 30)


def test_spread_against_pandas() -> None:
    scores, prompt = _world()
    scores["a"][prompt == 4] = 0.5
    alone = np.flatnonzero(prompt == 7)
    scores["c"][alone[1:]] = math.nan
    found = spreads(scores, prompt, resamples=300)
    assert list(found) == list(NAMES)
    for name, spread in found.items():
        values = pd.Series(scores[name])
        grouped = values.groupby(prompt)
        within, extent = grouped.std().dropna(), (grouped.max() - grouped.min())[grouped.count() > 1]
        assert (spread.images, spread.missing) == (values.count(), values.isna().sum())
        numbers = [spread.mean, spread.deviation, spread.within.estimate, spread.range.estimate]
        np.testing.assert_allclose(numbers, [values.mean(), values.std(), within.mean(), extent.mean()])
        assert spread.within.lower < spread.within.estimate < spread.within.upper
        assert (spread.within.prompts, spread.tied) == (len(within), (extent == 0).sum())
    assert found["a"].tied >= 1
    assert found["c"].within.tied == 1


def test_an_evaluator_without_any_score_has_no_spread() -> None:
    found = spreads({"a": [math.nan, math.nan]}, [0, 0], resamples=5)["a"]
    assert (found.images, found.missing, found.tied) == (0, 2, 0)
    assert math.isnan(found.mean)
    assert math.isnan(found.within.estimate)


@pytest.mark.parametrize("measure", [agreements, spreads])
def test_arrays_that_do_not_belong_together_are_refused(measure: object) -> None:
    for scores, prompt in (({"a": [1.0, 2.0], "b": [1.0]}, [0, 1]), ({}, [0]), ({"a": []}, [])):
        with pytest.raises(DataError, match="same length"):
            measure(scores, prompt)  # type: ignore[operator]
