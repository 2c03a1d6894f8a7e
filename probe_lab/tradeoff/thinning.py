"""How many candidates the cascade's probe leaves for lookaheads, chosen on validation prompts."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from probe_lab.metrics.per_prompt import Floats
from probe_lab.tradeoff.policies import Stage, kept_scores


@dataclass(frozen=True)
class Left:
    """What leaving ``number`` candidates of a prompt to the lookahead is worth: mean true ``score`` of the kept, and
    how far it is ``below`` that of the best number, with the standard ``error`` of that difference over prompts."""

    number: int
    score: float
    below: float
    error: float


@dataclass(frozen=True)
class Thinning:
    """The chosen ``share`` of candidates that are left, and what it was chosen by: ``prompts`` validation prompts of
    ``seeds`` seeds each, and every number that was tried. All of it is empty where the user gave the share."""

    share: float
    prompts: int = 0
    seeds: int = 0
    tried: tuple[Left, ...] = ()


def choose_thinning(target: Floats, probe: Floats, lookahead: Floats) -> Thinning:
    """The smallest share whose score is within one standard error of the best.

    All are [prompts, seeds], of validation prompts: the true score, the probe's prediction and the lookahead's score.
    Each candidate that is left costs a denoiser call, a decode and an evaluation, so that of numbers which these
    prompts cannot tell apart the smallest is taken (the one-standard-error rule of Breiman et al. 1984, paired).
    """
    prompts, seeds = target.shape
    everything = np.broadcast_to(np.arange(seeds), (prompts, 1, seeds))
    kept = {
        number: kept_scores(target, [Stage(probe, number), Stage(lookahead, 1)], everything)
        for number in range(min(2, seeds), seeds + 1)
    }
    best = max(kept.values(), key=lambda scores: float(scores.mean()))
    tried = tuple(_left(number, scores, best) for number, scores in kept.items())
    chosen = next(left.number for left in tried if left.below <= left.error)
    return Thinning(chosen / seeds, prompts, seeds, tried)


def _left(number: int, scores: Floats, best: Floats) -> Left:
    gap = best - scores
    error = float(gap.std(ddof=1)) / len(gap) ** 0.5 if len(gap) > 1 else 0.0
    return Left(number, float(scores.mean()), float(gap.mean()), error)
