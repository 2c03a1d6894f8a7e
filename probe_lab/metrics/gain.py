"""What a user gains who lets the predictions choose among the candidates of a prompt.

Ties in prediction are broken by expectation, as a coin would: a probe that gives all candidates of a prompt
the same prediction selects like chance, whatever the order of the rows. Prompts whose candidates all have the
same target are left out: nothing can be gained there.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from probe_lab.errors import DataError
from probe_lab.metrics.bootstrap import Interval, PromptRatio, mean_over, resample
from probe_lab.metrics.measured import Measured
from probe_lab.metrics.per_prompt import Bools, Counts, Floats, PromptTable, Signs, prompt_table


def top1(table: PromptTable) -> PromptRatio:
    """Share of prompts whose candidate of highest prediction has the best target; several may be best."""
    best = table.present & ~(table.target_signs < 0).any(axis=2)
    chance = (_selected(table.prediction_signs, table, table.size) * best).sum(axis=1)
    return mean_over(chance, table.tied, "proportion")


def selection_gain(table: PromptTable) -> PromptRatio:
    """Σ_p (selected − mean) / Σ_p (best − mean) of the targets of each prompt: 0 = random, 1 = oracle.

    A ratio of sums: every prompt weighs by what there is to gain in it, so prompts whose candidates differ
    little cannot dominate. It is negative for predictions worse than chance.
    """
    mean = table.target.sum(axis=1) / table.size
    gained = _expected_target(table.prediction_signs, table, table.size) - mean
    possible = _expected_target(table.target_signs, table, table.size) - mean
    return _ratio(gained, possible, table.tied)


def ndcg(table: PromptTable) -> PromptRatio:
    """Mean over prompts of Σ_i g_i d_i / (the same in the order of the targets).

    g = (target − min)/(max − min) in the prompt: scores have no natural zero. d = 1/log2(1 + rank by
    prediction); tied predictions share the mean discount of the ranks that they occupy. Random predictions do
    not score 0 here.
    """
    shifted = np.where(table.present, table.target - _lowest(table), 0.0)
    gain = shifted / np.where(table.tied, 1.0, shifted.max(axis=1))[:, None]
    achieved = (gain * _discounts(table.prediction_signs, table)).sum(axis=1)
    ideal = (gain * _discounts(table.target_signs, table)).sum(axis=1)
    return mean_over(achieved / np.where(table.tied, 1.0, ideal), table.tied, "share")


@dataclass(frozen=True)
class SelectionPoint:
    """Choosing the best-predicted of ``count`` candidates: expectations over all such subsets of a prompt.

    ``score``, ``oracle`` and ``random`` are mean targets over prompts: of the candidate chosen by prediction,
    of the best one, of any one. ``gain`` is Σ (score − random) / Σ (oracle − random) for this count; with one
    candidate there is nothing to choose, and it is nan.
    """

    count: int
    gain: Interval
    score: Interval
    oracle: Interval
    random: Interval


def selection_gain_curve(
    prediction: npt.ArrayLike,
    target: npt.ArrayLike,
    prompt: npt.ArrayLike,
    counts: Sequence[int],
    *,
    resamples: int = 1000,
    seed: int = 0,
    confidence: float = 0.95,
) -> dict[int, SelectionPoint]:
    """Selection among N candidates, for every N of ``counts``, with intervals over prompts.

    Arrays as in :func:`~probe_lab.metrics.evaluate`; ``prediction`` may be ``[S, n]`` for S trainings, of which means
    are taken, with intervals over prompts and trainings. For a prompt of n candidates, the mean over all subsets
    of size N is taken in closed form: a candidate that has l others below it and ties with e − 1 is chosen
    with probability [C(l + e, N) − C(l, N)] / (e · C(n, N)). All points rest on the same prompts, those with
    max(``counts``) candidates or more; prompts that tie in target belong to the mean scores, and are counted
    as tied in ``gain``.

    Raises :class:`~probe_lab.errors.DataError` when a count is below 1 or no prompt has that many candidates.
    """
    tables = [prompt_table(row, target, prompt) for row in np.atleast_2d(np.asarray(prediction, np.float64))]
    sizes = tables[0].size
    if not counts or min(counts) < 1 or max(counts) > sizes.max():
        raise DataError(
            f"candidate counts {list(counts)} cannot be drawn: "
            f"name one or more from 1 to {sizes.max()}, the most candidates that a prompt has"
        )
    kept = sizes >= max(counts)
    tables = [PromptTable(table.prediction[kept], table.target[kept], table.present[kept]) for table in tables]
    table = tables[0]
    draws = resample(len(table.size), resamples, seed)
    mean = table.target.sum(axis=1) / table.size
    nobody = np.zeros_like(table.tied)

    def over_prompts(trainings: Sequence[PromptRatio]) -> Interval:
        return Measured.of_ratios(trainings).interval(draws, confidence)

    curve = {}
    for count in counts:
        number = np.full(len(table.size), count)
        chosen = [_expected_target(one.prediction_signs, one, number) for one in tables]
        best = _expected_target(table.target_signs, table, number)
        choice = float(count > 1)  # with one candidate both differences are 0 but for rounding, and the gain is 0/0
        curve[count] = SelectionPoint(
            count=count,
            gain=over_prompts([_ratio(choice * (one - mean), choice * (best - mean), table.tied) for one in chosen]),
            score=over_prompts([mean_over(one, nobody) for one in chosen]),
            oracle=over_prompts([mean_over(best, nobody)]),
            random=over_prompts([mean_over(mean, nobody)]),
        )
    return curve


def _ratio(numerator: Floats, denominator: Floats, left_out: Bools) -> PromptRatio:
    return PromptRatio(np.where(left_out, 0.0, numerator), np.where(left_out, 0.0, denominator), left_out, "gain")


def _lowest(table: PromptTable) -> Floats:
    """``[P, 1]``: the lowest target of each prompt."""
    lowest: Floats = np.where(table.present, table.target, np.inf).min(axis=1, keepdims=True)
    return lowest


def _expected_target(signs: Signs, table: PromptTable, count: Counts) -> Floats:
    """``[P]``: expected target of the candidate that ranks highest by ``signs`` in a random subset."""
    # Relative to the lowest target: a common offset must not cost digits of a difference of two such means.
    lowest = _lowest(table)
    above: Floats = (_selected(signs, table, count) * (table.target - lowest)).sum(axis=1)
    return lowest[:, 0] + above


def _selected(signs: Signs, table: PromptTable, count: Counts) -> Floats:
    """``[P, M]``: chance to be the one that ranks highest by ``signs`` among ``count [P]`` drawn."""
    below = (signs > 0).sum(axis=2)
    tied = ((signs == 0) & table.pairs).sum(axis=2)
    chance = _all_among(below + tied, table.size, count) - _all_among(below, table.size, count)
    return np.where(table.present, chance / np.maximum(tied, 1), 0.0)


def _all_among(part: Counts, size: Counts, count: Counts) -> Floats:
    """``[P, M]``: C(part, count) / C(size, count), the chance that all drawn are among ``part [P, M]``."""
    chance = np.ones(part.shape)
    for drawn in range(int(count.max())):
        left = np.maximum(part - drawn, 0) / np.maximum(size - drawn, 1)[:, None]
        chance *= np.where(drawn < count[:, None], left, 1.0)
    return chance


def _discounts(signs: Signs, table: PromptTable) -> Floats:
    """``[P, M]``: mean of 1/log2(1 + rank) over the ranks that a candidate and its ties occupy."""
    above = (signs < 0).sum(axis=2)
    tied = ((signs == 0) & table.pairs).sum(axis=2)
    total = np.concatenate([[0.0], np.cumsum(1.0 / np.log2(2.0 + np.arange(signs.shape[1])))])
    return np.where(table.present, (total[above + tied] - total[above]) / np.maximum(tied, 1), 0.0)
