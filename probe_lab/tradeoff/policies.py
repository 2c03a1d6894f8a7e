"""What a way of selecting keeps, told from scores that are there for every seed of a prompt: nothing is sampled anew.

That the kept images are those that selection would have finished is what the oracle tests of ``ProbeSelect`` show.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy import special

from probe_lab.metrics.per_prompt import Floats

Places = NDArray[np.int64]

DRAWS = 24
"""Sets of candidates that are drawn from the seeds of a prompt, at least, where there are as many."""


@dataclass(frozen=True)
class Stage:
    """``keep`` of the candidates go on, the best by ``scores`` [prompts, seeds]; of equals the first."""

    scores: Floats
    keep: int


def draw_candidates(prompts: int, seeds: int, candidates: int, seed: int, draws: int = DRAWS) -> Places:
    """Sets of ``candidates`` of the ``seeds`` of each prompt, int64 [prompts, draws or more, candidates].

    Sets are cut from permutations, so that the seeds of a prompt are used about equally often; where all are candidates
    there is one set.
    """
    generator = np.random.default_rng(seed)
    blocks = seeds // candidates
    rounds = 1 if candidates == seeds else -(-draws // blocks)
    order = np.tile(np.arange(seeds), (prompts, rounds, 1))
    order = generator.permuted(order, axis=2)[..., : blocks * candidates]
    return np.ascontiguousarray(order.reshape(prompts, rounds * blocks, candidates))


def kept_scores(target: Floats, stages: Sequence[Stage], candidates: Places) -> Floats:
    """Mean ``target`` of what is kept of each prompt, over its sets of candidates: [prompts].

    ``target`` is [prompts, seeds], ``candidates`` as ``draw_candidates`` gives them. Without stages all are kept.
    """
    left = candidates
    for stage in stages:
        scores = _of(stage.scores, left)
        best = np.argsort(-scores, axis=2, kind="stable")[..., : stage.keep]
        left = np.take_along_axis(left, best, 2)
    kept: Floats = _of(target, left).mean(axis=(1, 2))
    return kept


def best_of(target: Floats, scores: Floats, candidates: float) -> Floats:
    """Expected ``target`` of the candidate with the best of ``scores``, over all sets of so many seeds: [prompts].

    Both are [prompts, seeds]. Of n candidates out of m seeds the seed with rank k, the best has 0, is kept in
    C(m − 1 − k, n − 1) of the C(m, n) sets. A number between two whole ones is a lottery between both: 2.4
    candidates are three with a chance of 0.4 and two otherwise, which meets any cost that grows with them exactly.
    ``candidates`` is at least 1 and at most m.
    """
    below = math.floor(candidates)
    share = candidates - below
    ordered = np.take_along_axis(target, np.argsort(-scores, axis=1, kind="stable"), 1)
    weights = (1.0 - share) * _chances(target.shape[1], below)
    if share:
        weights = weights + share * _chances(target.shape[1], below + 1)
    kept: Floats = ordered @ weights
    return kept


def _chances(seeds: int, candidates: int) -> Floats:
    """That the seed of each rank is the best of the candidates: [seeds]."""
    ranks = np.arange(seeds)
    sets = special.comb(seeds - 1 - ranks, candidates - 1)
    return np.asarray(sets / special.comb(seeds, candidates), dtype=np.float64)


def _of(values: Floats, places: Places) -> Floats:
    """``values`` [prompts, seeds] at ``places`` [prompts, draws, n]."""
    return np.take_along_axis(np.broadcast_to(values[:, None], (*places.shape[:2], values.shape[1])), places, 2)
