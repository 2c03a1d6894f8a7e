"""The ways that are compared, and the questions that are asked of them, with words for people."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal

Way = Literal[
    "random",
    "best_of_n",
    "fewer_steps",
    "preview",
    "lookahead",
    "probe",
    "progressive",
    "thinned",
    "cascade",
    "probe_plan",
    "preview_plan",
    "lookahead_plan",
    "oracle",
]
First = Literal["probe", "preview", "lookahead"]
Question = Literal[
    "beats_preview",
    "probe_first",
    "progressive",
    "beats_random",
    "beats_lookahead",
    "beats_fewer_steps",
    "beats_best_of_n",
    "plan_beats_lookahead",
    "plan_beats_preview",
    "plan_beats_one_lookahead",
    "plan_beats_fewer_steps",
    "plan_beats_best_of_n",
]
Basis = Literal["candidates", "calls", "seconds", "budget"]
"""What two ways of a pair have in common: as many candidates, as many denoiser calls, as many seconds, or as many calls
at most."""


@dataclass(frozen=True)
class Words:
    """How a way is called, and in one sentence what it does."""

    label: str
    sentence: str


WAYS: Mapping[Way, Words] = {
    "random": Words("random seed", "One seed is finished and kept, nothing is chosen."),
    "best_of_n": Words(
        "best of N", "All N are finished and scored, which takes all calls of N images and N evaluations."
    ),
    "fewer_steps": Words("fewer steps", "All N are finished and scored, with fewer sampling steps for each."),
    "preview": Words("preview", "At one cut the predicted clean image of each candidate is decoded and scored."),
    "lookahead": Words(
        "lookahead",
        "At one cut each candidate takes one large step further, a denoiser call, and what it leads to is decoded and "
        "scored.",
    ),
    "probe": Words("probe", "At one cut the probe predicts the scores, and the best candidate is finished."),
    "progressive": Words("several cuts", "A probe at each of several cuts, fewer candidates after each."),
    "thinned": Words(
        "random, then lookahead",
        "Chance thins out the candidates as the probe does in the next way, then lookaheads decide among the rest.",
    ),
    "cascade": Words(
        "probe, then lookahead",
        "The probe thins out the candidates, then lookaheads decide among the rest.",
    ),
    "probe_plan": Words(
        "planned with the probe",
        "For a number of calls, the best on validation prompts: in more or fewer steps the probe chooses among the "
        "candidates, then lookaheads do or do not, and the best of those that are finished is kept.",
    ),
    "preview_plan": Words("planned with previews", "The same, where decoded and scored previews choose first."),
    "lookahead_plan": Words("planned with lookaheads", "The same, where lookaheads of all candidates choose."),
    "oracle": Words("oracle", "The truly best of N at the probe's cost: a bound, which nothing can reach."),
}
"""In the order in which they are listed."""

QUESTIONS: Mapping[Question, str] = {
    "beats_preview": "better than scoring previews?",
    "probe_first": "does the probe thin out better than chance?",
    "progressive": "several cuts better than one?",
    "beats_random": "better than a random seed?",
    "beats_lookahead": "better than lookaheads without a probe?",
    "beats_fewer_steps": "better than fewer steps?",
    "beats_best_of_n": "better than best of N?",
    "plan_beats_lookahead": "planned better with the probe than with lookaheads?",
    "plan_beats_preview": "planned better with the probe than with previews?",
    "plan_beats_one_lookahead": "is a plan better than lookaheads of all, of which the best is finished?",
    "plan_beats_fewer_steps": "is a plan better than fewer steps?",
    "plan_beats_best_of_n": "is a plan better than best of N?",
}
BASES: Mapping[Basis, str] = {
    "candidates": "as many candidates",
    "calls": "as many denoiser calls",
    "seconds": "as many seconds",
    "budget": "as many denoiser calls at most",
}
PLANS: Mapping[Way, First] = {"probe_plan": "probe", "preview_plan": "preview", "lookahead_plan": "lookahead"}
"""Ways that are planned for a number of denoiser calls, and what chooses first among all candidates."""
IN_ANY_STEPS: frozenset[Way] = frozenset({"fewer_steps", *PLANS})
"""Ways whose number of sampling steps is their own."""
