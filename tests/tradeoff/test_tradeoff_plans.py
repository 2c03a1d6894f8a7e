"""Plans for a number of denoiser calls, against loops over all of them."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from probe_lab.tradeoff.budget_plans import BudgetPlan, Sampler, best_within, plans_within
from probe_lab.tradeoff.compared_ways import planned_ways
from probe_lab.tradeoff.policies import draw_candidates
from probe_lab.tradeoff.way_names import PLANS, First

FIRSTS: tuple[First, ...] = ("probe", "preview", "lookahead")


def sampler(steps: int, cut: int, seed: int, skill: float = 0.5) -> Sampler:
    generator = np.random.default_rng(seed)
    target = generator.standard_normal((5, 8))
    seen = [skill * target + (1 - skill) * generator.standard_normal((5, 8)) for _ in range(3)]
    return Sampler(steps, cut, target, *seen)


def calls_by_hand(plan: BudgetPlan, extra: int) -> int:
    """A call for every candidate at every step that it lives, and one for each that looks ahead."""
    calls, left = 0, plan.candidates
    calls += left * (plan.cuts[0][0] + (extra if plan.first == "probe" else plan.first == "lookahead"))
    for place, (_, keep) in enumerate(plan.cuts):
        calls += left if place == 1 else 0
        left = keep
    return calls + left * (plan.steps - plan.cuts[-1][0])


@given(st.integers(1, 120), st.sampled_from(FIRSTS), st.integers(2, 12), st.integers(2, 30), st.integers(0, 1))
@settings(max_examples=150)
def test_plans_keep_to_their_budget_and_finish_what_it_pays_for(
    budget: int, first: First, steps: int, seeds: int, extra: int
) -> None:
    extra = extra if first == "probe" else 0
    cut = max(1, steps // 3)
    for plan in plans_within(budget, first, steps, cut, seeds, extra=extra):
        numbers = [plan.candidates, *(keep for _, keep in plan.cuts)]
        assert seeds >= plan.candidates
        assert numbers == sorted(set(numbers), reverse=True)
        assert numbers[-1] >= 1
        assert {step for step, _ in plan.cuts} == {cut}
        assert plan.calls == calls_by_hand(plan, extra) <= budget
        one_more = plan.calls + steps - cut
        assert one_more > budget or numbers[-1] + 1 == numbers[-2]


@given(st.integers(0, 2**31), st.integers(6, 80), st.sampled_from(FIRSTS))
@settings(max_examples=25)
def test_the_best_plan_is_the_best_of_all(seed: int, budget: int, first: First) -> None:
    samplers = [sampler(8, 2, seed), sampler(4, 1, seed + 1)]
    scores = {}
    for world in samplers:
        for plan in plans_within(budget, first, world.steps, world.cut, 8):
            kept = []
            for prompt, sets in enumerate(draw_candidates(5, 8, plan.candidates, 3).tolist()):
                for left in sets:
                    for chosen_by, (_, keep) in zip([world.chosen_by(first), world.lookahead], plan.cuts, strict=False):
                        left = sorted(left, key=lambda one, of=chosen_by[prompt]: -of[one])[:keep]
                    kept.append(max(world.target[prompt, one] for one in left))
            scores[plan] = float(np.mean(kept))
    best = best_within(budget, first, samplers, 3)
    if not scores:
        assert best is None
    else:
        assert best is not None
        assert scores[best] == pytest.approx(max(scores.values()))


def test_a_better_sampler_and_a_better_judge_are_taken() -> None:
    good, poor = sampler(8, 2, 0, skill=1.0), sampler(4, 1, 0, skill=0.0)
    assert best_within(60, "probe", [good, poor], 0).steps == 8  # type: ignore[union-attr]
    cheap = Sampler(4, 1, good.target, good.probe, good.preview, good.lookahead)
    plan = best_within(20, "probe", [good, cheap], 0)
    assert plan is not None
    assert (plan.steps, plan.candidates) == (4, 8)  # the same pictures for half of the calls, all begun


def test_budgets_that_buy_nothing_more_are_left_out() -> None:
    worlds = [sampler(8, 2, 1)]
    ways = planned_ways([5000, 30, 30, 6000, 2], worlds, 0, looks_ahead=False)
    budgets = {way: [made.budget for made in ways if made.way == way] for way in {made.way for made in ways}}
    assert budgets == {way: [30, 5000] for way in PLANS}
    assert all(made.calls <= made.budget for made in ways)
    assert planned_ways([], worlds, 0, looks_ahead=False) == []


def test_a_probe_that_looks_ahead_pays_for_it() -> None:
    worlds = [sampler(8, 2, 1)]
    for way in planned_ways([30], worlds, 0, looks_ahead=True):
        plan = BudgetPlan(PLANS[way.way], way.steps, way.candidates, way.plan, way.calls)
        assert way.calls == calls_by_hand(plan, 1)
    free = [way for way in planned_ways([30], worlds, 0, looks_ahead=False) if way.way != "probe_plan"]
    assert free == [way for way in planned_ways([30], worlds, 0, looks_ahead=True) if way.way != "probe_plan"]


def test_where_one_plan_has_all_there_is_its_rivals_grow_beside_it() -> None:
    world = sampler(25, 5, 2)
    ways = planned_ways([120, 150, 175], [world], 0, looks_ahead=False)
    by_way = {way: [made for made in ways if made.way == way] for way in PLANS}
    assert {way: [made.budget for made in own] for way, own in by_way.items()} == {
        way: [120, 150, 175] for way in PLANS
    }
    assert any(own[1].calls == own[2].calls for own in by_way.values())
    assert any(own[1].calls < own[2].calls for own in by_way.values())
