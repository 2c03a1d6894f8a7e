"""Schedules for a budget."""

from __future__ import annotations

import itertools

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from probe_lab.errors import SelectError
from probe_lab.selection.budget import MOST_SETS, best_plan, calls_of, candidate_sets, kept, plans


def follow(plan: tuple[tuple[int, int], ...], scores: dict[int, list[float]], candidates: int) -> list[int]:
    """One prompt, one candidate at a time."""
    left = list(range(candidates))
    for step, keep in plan:
        left = sorted(left, key=lambda one: (-scores[step][one], left.index(one)))[:keep]
    return left


@settings(max_examples=30)
@given(seed=st.integers(0, 1000), candidates=st.integers(2, 6), prompts=st.integers(1, 4))
def test_plans_are_followed_and_counted(seed: int, candidates: int, prompts: int) -> None:
    rng = np.random.default_rng(seed)
    predictions = {step: rng.integers(0, 4, (prompts, 6)).astype(float) for step in (2, 5, 9)}
    for plan in plans([2, 5, 9], candidates, 1):
        found = kept(plan, predictions, candidates)
        for prompt in range(prompts):
            scores = {step: list(values[prompt]) for step, values in predictions.items()}
            assert found[prompt].tolist() == follow(plan, scores, candidates)
        left = dict(plan)
        number, calls = candidates, 0
        for step in range(1, 13):
            calls += number
            number = left.get(step, number)
        assert calls_of(plan, candidates, 12) == calls
        before = [candidates, *(keep for _, keep in plan)]
        ahead = sum(number for number, (step, _) in zip(before, plan, strict=False) if step in (2, 9))
        assert calls_of(plan, candidates, 12, (2, 9)) == calls + ahead


@pytest.mark.parametrize(("seeds", "candidates", "count"), [(8, 8, 1), (8, 5, 56), (9, 4, 126), (20, 5, MOST_SETS)])
def test_sets_of_candidates_are_all_or_many(seeds: int, candidates: int, count: int) -> None:
    sets = candidate_sets(seeds, candidates)
    assert sets.shape == (count, candidates)
    assert all(len(set(one)) == candidates and max(one) < seeds for one in sets.tolist())
    assert len({frozenset(one) for one in sets.tolist()}) >= 0.9 * count


def test_every_plan_is_tried_once() -> None:
    found = list(plans([2, 5, 9], 5, 2, most_cuts=3))
    expected = set()
    for numbers in itertools.product([*range(2, 6)], repeat=3):
        cuts, left = [], 5
        for step, number in zip((2, 5, 9), numbers, strict=True):
            if number < left:
                cuts.append((step, number))
                left = number
        if left == 2:
            expected.add(tuple(cuts))
    assert len(found) == len(set(found))
    assert set(found) == expected


def _of(predictions: dict[int, np.ndarray], seeds: list[int]) -> dict[int, np.ndarray]:
    return {step: scores[:, seeds] for step, scores in predictions.items()}


def test_the_best_plan_is_the_best_of_those_that_are_cheap_enough() -> None:
    rng = np.random.default_rng(0)
    target = rng.normal(size=(200, 8))
    noise = {2: 2.0, 5: 1.0, 10: 0.3}
    predictions = {step: target + rng.normal(size=target.shape) * width for step, width in noise.items()}
    found = best_plan(predictions, target, candidates=8, keep=1, steps=25, budget=80)
    scores = {
        plan: np.take_along_axis(target, kept(plan, predictions, 8), 1).mean()
        for plan in plans([2, 5, 10], 8, 1)
        if calls_of(plan, 8, 25) <= 80
    }
    assert found.score == pytest.approx(max(scores.values()))
    assert found.calls <= 80
    assert len(found.plan) > 1  # a rough look first leaves calls for a good one
    assert found.schedule == [{"step": step, "keep": keep} for step, keep in found.plan]
    fewer = best_plan(predictions, target, candidates=3, keep=1, steps=25, budget=35)
    by_hand = {
        plan: np.mean(
            [
                np.take_along_axis(target[:, some], kept(plan, _of(predictions, some), 3), 1).mean()
                for some in map(list, itertools.combinations(range(8), 3))
            ]
        )
        for plan in plans([2, 5, 10], 3, 1)
        if calls_of(plan, 3, 25) <= 35
    }
    assert fewer.score == pytest.approx(max(by_hand.values()))  # every three of the eight seeds count
    assert by_hand[fewer.plan] == pytest.approx(fewer.score)
    with pytest.raises(SelectError, match=r"budget=30.*the cheapest takes 39"):
        best_plan(predictions, target, candidates=8, keep=1, steps=25, budget=30)
    with pytest.raises(SelectError, match=r"9 candidates.*8 seeds"):
        best_plan(predictions, target, candidates=9, keep=1, steps=25, budget=300)
