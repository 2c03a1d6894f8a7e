"""How much of the variance of a score lies between the seeds of one prompt: all that choosing among seeds can win."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from probe_lab.metrics.bootstrap import Interval, mean_over, resample
from probe_lab.metrics.measured import Measured, left_out_in_turn
from probe_lab.metrics.per_prompt import Counts, Floats, PromptTable, prompt_table


@dataclass(frozen=True)
class SeedShare:
    """The variance of a score in two components, of prompts and of the seeds within them.

    ``share`` is that of the seeds, 0 to 1; ``within`` is the variance of the seeds of a prompt, ``between`` that of the
    prompts' means without what the seeds add to it, both in squared units of the score. ``best`` is how far the best
    seed of a prompt lies above the mean of its seeds, on average, in units of the score.
    """

    share: Interval
    within: float
    between: float
    best: Interval


def seed_share(
    score: npt.ArrayLike, prompt: npt.ArrayLike, *, resamples: int = 1000, seed: int = 0, confidence: float = 0.95
) -> SeedShare:
    """The share of the variance of ``score [n]`` that lies between the seeds of a prompt, ``prompt [n]``.

    One-way analysis of variance with random effects: within = MS_within, between = (MS_between − MS_within) / n₀, at
    least 0. The interval of the share is symmetric in its logit, with the standard error of a jackknife over prompts.
    All nan where no prompt has two seeds, or all scores are alike; ``between`` and the share of a single prompt too.

    Raises DataError and ScoreError as :func:`~probe_lab.metrics.per_prompt.prompt_table` does.
    """
    values = np.asarray(score, np.float64)
    table = prompt_table(values, values, prompt)
    sizes, means, squares = _by_prompt(table)
    prompts = len(sizes)
    weights = np.concatenate([np.ones((1, prompts)), left_out_in_turn(prompts)])
    within, between = _components(weights, sizes, means, squares)
    with np.errstate(invalid="ignore"):
        shares = within / (within + between)
    draws = resample(prompts, resamples, seed)
    measured = Measured.of_jackknife(shares[:1], shares[None, 1:], prompts, "auc")  # which is symmetric in the logit
    highest = np.where(table.present, table.target, -np.inf).max(axis=1)
    best = mean_over(highest - means, sizes < 2)
    return SeedShare(
        measured.interval(draws, confidence), float(within[0]), float(between[0]), best.interval(draws, confidence)
    )


def _by_prompt(table: PromptTable) -> tuple[Counts, Floats, Floats]:
    """``[P]`` each: number of seeds, their mean score, and their sum of squared distances from it."""
    means = table.target.sum(axis=1) / table.size
    centred = np.where(table.present, table.target - means[:, None], 0.0)
    return table.size, means, (centred**2).sum(axis=1)


def _components(weights: Floats, sizes: Counts, means: Floats, squares: Floats) -> tuple[Floats, Floats]:
    """(within, between), ``[R]`` each, where each prompt counts by ``weights [R, P]`` of 0 and 1."""
    prompts, samples = weights.sum(axis=1), weights @ sizes
    with np.errstate(invalid="ignore", divide="ignore"):
        within = (weights @ squares) / np.where(samples > prompts, samples - prompts, np.nan)
        mean = (weights @ (sizes * means)) / samples
        apart = np.einsum("rp,rp->r", weights, sizes * (means - mean[:, None]) ** 2) / (prompts - 1)
        effective = (samples - (weights @ sizes**2) / samples) / (prompts - 1)
        between = np.maximum((apart - within) / effective, 0.0)
    return within, between
