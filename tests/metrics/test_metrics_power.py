"""Numbers of prompts and trainings, against experiments that are simulated and tested as reports test them."""

from __future__ import annotations

import math
from dataclasses import replace

import numpy as np
import pytest

from probe_lab.metrics.bootstrap import mean_over, resample
from probe_lab.metrics.measured import Measured
from probe_lab.metrics.power import (
    DifferenceVariance,
    assumed,
    difference_variance,
    power_of,
    prompts_needed,
    with_candidates,
)

TRUE = DifferenceVariance(prompt=0.04, training=0.0008, both=0.03)


def sides(
    true: DifferenceVariance,
    prompts: int,
    trainings: int,
    difference: float,
    rng: np.random.Generator,
    tied: int = 0,
) -> tuple[Measured, Measured]:
    """Two probes on the same prompts with these components, the first ``tied`` of which are left out; what both share
    of a prompt cancels."""
    shared = rng.normal(size=prompts)
    measured = []
    for mean in (difference, 0.0):
        own = shared + math.sqrt(true.prompt / 2) * rng.normal(size=prompts)
        levels = mean + math.sqrt(true.training / 2) * rng.normal(size=(trainings, 1))
        values = own + levels + math.sqrt(true.both / 2) * rng.normal(size=(trainings, prompts))
        measured.append(Measured.of_ratios([mean_over(row, np.arange(prompts) < tied) for row in values]))
    return measured[0], measured[1]


@pytest.mark.parametrize(("prompts", "trainings", "difference"), [(90, 4, 0.1), (250, 8, 0.05), (100, 1, 0.075)])
def test_power_is_how_often_a_simulated_experiment_sees_the_difference(
    prompts: int, trainings: int, difference: float
) -> None:
    rng, draws = np.random.default_rng(prompts), resample(prompts, 40, seed=0)
    true = TRUE if trainings > 1 else replace(TRUE, training=0.0)  # of one training, others are not the question
    seen = []
    for _ in range(400):
        one, other = sides(true, prompts, trainings, difference, rng)
        seen.append(one.minus(other).interval(draws, 0.95).excludes_zero)
    assert np.mean(seen) == pytest.approx(power_of(true, difference, prompts, trainings), abs=0.06)


def test_components_are_found_again() -> None:
    rng = np.random.default_rng(0)
    found = [difference_variance(*sides(TRUE, 400, 6, 0.1, rng)) for _ in range(60)]
    for name, value in vars(TRUE).items():
        assert np.mean([getattr(one, name) for one in found]) == pytest.approx(value, rel=0.12), name
    alone = difference_variance(*sides(TRUE, 4000, 1, 0.1, rng))
    assert math.isnan(alone.training)
    assert alone.prompt == pytest.approx(TRUE.prompt + TRUE.both, rel=0.1)


def test_components_are_per_test_prompt_where_half_of_them_tie() -> None:
    rng = np.random.default_rng(0)
    variances = [difference_variance(*sides(TRUE, 200, 6, 0.1, rng, tied=100)) for _ in range(200)]
    expected = DifferenceVariance(prompt=2 * TRUE.prompt, training=TRUE.training, both=2 * TRUE.both)
    for name, value in vars(expected).items():
        assert np.mean([getattr(variance, name) for variance in variances]) == pytest.approx(value, rel=0.1), name


def test_prompts_are_the_fewest_that_suffice() -> None:
    for trainings in (1, 4, 8):
        count = prompts_needed(TRUE, 0.08, trainings)
        assert count is not None
        assert power_of(TRUE, 0.08, count, trainings) >= 0.8 > power_of(TRUE, 0.08, count - 1, trainings)


def test_no_number_of_prompts_makes_up_for_too_few_trainings() -> None:
    assert prompts_needed(TRUE, 0.02, 4) is None
    assert prompts_needed(replace(TRUE, training=0.0), 0.02, 4) is not None


def test_more_candidates_per_prompt_take_fewer_prompts() -> None:
    eight = assumed("srcc_within", 8)
    numbers = [prompts_needed(with_candidates(eight, "srcc_within", 8, count), 0.05, 1) for count in (4, 8, 16)]
    assert numbers == sorted(numbers, key=lambda number: -(number or 0))
    assert with_candidates(eight, "srcc_within", 8, 16).prompt == pytest.approx(assumed("srcc_within", 16).prompt)
