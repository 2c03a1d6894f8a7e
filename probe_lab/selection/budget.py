"""Which schedule of cuts is best for a given number of denoiser calls, told from validation prompts."""

from __future__ import annotations

import itertools
import math
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from probe_lab.errors import SelectError
from probe_lab.metrics.per_prompt import Floats

MOST_SETS = 128
CutPlan = tuple[tuple[int, int], ...]
"""(step, candidates that go on) of each cut, in the order of the steps."""


@dataclass(frozen=True)
class Judged:
    """A plan, the mean true score of what it keeps on the prompts that it was judged by, and its denoiser calls per
    prompt."""

    plan: CutPlan
    score: float
    calls: int

    @property
    def schedule(self) -> list[dict[str, int]]:
        """As ``ProbeSelect`` takes it."""
        return [{"step": step, "keep": keep} for step, keep in self.plan]


def calls_of(plan: CutPlan, candidates: int, steps: int, ahead: Collection[int] = ()) -> int:
    """Denoiser calls of one prompt, counted per image: Σ candidates left × steps made with them, and one more for each
    that is left at a cut whose step is in ``ahead``, where the probe looks ahead."""
    total, left, last = 0, candidates, 0
    for step, keep in plan:
        total += left * (step - last + (step in ahead))
        left, last = keep, step
    return total + left * (steps - last)


def kept(plan: CutPlan, predictions: Mapping[int, Floats], candidates: int) -> NDArray[np.int64]:
    """Which candidates of each prompt go through all cuts, the best first: [prompts, keep].

    ``predictions`` maps a step to [prompts, candidates or more]; the first ``candidates`` start.
    """
    first = next(iter(predictions.values()))
    left = np.broadcast_to(np.arange(candidates), (len(first), candidates))
    for step, keep in plan:
        scores = np.take_along_axis(predictions[step], left, 1)
        best = np.argsort(-scores, axis=1, kind="stable")[:, :keep]
        left = np.take_along_axis(left, best, 1)
    return np.ascontiguousarray(left)


def candidate_sets(seeds: int, candidates: int) -> NDArray[np.int64]:
    """Sets of ``candidates`` of the first ``seeds`` numbers, int64 [sets, candidates]: all, or where these are more
    than ``MOST_SETS``, so many of them, the same every time."""
    if math.comb(seeds, candidates) <= MOST_SETS:
        return np.asarray(list(itertools.combinations(range(seeds), candidates)), dtype=np.int64)
    generator = np.random.default_rng(0)
    return np.stack([generator.permutation(seeds)[:candidates] for _ in range(MOST_SETS)])


def plans(steps: Sequence[int], candidates: int, keep: int, most_cuts: int = 3) -> Iterator[CutPlan]:
    """All sequences of up to ``most_cuts`` cuts at these steps that end with ``keep``."""
    for count in range(1, most_cuts + 1):
        for places in itertools.combinations(sorted(steps), count):
            between = itertools.combinations(range(candidates - 1, keep, -1), count - 1)
            for numbers in between:
                yield tuple(zip(places, (*numbers, keep), strict=True))


def best_plan(
    predictions: Mapping[int, Floats],
    target: Floats,
    *,
    candidates: int,
    keep: int,
    steps: int,
    budget: int,
    most_cuts: int = 3,
    ahead: Collection[int] = (),
) -> Judged:
    """The plan of at most ``budget`` denoiser calls per prompt whose kept candidates score best on these prompts.

    ``predictions`` maps the steps at which a probe was trained to [prompts, candidates or more], ``target`` holds the
    true scores, alike; at the steps of ``ahead`` probes look ahead. Where there are more, every set of ``candidates``
    of them counts. Of equal plans the cheaper one is taken, then the one with fewer cuts.

    Raises:
        SelectError: no plan is that cheap, or there are fewer candidates in the data than are asked for.
    """
    if target.shape[1] < candidates:
        raise SelectError(
            f"a schedule for {candidates} candidates cannot be judged by prompts with {target.shape[1]} seeds: "
            f"ask for at most {target.shape[1]} candidates, or generate more seeds"
        )
    sets = candidate_sets(target.shape[1], candidates)
    target = target[:, sets].reshape(-1, candidates)
    predictions = {step: scores[:, sets].reshape(-1, candidates) for step, scores in predictions.items()}
    cheapest, best = None, None
    for plan in plans(list(predictions), candidates, keep, most_cuts):
        calls = calls_of(plan, candidates, steps, ahead)
        cheapest = calls if cheapest is None else min(cheapest, calls)
        if calls <= budget:
            chosen = kept(plan, predictions, candidates)
            found = Judged(plan, float(np.take_along_axis(target, chosen, 1).mean()), calls)
            if best is None or (found.score, -found.calls) > (best.score, -best.calls):
                best = found
    if best is None:
        raise SelectError(
            f"no schedule takes at most budget={budget} denoiser calls for {candidates} candidates: the cheapest takes "
            f"{cheapest}, and all of them {candidates * steps}"
        )
    return best
