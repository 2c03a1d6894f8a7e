"""What ways keep, against loops written out, and what must hold of any scores."""

from __future__ import annotations

import itertools

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from probe_lab.selection.budget import CutPlan, calls_of
from probe_lab.tradeoff.compared_ways import scaled, single_ways
from probe_lab.tradeoff.comparisons import _Rival
from probe_lab.tradeoff.policies import Stage, best_of, draw_candidates, kept_scores
from probe_lab.tradeoff.records import TradeoffRow
from probe_lab.tradeoff.thinning import choose_thinning


@given(st.integers(1, 4), st.integers(1, 12), st.data())
@settings(max_examples=60)
def test_sets_are_of_distinct_seeds_used_about_equally(prompts: int, seeds: int, data: st.DataObject) -> None:
    candidates = data.draw(st.integers(1, seeds))
    drawn = draw_candidates(prompts, seeds, candidates, seed=3, draws=6)
    assert drawn.shape[0] == prompts
    assert drawn.shape[2] == candidates
    assert drawn.shape[1] == 1 if candidates == seeds else drawn.shape[1] >= 6
    assert all(len(set(one)) == candidates for one in drawn.reshape(-1, candidates).tolist())
    assert drawn.min() >= 0
    assert drawn.max() < seeds
    blocks = seeds // candidates
    if blocks * candidates == seeds:  # whole permutations: every seed as often as every other
        for prompt in drawn:
            counts = np.bincount(prompt.ravel(), minlength=seeds)
            assert counts.min() == counts.max()
    assert np.array_equal(drawn, draw_candidates(prompts, seeds, candidates, seed=3, draws=6))


def by_hand(target: np.ndarray, stages: list[Stage], candidates: np.ndarray) -> list[float]:
    found = []
    for prompt, sets in enumerate(candidates.tolist()):
        kept = []
        for left in sets:
            for stage in stages:
                left = sorted(left, key=lambda seed, stage=stage: -stage.scores[prompt, seed])[: stage.keep]
            kept += [float(target[prompt, seed]) for seed in left]
        found.append(sum(kept) / len(kept))
    return found


@given(st.integers(0, 2**31), st.integers(2, 7))
@settings(max_examples=40)
def test_stages_keep_what_a_loop_keeps(seed: int, candidates: int) -> None:
    generator = np.random.default_rng(seed)
    target, first, second = generator.integers(0, 5, (3, 4, 9)).astype(float)  # with ties
    drawn = draw_candidates(4, 9, candidates, seed=seed, draws=5)
    middle = max(1, candidates // 2)
    for stages in ([], [Stage(first, 1)], [Stage(first, middle), Stage(second, 1)]):
        np.testing.assert_allclose(kept_scores(target, stages, drawn), by_hand(target, stages, drawn))


@given(st.integers(0, 2**31))
@settings(max_examples=30)
def test_nothing_beats_the_oracle_and_a_blind_choice_is_a_random_seed(seed: int) -> None:
    generator = np.random.default_rng(seed)
    target, scores = generator.normal(size=(2, 3, 12))
    drawn = draw_candidates(3, 12, 4, seed=seed)
    oracle = kept_scores(target, [Stage(target, 1)], drawn)
    assert (kept_scores(target, [Stage(scores, 1)], drawn) <= oracle + 1e-12).all()
    assert (kept_scores(target, [Stage(scores, 3), Stage(target, 1)], drawn) <= oracle + 1e-12).all()
    worst = kept_scores(target, [Stage(-target, 1)], drawn)
    everything = kept_scores(target, [], drawn)
    np.testing.assert_allclose(everything, target.mean(1))  # 12 seeds are three whole sets of 4
    assert (worst <= everything + 1e-12).all()


def test_the_ways_cost_what_they_say() -> None:
    ways = {way.way: way for way in single_ways(8, step=5, steps=25, fewer_steps=[10], thin=0.7)}
    calls = {name: way.calls for name, way in ways.items()}
    assert calls == {
        "best_of_n": 200, "preview": 60, "lookahead": 68, "probe": 60, "oracle": 60, "fewer_steps": 80,
        "thinned": 66, "cascade": 66,
    }  # fmt: skip
    assert (ways["cascade"].text, ways["probe"].text, ways["best_of_n"].text) == ("5:6,5:1", "5:1", "")
    ahead = {
        way.way: way.calls for way in single_ways(8, step=5, steps=25, fewer_steps=[10], thin=0.7, looks_ahead=True)
    }
    assert ahead == calls | {"probe": 68, "oracle": 68, "cascade": 74}
    two = {way.way: way for way in single_ways(2, step=5, steps=25, fewer_steps=[], thin=0.8)}
    assert "fewer_steps" not in two
    assert (two["cascade"].text, two["cascade"].calls) == ("5:1", 10 + 20 + 2)  # nothing is left to thin out


@given(st.integers(9, 60), st.data())
@settings(max_examples=200)
def test_a_plan_grows_with_the_candidates_within_its_budget(candidates: int, data: st.DataObject) -> None:
    steps, step, small = 25, 5, 8
    places = data.draw(st.lists(st.integers(1, 20), min_size=2, max_size=3, unique=True).map(sorted))
    keeps = data.draw(st.sets(st.integers(2, small - 1), min_size=len(places) - 1, max_size=len(places) - 1))
    plan: CutPlan = tuple(zip(places, [*sorted(keeps, reverse=True), 1], strict=True))
    budget = calls_of(((step, 1),), small, steps)
    if calls_of(plan, small, steps) > budget:
        return
    grown = scaled(plan, small, candidates, steps, calls_of(((step, 1),), candidates, steps))
    assert [at for at, _ in grown] == places
    numbers = [candidates, *(keep for _, keep in grown)]
    assert all(more > fewer for more, fewer in itertools.pairwise(numbers))
    assert grown[-1][1] == 1
    assert calls_of(grown, candidates, steps) <= calls_of(((step, 1),), candidates, steps)


def test_a_plan_of_as_many_candidates_is_itself() -> None:
    plan: CutPlan = ((2, 5), (5, 2), (8, 1))
    assert scaled(plan, 8, 8, 25, 1000) == plan
    assert scaled(plan, 8, 80, 25, 10**6) == ((2, 50), (5, 20), (8, 1))


@pytest.mark.parametrize("thin", [0.1, 0.5, 0.99])
def test_the_lookahead_is_left_at_least_two(thin: float) -> None:
    for number in (3, 5, 50):
        cascade = next(
            way for way in single_ways(number, step=5, steps=25, fewer_steps=[], thin=thin) if way.way == "cascade"
        )
        assert 2 <= (cascade.plan[0][1] if len(cascade.plan) > 1 else number) <= number


@given(st.integers(0, 2**31), st.integers(1, 6), st.floats(0, 1, exclude_max=True))
@settings(max_examples=40)
def test_the_best_of_a_number_is_the_mean_over_all_sets_of_seeds(seed: int, candidates: int, share: float) -> None:
    generator = np.random.default_rng(seed)
    target, scores = generator.normal(size=(2, 3, 6))

    def by_all_sets(number: int) -> np.ndarray:
        return np.array(
            [
                np.mean(
                    [
                        target[p, max(s, key=lambda i, p=p: scores[p, i])]
                        for s in itertools.combinations(range(6), number)
                    ]
                )
                for p in range(3)
            ]
        )

    np.testing.assert_allclose(best_of(target, scores, candidates), by_all_sets(candidates))
    if candidates < 6:
        lottery = (1 - share) * by_all_sets(candidates) + share * by_all_sets(candidates + 1)
        np.testing.assert_allclose(best_of(target, scores, candidates + share), lottery)


def test_a_probe_that_knows_everything_leaves_the_fewest_and_one_that_knows_nothing_leaves_all() -> None:
    generator = np.random.default_rng(0)
    target = generator.normal(size=(200, 8))
    lookahead = target + 0.3 * generator.normal(size=target.shape)
    knowing = choose_thinning(target, target, lookahead)
    assert (knowing.share, knowing.prompts, knowing.seeds) == (0.25, 200, 8)
    assert [left.number for left in knowing.tried] == [2, 3, 4, 5, 6, 7, 8]
    blind = choose_thinning(target, generator.normal(size=target.shape), lookahead)
    assert blind.share == 1.0
    assert [left.below for left in blind.tried] == sorted((left.below for left in blind.tried), reverse=True)
    (chosen,) = (left for left in knowing.tried if left.number == 2)
    kept = np.argsort(-target, axis=1)[:, :2]
    best = np.take_along_axis(kept, np.take_along_axis(lookahead, kept, 1).argmax(1, keepdims=True), 1)
    assert chosen.score == pytest.approx(float(np.take_along_axis(target, best, 1).mean()))


@pytest.mark.parametrize(("chosen", "seeds"), [(7, 25), (14, 25), (15, 29), (7, 41), (4, 8)])
def test_the_cascade_leaves_as_many_as_were_chosen(chosen: int, seeds: int) -> None:
    ways = single_ways(seeds, step=5, steps=25, fewer_steps=[], thin=chosen / seeds)
    (cascade,) = (way for way in ways if way.way == "cascade")
    assert cascade.plan == ((5, chosen), (5, 1))


def test_a_disturbed_round_costs_no_side() -> None:
    rows = [
        TradeoffRow("lookahead", number, 1, 25, "5:1", 1.0, seconds, seconds, seconds, 0.5, 0.4, 0.6)
        for number, seconds in ((2, 1.0), (5, 3.0), (8, 2.4), (20, 6.0))
    ]
    rival = _Rival("lookahead", 25, np.zeros((1, 20)), np.zeros((1, 20)), 20, 6, rows)
    assert rival.seconds(5) == rival.seconds(8) == pytest.approx(2.7)
    assert rival.at_seconds(4.35) == pytest.approx(14)
    assert rival.seconds(rival.at_seconds(1.5)) == pytest.approx(1.5)
    assert np.isnan([rival.at_seconds(0.9), rival.at_seconds(6.1), rival.at_seconds(np.nan)]).all()
