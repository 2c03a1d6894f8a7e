"""The best plan for a number of denoiser calls: in how many steps, from how many candidates, and who chooses."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from probe_lab.metrics.per_prompt import Floats
from probe_lab.selection.budget import CutPlan
from probe_lab.tradeoff.policies import Stage, draw_candidates, kept_scores
from probe_lab.tradeoff.way_names import First

_LEFT = (2, 3, 4, 5, 6, 8, 10, 12, 15, 18, 22, 27, 33, 40, 50, 60, 75, 90, 110, 130, 160, 200)
"""Where two numbers are free, both are looked for among these; where one is, it is looked for among all."""


@dataclass(frozen=True)
class Sampler:
    """What is known of every candidate when it is made in so many ``steps``: the true score of the finished image, and
    what the probe, the decoded preview and the decoded lookahead say of it after call ``cut``; [prompts, seeds] each.
    """

    steps: int
    cut: int
    target: Floats
    probe: Floats
    preview: Floats
    lookahead: Floats

    def chosen_by(self, first: First) -> Floats:
        return {"probe": self.probe, "preview": self.preview, "lookahead": self.lookahead}[first]


@dataclass(frozen=True)
class BudgetPlan:
    """Of ``candidates`` in ``steps``, ``first`` leaves as many as the first of ``cuts`` says, and lookaheads, where
    there is a second one, as many as that says. Those are finished, and of several the evaluator takes the best.
    ``calls`` are of the denoiser, per prompt."""

    first: First
    steps: int
    candidates: int
    cuts: CutPlan
    calls: int


def best_within(
    budget: int, first: First, samplers: Sequence[Sampler], seed: int, *, extra: int = 0
) -> BudgetPlan | None:
    """Of the plans of at most ``budget`` calls, the one whose image scores best in ``samplers``, which are of
    validation prompts; None where none is so cheap. Of equal ones the cheaper is taken.

    ``extra``: calls that ``first`` takes for each candidate.
    """
    scores: dict[BudgetPlan, float] = {}
    for sampler in samplers:
        prompts, seeds = sampler.target.shape
        for plan in plans_within(budget, first, sampler.steps, sampler.cut, seeds, extra=extra):
            candidates = draw_candidates(prompts, seeds, plan.candidates, seed)
            kept = kept_scores(sampler.target, stages_of(plan.first, plan.cuts, sampler), candidates)
            scores[plan] = float(kept.mean())
    return max(scores, key=lambda plan: (scores[plan], -plan.calls), default=None)


def stages_of(first: First, cuts: CutPlan, sampler: Sampler) -> list[Stage]:
    """The cuts, and then the evaluator."""
    chosen_by = [sampler.chosen_by(first), sampler.lookahead]
    stages = [Stage(scores, keep) for scores, (_, keep) in zip(chosen_by, cuts, strict=False)]
    return [*stages, Stage(sampler.target, 1)]


def plans_within(
    budget: int, first: First, steps: int, cut: int, seeds: int, *, extra: int = 0
) -> Iterator[BudgetPlan]:
    """Plans that finish as many images as ``budget`` pays for, but fewer than were left before. In some, what is left
    of all candidates looks ahead; where lookaheads come first, all do."""
    each, rest = cut + extra + (first == "lookahead"), steps - cut
    for candidates in range(2, seeds + 1):
        begun = candidates * each
        finished = min((budget - begun) // rest, candidates - 1)
        if finished >= 1:
            yield BudgetPlan(first, steps, candidates, ((cut, finished),), begun + finished * rest)
    if first == "lookahead":
        return
    for candidates in [*(number for number in _LEFT if number < seeds), seeds]:
        begun = candidates * each
        for left in (number for number in _LEFT if number < candidates):
            finished = min((budget - begun - left) // rest, left - 1)
            if finished >= 1:
                cuts = ((cut, left), (cut, finished))
                yield BudgetPlan(first, steps, candidates, cuts, begun + left + finished * rest)
