"""Paired differences between ways: with as many candidates, and at the same cost in denoiser calls and in seconds."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from functools import cached_property

import numpy as np
from scipy.optimize import isotonic_regression

from probe_lab.metrics import holm
from probe_lab.metrics.bootstrap import Interval, Scale, mean_over
from probe_lab.metrics.per_prompt import Floats
from probe_lab.tradeoff.candidate_scores import CandidateScores
from probe_lab.tradeoff.policies import best_of
from probe_lab.tradeoff.records import Pair, TradeoffRow, way_text
from probe_lab.tradeoff.way_names import Basis, Question, Way

CONFIDENCE = 0.95

_SAME_CANDIDATES: Sequence[tuple[Question, Way, Way]] = (
    ("beats_preview", "cascade", "preview"),
    ("beats_preview", "probe", "preview"),
    ("probe_first", "cascade", "thinned"),
    ("progressive", "progressive", "probe"),
    ("beats_random", "probe", "random"),
)
_LED: Sequence[Way] = ("probe", "progressive", "cascade")
"""Ways in which a probe decides, or decides first, in all steps."""
_SAME_COST: Sequence[tuple[Question, Sequence[Way], Way]] = (
    ("beats_lookahead", _LED, "lookahead"),
    ("beats_fewer_steps", _LED, "fewer_steps"),
    ("beats_best_of_n", _LED, "best_of_n"),
    ("plan_beats_one_lookahead", ("probe_plan",), "lookahead"),
    ("plan_beats_fewer_steps", ("probe_plan",), "fewer_steps"),
    ("plan_beats_best_of_n", ("probe_plan",), "best_of_n"),
)
_SAME_BUDGET: Sequence[tuple[Question, Way, Way]] = (
    ("plan_beats_lookahead", "probe_plan", "lookahead_plan"),
    ("plan_beats_preview", "probe_plan", "preview_plan"),
)


@dataclass(frozen=True)
class WayScores:
    """A row with the true score of what its way keeps of each prompt, [prompts]."""

    row: TradeoffRow
    scores: Floats


@dataclass(frozen=True)
class _Rival:
    """A way that chooses once, at any number of candidates: true scores and what it chooses by, [prompts, seeds], its
    denoiser calls, ``fixed`` and for ``each`` candidate, and its measured rows."""

    way: Way
    steps: int
    target: Floats
    chosen_by: Floats
    fixed: int
    each: int
    rows: Sequence[TradeoffRow]

    def at_calls(self, calls: float) -> float:
        """How many candidates take so many calls."""
        return (calls - self.fixed) / self.each

    def at_seconds(self, seconds: float) -> float:
        """How many candidates take so long, between those that were timed; nan outside."""
        numbers, times = self._timed
        if not len(numbers) or not times[0] <= seconds <= times[-1]:
            return math.nan
        return float(np.interp(seconds, times, numbers))

    def calls(self, candidates: float) -> float:
        return self.fixed + self.each * candidates

    def seconds(self, candidates: float) -> float:
        numbers, times = self._timed
        if not len(numbers) or not numbers[0] <= candidates <= numbers[-1]:
            return math.nan
        return float(np.interp(candidates, numbers, times))

    @cached_property
    def _timed(self) -> tuple[Floats, Floats]:
        """Numbers of candidates that were timed, in order, and seconds that never fall: the nearest such to what was
        measured (isotonic regression), since a disturbed round must cost neither side."""
        timed = sorted((row.candidates, row.seconds) for row in self.rows if row.timed)
        seconds = np.array([seconds for _, seconds in timed])
        smooth = isotonic_regression(seconds).x if len(seconds) else seconds
        return np.array([number for number, _ in timed], dtype=np.float64), np.asarray(smooth, dtype=np.float64)


def compare_ways(measured: Sequence[WayScores], scored: CandidateScores, step: int, draws: Floats) -> tuple[Pair, ...]:
    """Every question, with p-values adjusted by Holm over all pairs of one question and basis.

    At the same cost, the rival has as many candidates as the calls or the seconds pay for; a number between two whole
    ones is a lottery between both. Where it would have fewer than one candidate, more than there are seeds, or seconds
    outside those that were timed, there is no pair. ``draws`` are those of the bootstrap over prompts.
    """
    pairs = [
        *_same_candidates(measured, draws),
        *_same_cost(measured, scored, step, draws),
        *_same_budget(measured, draws),
    ]
    families: dict[tuple[Question, Basis], list[int]] = {}
    for place, pair in enumerate(pairs):
        families.setdefault((pair.question, pair.basis), []).append(place)
    for places in families.values():
        adjusted = holm([pairs[place].p for place in places])
        for place, p in zip(places, adjusted.tolist(), strict=True):
            pairs[place] = replace(pairs[place], p=p)
    return tuple(pairs)


def mean_interval(values: Floats, draws: Floats, scale: Scale = "plain") -> Interval:
    """The mean over prompts with its interval."""
    return mean_over(values, np.zeros(len(values), dtype=np.bool_), scale).interval(draws, CONFIDENCE)


def _same_candidates(measured: Sequence[WayScores], draws: Floats) -> Iterator[Pair]:
    ways: dict[tuple[Way, int], WayScores] = {
        (made.row.way, made.row.candidates): made for made in measured if made.row.way != "fewer_steps"
    }
    for question, first, second in _SAME_CANDIDATES:
        for (way, number), made in ways.items():
            rival = ways.get((second, 1 if second == "random" else number))
            if way == first and rival is not None:
                costs = rival.row.calls, rival.row.seconds
                yield _pair(question, "candidates", made, rival.row.text, *costs, rival.scores, draws)


def _same_budget(measured: Sequence[WayScores], draws: Floats) -> Iterator[Pair]:
    plans = {(made.row.way, made.row.budget): made for made in measured if made.row.budget}
    for question, first, second in _SAME_BUDGET:
        for (way, budget), made in plans.items():
            rival = plans.get((second, budget))
            if way == first and rival is not None:
                costs = rival.row.calls, rival.row.seconds
                yield _pair(question, "budget", made, rival.row.text, *costs, rival.scores, draws)


def _same_cost(measured: Sequence[WayScores], scored: CandidateScores, step: int, draws: Floats) -> Iterator[Pair]:
    rows = [made.row for made in measured]
    rivals = _rivals(rows, scored, step)
    for question, leading, way in _SAME_COST:
        led = [made for first in leading for made in measured if made.row.way == first]
        for rival in (rival for rival in rivals if rival.way == way):
            for made in led:
                numbers: dict[Basis, float] = {
                    "calls": rival.at_calls(made.row.calls),
                    "seconds": rival.at_seconds(made.row.seconds),
                }
                for basis, number in numbers.items():
                    if 1 <= number <= rival.target.shape[1]:  # nan is neither
                        scores = best_of(rival.target, rival.chosen_by, number)
                        text = way_text(rival.way, f"{number:.3g}", rival.steps)
                        yield _pair(
                            question, basis, made, text, rival.calls(number), rival.seconds(number), scores, draws
                        )


def _rivals(rows: Sequence[TradeoffRow], scored: CandidateScores, step: int) -> list[_Rival]:
    """The ways that a probe has to beat at its cost."""

    def rows_of(*ways: Way, steps: int) -> list[TradeoffRow]:
        return [row for row in rows if row.way in ways and row.steps == steps]

    steps = next(row.steps for row in rows if row.way == "random")
    whole, target = scored.whole, scored.whole.target
    return [
        _Rival("lookahead", steps, target, whole.lookahead, steps - step, step + 1, rows_of("lookahead", steps=steps)),
        *(
            _Rival("fewer_steps", number, scores, scores, 0, number, rows_of("fewer_steps", steps=number))
            for number, scores in scored.fewer.items()
        ),
        _Rival("best_of_n", steps, target, target, 0, steps, rows_of("random", "best_of_n", steps=steps)),
    ]


def _pair(
    question: Question,
    basis: Basis,
    made: WayScores,
    second: str,
    calls: float,
    seconds: float,
    scores: Floats,
    draws: Floats,
) -> Pair:
    difference = mean_interval(made.scores - scores, draws, "difference")
    return Pair(
        first=made.row.text,
        second=second,
        candidates=made.row.candidates,
        question=question,
        basis=basis,
        difference=difference.estimate,
        lower=difference.lower,
        upper=difference.upper,
        p=difference.p,
        calls_first=made.row.calls,
        calls_second=calls,
        seconds_first=made.row.seconds,
        seconds_second=seconds,
        budget=made.row.budget,
    )
