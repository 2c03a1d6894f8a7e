"""The share of a score's variance that lies between seeds, against scores whose components are known."""

from __future__ import annotations

import math

import numpy as np
import pytest

from probe_lab.metrics import seed_share


def scores(prompts: int, seeds: int, share: float, rng: np.random.Generator) -> tuple[np.ndarray, np.ndarray]:
    prompt = np.repeat(np.arange(prompts), seeds)
    own = math.sqrt(share) * rng.normal(size=len(prompt))
    return own + math.sqrt(1.0 - share) * rng.normal(size=prompts)[prompt], prompt


def test_components_are_those_of_the_analysis_of_variance() -> None:
    score = np.array([1.0, 3.0, 4.0, 8.0, 10.0, 12.0])
    found = seed_share(score, [0, 0, 1, 1, 2, 2])
    within = (2.0 + 8.0 + 2.0) / 3
    between = (2 * ((2 - 19 / 3) ** 2 + (6 - 19 / 3) ** 2 + (11 - 19 / 3) ** 2) / 2 - within) / 2
    assert (found.within, found.between) == pytest.approx((within, between))
    assert found.share.estimate == pytest.approx(within / (within + between))
    assert found.best.estimate == pytest.approx((1.0 + 2.0 + 1.0) / 3)


def test_prompts_of_different_sizes_do_not_move_the_share() -> None:
    rng = np.random.default_rng(0)
    score, prompt = scores(1500, 8, 0.4, rng)
    kept = rng.random(len(score)) < 0.6
    found = seed_share(score[kept], prompt[kept])
    assert found.share.estimate == pytest.approx(0.4, abs=0.03)
    assert found.share.lower < 0.4 < found.share.upper


@pytest.mark.parametrize(("prompts", "share"), [(25, 0.3), (60, 0.8)])
def test_intervals_hold_the_truth_as_often_as_they_say(prompts: int, share: float) -> None:
    rng = np.random.default_rng(prompts)
    held = 0
    for _ in range(400):
        found = seed_share(*scores(prompts, 6, share, rng), resamples=20).share
        held += found.lower <= share <= found.upper
    assert 0.915 <= held / 400 <= 0.98


def test_where_nothing_can_be_known_it_is_nan() -> None:
    for score, prompt in (([1.0, 2.0, 3.0], [0, 1, 2]), ([2.0] * 4, [0, 0, 1, 1]), ([1.0, 2.0], [0, 0])):
        assert math.isnan(seed_share(score, prompt).share.estimate)


def test_scores_that_only_prompts_decide_leave_nothing_to_win() -> None:
    found = seed_share([1.0, 1.0, 2.0, 2.0, 5.0, 5.0], [0, 0, 1, 1, 2, 2])
    assert (found.share.estimate, found.best.estimate) == (0.0, 0.0)
