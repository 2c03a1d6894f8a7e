"""The ways that are compared, and the questions that are asked of them, with words for people."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal

Way = Literal["random", "best_of_n", "fewer_steps", "preview", "probe", "progressive", "cascade", "oracle"]
Question = Literal["beats_preview", "progressive", "beats_random"]


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
    "probe": Words("probe", "At one cut the probe predicts the scores, and the best candidate is finished."),
    "progressive": Words("several cuts", "A probe at each of several cuts, fewer candidates after each."),
    "cascade": Words(
        "probe, then previews",
        "The probe thins out the candidates, then previews of a lookahead decide among the rest.",
    ),
    "oracle": Words("oracle", "The truly best of N at the probe's cost: a bound, which nothing can reach."),
}
"""In the order in which they are listed."""

QUESTIONS: Mapping[Question, str] = {
    "beats_preview": "better than scoring previews?",
    "progressive": "several cuts better than one?",
    "beats_random": "better than a random seed?",
}
