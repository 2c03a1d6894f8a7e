"""Which ways are compared for a number of candidates: their cuts, and the denoiser calls that they take."""

from __future__ import annotations

import math
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from probe_lab.selection.budget import CutPlan, calls_of
from probe_lab.selection.budget_schedule import looking_ahead, plan_for
from probe_lab.tradeoff.budget_plans import BudgetPlan, Sampler, best_within
from probe_lab.tradeoff.way_names import PLANS, Way


@dataclass(frozen=True)
class Compared:
    """A way with ``candidates``, of which one is kept. ``steps`` are the sampling steps of the finished image, ``plan``
    its cuts: (step, candidates that go on). ``calls`` are denoiser calls per prompt, counted per image; looking ahead
    is one too. ``budget``: what a planned way was planned for."""

    way: Way
    candidates: int
    steps: int
    calls: int
    plan: CutPlan = ()
    budget: int = 0

    @property
    def finished(self) -> int:
        """Images that a selecting call finishes."""
        return self.plan[-1][1] if self.plan else 1

    @property
    def schedule(self) -> list[dict[str, int]]:
        """As ``ProbeSelect`` takes it."""
        return [{"step": step, "keep": keep} for step, keep in self.plan]

    @property
    def text(self) -> str:
        """ "2:6,5:3,10:1", as the command line takes it."""
        return ",".join(f"{step}:{keep}" for step, keep in self.plan)


def single_ways(
    candidates: int, *, step: int, steps: int, fewer_steps: Sequence[int], thin: float, looks_ahead: bool = False
) -> list[Compared]:
    """The ways that need no schedule, with one cut at ``step`` of ``steps``. ``thin`` is the share that the cascade's
    probe leaves; ``looks_ahead``: the probe itself reads a lookahead of every candidate."""
    cut: CutPlan = ((step, 1),)
    calls = calls_of(cut, candidates, steps)
    asked = calls + (candidates if looks_ahead else 0)
    left = max(2, math.ceil(round(thin * candidates, 9)))
    thinned: CutPlan = ((step, left), (step, 1)) if left < candidates else cut
    whole = asked if left < candidates else calls  # else the probe is not asked
    return [
        Compared("best_of_n", candidates, steps, candidates * steps),
        *(Compared("fewer_steps", candidates, number, candidates * number) for number in fewer_steps),
        Compared("preview", candidates, steps, calls, cut),
        Compared("lookahead", candidates, steps, calls + candidates, cut),
        Compared("probe", candidates, steps, asked, cut),
        Compared("thinned", candidates, steps, calls + left, thinned),
        Compared("cascade", candidates, steps, whole + left, thinned),
        Compared("oracle", candidates, steps, asked, cut),
    ]


def planned_ways(
    budgets: Sequence[int], samplers: Sequence[Sampler], seed: int, *, looks_ahead: bool
) -> list[Compared]:
    """The best plans for each of ``budgets`` calls by validation prompts, see ``best_within``. A budget that buys none
    of them more than the one below is left out."""
    ways: list[Compared] = []
    before: dict[Way, BudgetPlan | None] = dict.fromkeys(PLANS)
    for budget in sorted(set(budgets)):
        plans = {
            way: best_within(budget, first, samplers, seed, extra=int(looks_ahead and first == "probe"))
            for way, first in PLANS.items()
        }
        if plans != before:
            ways += [
                Compared(way, plan.candidates, plan.steps, plan.calls, plan.cuts, budget)
                for way, plan in plans.items()
                if plan is not None
            ]
        before = plans
    return ways


def progressive_way(
    cells: Mapping[int, Path], evaluator: str, *, candidates: int, seeds: int, step: int, steps: int
) -> Compared:
    """Several cuts with the probes of ``cells`` (by step), for no more calls than one cut at ``step``.

    The schedule is the best on the validation prompts; those have ``seeds`` seeds, and for more candidates it is that
    of so many, in proportion.

    Raises:
        SelectError: as in ``plan_for``.
    """
    small = min(candidates, seeds)
    ahead = looking_ahead(cells)
    budgets = [calls_of(((step, 1),), number, steps, ahead) for number in (small, candidates)]
    best = plan_for(cells, evaluator, candidates=small, keep=1, steps=steps, budget=budgets[0])
    plan = scaled(best.plan, small, candidates, steps, budgets[1], ahead)
    return Compared("progressive", candidates, steps, calls_of(plan, candidates, steps, ahead), plan)


def scaled(plan: CutPlan, small: int, candidates: int, steps: int, budget: int, ahead: Collection[int] = ()) -> CutPlan:
    """A plan of ``small`` candidates for more of them, with numbers that fall, within ``budget`` calls; ``ahead`` as in
    ``calls_of``."""
    keeps = [max(1, keep * candidates // small) for _, keep in plan[:-1]] + [plan[-1][1]]
    for place in reversed(range(len(keeps) - 1)):
        keeps[place] = max(keeps[place], keeps[place + 1] + 1)

    def made() -> CutPlan:
        return tuple((step, keep) for (step, _), keep in zip(plan, keeps, strict=True))

    while calls_of(made(), candidates, steps, ahead) > budget:
        room = [place for place in range(len(keeps) - 1) if keeps[place] > keeps[place + 1] + 1]
        if not room:
            break
        keeps[max(room, key=lambda place: keeps[place])] -= 1
    return made()
