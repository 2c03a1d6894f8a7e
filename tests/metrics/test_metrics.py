"""Metrics against scipy and scikit-learn, selection against all subsets, intervals against copied rows."""

from __future__ import annotations

import itertools
import math
import time
import warnings
from collections.abc import Callable, Sequence

import numpy as np
import numpy.typing as npt
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats
from sklearn.metrics import ndcg_score, roc_auc_score
from torchmetrics import MetricCollection

from probe_lab import metrics
from probe_lab.errors import DataError, ProbeLabError, ScoreError
from probe_lab.metrics.bootstrap import PromptRatio, mean_over, resample
from probe_lab.metrics.correlation import Pooled
from probe_lab.metrics.per_prompt import prompt_table

Array = npt.NDArray[np.float64]
Data = tuple[Array, Array, npt.NDArray[np.int64]]

THRESHOLD = 0.1
GLOBAL = ("srcc", "ktc", "pcc", "auc")
CORRELATION: dict[str, Callable[[Array, Array], float]] = {
    "srcc": lambda x, y: float(stats.spearmanr(x, y).statistic),
    "ktc": lambda x, y: float(stats.kendalltau(x, y).statistic),
    "pcc": lambda x, y: float(stats.pearsonr(x, y).statistic),
}
SCORES = st.one_of(st.integers(-2, 2).map(float), st.floats(-3, 3).map(lambda v: round(v, 3)))
ROWS = st.lists(st.tuples(SCORES, SCORES, st.integers(0, 3)), min_size=1, max_size=14)


def synthetic(prompts: int = 30, seeds: int = 8, seed: int = 0, decimals: int = 0) -> Data:
    """Predictions that know the prompt's difficulty well and the seeds a little; rounding makes ties."""
    rng = np.random.default_rng(seed)
    target = rng.normal(size=(prompts, 1)) + rng.normal(size=(prompts, seeds))
    prediction = target + rng.normal(size=target.shape)
    return (
        prediction.ravel().round(decimals),
        target.ravel().round(decimals),
        np.repeat(np.arange(prompts), seeds),
    )


def arrays(rows: Sequence[tuple[float, float, int]]) -> Data:
    prediction, target, prompt = zip(*rows, strict=True)
    return np.array(prediction), np.array(target), np.array(prompt)


def by_prompt(data: Data) -> list[tuple[Array, Array]]:
    prediction, target, prompt = data
    return [(prediction[prompt == p], target[prompt == p]) for p in np.unique(prompt)]


def quick(data: Data, **options: float) -> dict[str, metrics.Interval]:
    return metrics.evaluate(*data, threshold=THRESHOLD, resamples=50, **options)  # type: ignore[arg-type]


def correlation(name: str, x: Array, y: Array) -> float:
    """scipy's, with our convention for constant input, which scipy answers with nan and a warning."""
    if len(set(y)) < 2:
        return math.nan
    return CORRELATION[name](x, y) if len(set(x)) > 1 else 0.0


def mean(values: Sequence[float]) -> float:
    return float(np.mean(values)) if values else math.nan


def chosen_scores(x: Array, y: Array) -> Array:
    best: Array = y[x == x.max()]
    return best


@settings(max_examples=150, deadline=None)
@given(rows=ROWS)
def test_equals_scipy_and_loops(rows: list[tuple[float, float, int]]) -> None:
    data = arrays(rows)
    result = quick(data)
    ranked = [(x, y) for x, y in by_prompt(data) if len(set(y)) > 1]
    expected = {name: correlation(name, data[0], data[1]) for name in CORRELATION}
    positive = data[1] > THRESHOLD
    expected["auc"] = float(roc_auc_score(positive, data[0])) if len(set(positive)) == 2 else math.nan
    for name in CORRELATION:
        expected[f"{name}_within"] = mean([correlation(name, x, y) for x, y in ranked])
    expected["top1"] = mean([np.mean(chosen_scores(x, y) == y.max()) for x, y in ranked])
    possible = sum(y.max() - y.mean() for _, y in ranked)
    gained = sum(chosen_scores(x, y).mean() - y.mean() for x, y in ranked)
    expected["selection_gain"] = gained / possible if ranked else math.nan
    scaled = [(x, (y - y.min()) / (y.max() - y.min())) for x, y in ranked]
    expected["ndcg"] = mean([ndcg_score([y], [x]) for x, y in scaled])
    for name in metrics.METRICS:
        assert result[name].estimate == pytest.approx(expected[name], abs=1e-9, nan_ok=True), name


def test_tied_prompts_are_counted_and_left_out() -> None:
    prediction = np.array([1.0, 2, 3, 1, 2, 3, 5, 4, 4, 9])
    target = np.array([1.0, 2, 3, 7, 7, 7, 1, 2, 3, 8])
    prompt = np.array([0, 0, 0, 1, 1, 1, 2, 2, 2, 3])  # prompt 1 ties, prompt 3 has one candidate
    result = quick((prediction, target, prompt))
    for name, found in result.items():
        assert (found.prompts, found.tied) == ((4, 0) if name in GLOBAL else (2, 2))
    second = stats.spearmanr([5, 4, 4], [1, 2, 3]).statistic
    assert result["srcc_within"].estimate == pytest.approx((1 + second) / 2)
    assert result["top1"].estimate == 0.5


def test_constant_predictions_rank_like_chance() -> None:
    _, target, prompt = synthetic(seeds=4, decimals=3)
    result = quick((np.zeros_like(target), target, prompt))
    for name in ("srcc", "ktc", "pcc", "srcc_within", "ktc_within", "pcc_within", "selection_gain"):
        assert result[name].estimate == pytest.approx(0, abs=1e-12), name
    assert result["auc"].estimate == 0.5
    assert result["top1"].estimate == 0.25


def test_constant_values_are_found_although_their_mean_rounds() -> None:
    prediction = np.array([0.1, 0.1, 0.1, 0.3, 0.3, 0.3])  # np.mean of three 0.1 is not 0.1
    target = np.array([1.0, 2, 3, 4, 5, 7])
    assert quick((prediction, target, np.repeat([0, 1], 3)))["pcc_within"].estimate == 0


def test_undefined_values_are_nan() -> None:
    data = np.array([1.0, 2, 3, 4]), np.full(4, 0.5), np.array([0, 0, 1, 1])
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        result = quick(data)
    for name, found in result.items():
        assert np.isnan([found.estimate, found.lower, found.upper]).all(), name
    assert result["top1"].prompts == 0
    assert result["top1"].tied == 2


def test_oracle_and_its_opposite() -> None:
    _, target, prompt = synthetic(decimals=3)
    best, worst = quick((target, target, prompt)), quick((-target, target, prompt))
    for name in metrics.METRICS:
        assert best[name].estimate == pytest.approx(1), name
    for name in ("srcc", "ktc_within", "pcc_within"):
        assert worst[name].estimate == pytest.approx(-1)
    assert worst["selection_gain"].estimate < 0
    assert worst["top1"].estimate == 0


def test_row_order_and_prompt_ids_do_not_matter() -> None:
    prediction, target, prompt = synthetic()
    order = np.random.default_rng(1).permutation(len(prompt))
    shuffled = quick((prediction[order], target[order], 10 * prompt[order] - 50))
    for name, expected in quick((prediction, target, prompt)).items():
        assert shuffled[name].estimate == pytest.approx(expected.estimate), name
        assert shuffled[name].lower == pytest.approx(expected.lower), name


def test_large_offsets_and_tiny_spreads() -> None:
    prediction, target, prompt = synthetic(decimals=3)
    moved = quick((prediction * 1e-9, target * 1e-3 + 1e3, prompt))
    plain = quick((prediction, target, prompt))
    for name in set(metrics.METRICS) - {"auc"}:
        assert moved[name].estimate == pytest.approx(plain[name].estimate, abs=1e-6), name


@pytest.mark.parametrize("decimals", [0, 3])
def test_resampled_global_metrics_are_those_of_the_copied_out_sample(decimals: int) -> None:
    data = synthetic(prompts=7, seeds=4, decimals=decimals)
    keep = np.arange(28) % 9 != 0  # prompts of different sizes
    data = data[0][keep], data[1][keep], data[2][keep]
    draws = resample(7, 20, seed=3)
    found = Pooled(prompt_table(*data), THRESHOLD).statistics(draws)
    prompts = by_prompt(data)
    for row, draw in enumerate(draws.astype(int)):
        copies = [prompts[p] for p in np.repeat(np.arange(7), draw)]
        x, y = (np.concatenate(part) for part in zip(*copies, strict=True))
        for name in CORRELATION:
            assert found[name][row] == pytest.approx(correlation(name, x, y)), name
        assert found["auc"][row] == pytest.approx(roc_auc_score(y > THRESHOLD, x))


def test_chunks_do_not_change_the_statistics(monkeypatch: pytest.MonkeyPatch) -> None:
    data, draws = synthetic(), resample(30, 40, seed=0)
    whole = Pooled(prompt_table(*data), THRESHOLD).statistics(draws)
    monkeypatch.setattr("probe_lab.metrics.correlation.CHUNK", 3 * 240)
    for name, values in Pooled(prompt_table(*data), THRESHOLD).statistics(draws).items():
        np.testing.assert_allclose(values, whole[name])


def test_intervals_of_means_are_a_symmetric_bootstrap_t_over_prompts() -> None:
    """Independent: prompts copied out, t computed by scipy in every resample."""
    data = synthetic(prompts=20)
    values = np.array([correlation("srcc", x, y) for x, y in by_prompt(data)])
    draws = resample(20, 500, seed=4)
    assert (draws.sum(axis=1) == 20).all()
    drawn = [values[np.repeat(np.arange(20), draw.astype(int))] for draw in draws]
    found = np.abs([stats.ttest_1samp(sample, values.mean()).statistic for sample in drawn])
    critical = max(np.quantile(found, 0.9), stats.t.ppf(0.95, 19))
    reach = critical * stats.sem(values)
    mine = metrics.evaluate(*data, threshold=0.0, resamples=500, seed=4, confidence=0.9)["srcc_within"]
    assert (mine.lower, mine.upper) == pytest.approx((values.mean() - reach, values.mean() + reach))


def test_intervals_of_ratios_are_studentised_by_their_own_linear_errors() -> None:
    rng = np.random.default_rng(1)
    a, b = rng.normal(0.4, 1.0, 25), np.exp(rng.normal(size=25))
    numerator = a * b
    draws = resample(25, 400, seed=0)

    def studied(n: Array, d: Array) -> tuple[float, float]:
        ratio = n.sum() / d.sum()
        return ratio, float(stats.sem((n - ratio * d) / d.mean()))

    estimate, error = studied(numerator, b)
    values = []
    for draw in draws.astype(int):
        ratio, own = studied(np.repeat(numerator, draw), np.repeat(b, draw))
        values.append(abs(ratio - estimate) / own)
    reach = max(np.quantile(values, 0.95), stats.t.ppf(0.975, 24)) * error
    found = PromptRatio(numerator, b, np.zeros(25, np.bool_)).interval(draws, 0.95)
    assert (found.lower, found.upper) == pytest.approx((estimate - reach, estimate + reach))


@pytest.mark.parametrize("hits", [0, 1, 6, 20])
def test_a_proportion_has_the_interval_of_jeffreys(hits: int) -> None:
    values = np.repeat([1.0, 0.0], [hits, 20 - hits])
    found = mean_over(values, np.zeros(20, np.bool_), "proportion").interval(resample(20, 50, 0), 0.95)
    lower, upper = stats.beta.ppf([0.025, 0.975], hits + 0.5, 20 - hits + 0.5)
    expected = (0.0 if hits == 0 else lower, 1.0 if hits == 20 else upper)
    assert (found.lower, found.upper) == pytest.approx(expected)


def test_intervals_over_all_images_are_those_of_a_jackknife_in_fishers_z() -> None:
    data = synthetic(prompts=25, decimals=2)
    found = quick(data)
    for name in CORRELATION:
        without = np.array([correlation(name, *(v[data[2] != p] for v in data[:2])) for p in range(25)])
        error = math.sqrt(24 / 25 * ((without - without.mean()) ** 2).sum())
        estimate = correlation(name, *data[:2])
        reach = stats.t.ppf(0.975, 24) * error / (1 - estimate**2)
        expected = np.tanh(np.arctanh(estimate) + reach * np.array([-1, 1]))
        assert (found[name].lower, found[name].upper) == pytest.approx(tuple(expected)), name


def test_one_prompt_says_nothing_about_others() -> None:
    for found in quick((np.array([1.0, 3, 2]), np.array([0.0, 2, 1]), np.zeros(3, np.int64))).values():
        assert math.isfinite(found.estimate)
        assert np.isnan([found.lower, found.upper]).all()


def test_bounds_stay_where_values_can_be() -> None:
    """Two prompts and near perfect predictions: the wider half of an interval would leave the range."""
    target = np.tile(np.arange(6.0), 3)
    prediction = target.copy()
    prediction[[0, 1]] = prediction[[1, 0]]
    for name, found in quick((prediction, target, np.repeat(np.arange(3), 6))).items():
        lowest = {"auc": 0.0, "top1": 0.0, "ndcg": 0.0, "selection_gain": -math.inf}.get(name, -1.0)
        if math.isnan(found.lower) and found.p > 0.05:  # all three prompts agree, which says little about others
            continue
        assert lowest <= found.lower <= found.estimate <= found.upper <= 1, name


def width(found: metrics.Interval) -> float:
    return found.upper - found.lower


def test_intervals_cover_the_estimate_reproduce_and_narrow_with_prompts() -> None:
    small = metrics.evaluate(*synthetic(40), threshold=THRESHOLD)
    assert small == metrics.evaluate(*synthetic(40), threshold=THRESHOLD)
    again = metrics.evaluate(*synthetic(40), threshold=THRESHOLD, seed=1)
    assert small["selection_gain"] != again["selection_gain"]
    large = metrics.evaluate(*synthetic(640), threshold=THRESHOLD)
    wide = metrics.evaluate(*synthetic(40), threshold=THRESHOLD, confidence=0.99)
    for name, found in small.items():
        assert found.lower < found.estimate < found.upper, name
        assert width(large[name]) == pytest.approx(width(found) / 4, rel=0.4), name
        assert width(wide[name]) > width(found), name


def test_copies_of_candidates_are_no_new_evidence() -> None:
    data = synthetic()
    plain = quick(data)
    doubled = quick((np.tile(data[0], 2), np.tile(data[1], 2), np.tile(data[2], 2)))
    for name in set(metrics.METRICS) - {"ndcg"}:  # ndcg depends on the length of the list
        assert width(doubled[name]) == pytest.approx(width(plain[name])), name


def test_speed() -> None:
    data = synthetic(400, decimals=4)
    start = time.thread_time()
    metrics.evaluate(*data, threshold=THRESHOLD, resamples=1000)
    assert time.thread_time() - start < 5  # about 0.1 s; of the processor, so that others do not count


def test_curve_equals_enumerated_subsets() -> None:
    data = synthetic(prompts=6, seeds=5)  # rounded: ties in both
    last = data[2] == 5
    data = data[0], np.where(last, 2.0, data[1]), data[2]  # one prompt ties in target
    curve = metrics.selection_gain_curve(*data, counts=range(1, 6), resamples=20)
    assert list(curve) == [1, 2, 3, 4, 5]
    for count, point in curve.items():
        score, oracle, random = [], [], []
        for x, y in by_prompt(data):
            subsets = [list(s) for s in itertools.combinations(range(5), count)]
            score.append(np.mean([chosen_scores(x[s], y[s]).mean() for s in subsets]))
            oracle.append(np.mean([y[s].max() for s in subsets]))
            random.append(y.mean())
        assert point.count == count
        assert point.score.estimate == pytest.approx(np.mean(score))
        assert point.oracle.estimate == pytest.approx(np.mean(oracle))
        assert point.random.estimate == pytest.approx(np.mean(random))
        assert (point.gain.prompts, point.gain.tied, point.score.prompts) == (5, 1, 6)
        gain = (np.sum(score) - np.sum(random)) / (np.sum(oracle) - np.sum(random)) if count > 1 else math.nan
        assert point.gain.estimate == pytest.approx(gain, nan_ok=True)
    full = quick(data)["selection_gain"]
    assert curve[5].gain.estimate == pytest.approx(full.estimate)


def test_curve_of_many_candidates_rests_on_the_prompts_that_have_them() -> None:
    rng = np.random.default_rng(0)
    target = rng.normal(size=2010)
    prompt = np.concatenate([np.zeros(2000, np.int64), np.ones(10, np.int64)])
    curve = metrics.selection_gain_curve(target, target, prompt, counts=[2, 1000], resamples=10)
    assert curve[1000].gain.estimate == pytest.approx(1)
    assert curve[2].score.estimate == pytest.approx(1 / math.sqrt(math.pi), abs=0.1)  # of two normal draws
    assert curve[2].score.prompts == 1


@pytest.mark.parametrize("counts", [[], [0, 1], [1, 9]])
def test_curve_refuses_impossible_counts(counts: list[int]) -> None:
    with pytest.raises(DataError, match="from 1 to 8"):
        metrics.selection_gain_curve(*synthetic(), counts=counts)


@pytest.mark.parametrize(
    ("data", "error", "message"),
    [
        (([1, 2], [1, 2, 3], [0, 0]), DataError, r"\(3,\)"),
        (([[1, 2]], [[1, 2]], [[0, 0]]), DataError, r"\(1, 2\)"),
        (([], [], []), DataError, r"n ≥ 1"),
        (([1, math.nan], [1, 2], [0, 0]), ScoreError, "prediction 1 of 2 is nan"),
        (([1, 2], [math.inf, 2], [0, 0]), ScoreError, "target 0 of 2 is inf"),
    ],
)
def test_bad_input_is_refused(data: Data, error: type[ProbeLabError], message: str) -> None:
    with pytest.raises(error, match=message) as caught:
        metrics.evaluate(*data, threshold=0.0)
    assert "\n" not in str(caught.value)


def test_online_metrics_equal_evaluate() -> None:
    data = synthetic(seeds=5, decimals=1)
    expected = quick(data)
    prediction, target = (torch.tensor(values, dtype=torch.float32) for values in data[:2])
    group = torch.tensor(data[2])
    within = metrics.within_prompt_metrics(["reward"])["reward"]
    pooled = metrics.global_metrics({"reward": THRESHOLD})["reward"]
    assert isinstance(within, MetricCollection)
    assert isinstance(pooled, MetricCollection)
    order = torch.randperm(len(group), generator=torch.Generator().manual_seed(0))
    for rows in torch.split(order, 13):  # prompts spread over batches
        within.update(prediction[rows], target[rows], group[rows])
        pooled.update(prediction[rows], target[rows])
    values = {**within.compute(), **pooled.compute()}
    assert set(values) == {*metrics.METRICS} - {"ndcg"}
    for name, value in values.items():
        assert value.item() == pytest.approx(expected[name].estimate, abs=1e-5), name
    within.reset()
    within.update(prediction, target, torch.zeros_like(group))
    one_list = correlation("srcc", data[0], data[1])
    assert within.compute()["srcc_within"].item() == pytest.approx(one_list, abs=1e-6)


def test_online_auroc_keeps_one_scale_over_batches() -> None:
    metric = metrics.ThresholdAUROC(0.0)
    prediction, target = torch.tensor([0.1, 0.9, 2.0, -3.0]), torch.tensor([-1.0, 1.0, 1.0, -1.0])
    for rows in (slice(0, 2), slice(2, 4)):  # only the second batch leaves [0, 1]
        metric.update(prediction[rows], target[rows])
    assert metric.compute().item() == 1
    metric.reset()
    metric.update(torch.tensor([1e4, 1e4 + 1.0]), torch.tensor([-1.0, 1.0]))
    assert metric.compute().item() == 1  # a sigmoid would make a tie of these


def test_online_metrics_gather_candidates_of_all_processes() -> None:
    prediction, target, prompt = (torch.tensor(values) for values in synthetic())
    others: dict[int, list[torch.Tensor]] = {}
    metric = metrics.WithinPromptSpearman(
        dist_sync_fn=lambda state, group: [state, *others[id(state)]], distributed_available_fn=lambda: True
    )
    halves = [slice(0, 120), slice(120, None)]
    metric.update(prediction[halves[0]], target[halves[0]], prompt[halves[0]])
    # What the other process holds, keyed by the state that it belongs to.
    mine = (metric.prediction[0], metric.target[0], metric.group[0])
    theirs = (prediction[halves[1]], target[halves[1]], prompt[halves[1]])
    others |= {id(state): [other] for state, other in zip(mine, theirs, strict=True)}
    x, y, g = (state.numpy() for state in mine)
    alone = metrics.within_prompt_estimate(x, y, g, "srcc_within")
    expected = metrics.within_prompt_estimate(prediction.numpy(), target.numpy(), prompt.numpy(), "srcc_within")
    assert metric.compute().item() == pytest.approx(expected)
    assert alone != pytest.approx(expected)


@pytest.mark.parametrize(("prompts", "p"), [(2, 0.5), (3, 0.25), (5, 0.0625), (6, 0.03125), (20, 2**-19)])
def test_prompts_that_agree_are_as_sure_as_the_toss_of_so_many_coins(prompts: int, p: float) -> None:
    same = mean_over(np.full(prompts, 0.5), np.zeros(prompts, np.bool_), "signed")
    interval = same.interval(resample(prompts, 100, 0), 0.95)
    assert interval.p == p
    assert interval.excludes_zero == (p < 0.05)
    assert (interval.lower, interval.upper) == (0.5, 0.5) or (
        p > 0.05 and np.isnan([interval.lower, interval.upper]).all()
    )
