"""From predicted scores of several evaluators to the candidates that go on."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Literal

import torch
from torch import Tensor

from probe_lab.errors import SelectError, nearest
from probe_lab.probes import Probe

By = str | Mapping[str, float] | Literal["pareto"]
"""An evaluator; weights of several, whose standardised predictions are added; or the Pareto front of all."""


def check_by(by: By, probe: Probe) -> None:
    """SelectError for an evaluator that the probe does not predict."""
    names = [by] if isinstance(by, str) else list(by)
    for name in names:
        known = [*probe.spec.evaluators, *(["pareto"] if isinstance(by, str) else [])]
        if name not in known:
            raise SelectError(f"'{name}' is not predicted by the probe: {nearest(name, known)}")


def order(scores: Tensor, by: By, probe: Probe) -> Tensor:
    """Positions of the candidates of one prompt, the best first, of ``scores`` [n, E] in the evaluators' units.

    ``pareto``: those that no other one beats in all evaluators come first, then those that only they beat, and so on;
    within a front, the larger sum of standardised scores. Candidates that are not ``ranked`` come last.
    """
    places = torch.arange(len(scores), device=scores.device)
    usable = ranked(scores, by, probe)
    best = _order(probe.standardised(scores[usable]), by, list(probe.spec.evaluators))
    return torch.cat([places[usable][best], places[~usable]])


def ranked(scores: Tensor, by: By, probe: Probe) -> Tensor:
    """Which candidates have a finite number in everything that ``by`` compares, of ``scores`` [n, E]: bool [n]."""
    evaluators = probe.spec.evaluators
    compared = evaluators if by == "pareto" else [by] if isinstance(by, str) else by
    columns = [evaluators.index(name) for name in compared]
    return torch.isfinite(probe.standardised(scores)[:, columns]).all(1)


def _order(standard: Tensor, by: By, names: Sequence[str]) -> Tensor:
    """``order`` of standardised scores that are all finite."""
    if by == "pareto":
        return _best_first(standard.sum(1), _fronts(standard))
    if isinstance(by, str):
        return _best_first(standard[:, names.index(by)])
    parts = [weight * standard[:, names.index(name)] for name, weight in by.items()]
    return _best_first(torch.stack(parts).sum(0))


def _best_first(value: Tensor, front: Tensor | None = None) -> Tensor:
    """Stable: of equals the first candidate is the better one."""
    places = torch.argsort(value, descending=True, stable=True)
    return places if front is None else places[torch.argsort(front[places], stable=True)]


def _fronts(scores: Tensor) -> Tensor:
    """Which Pareto front each row of ``scores`` [n, E] is on, 0 the best; int64 [n]."""
    beats = (scores[:, None] >= scores[None]).all(2) & (scores[:, None] > scores[None]).any(2)
    front = torch.full((len(scores),), -1, dtype=torch.int64, device=scores.device)
    level = 0
    while (front < 0).any():
        left = front < 0
        front[left & ~(beats & left[:, None]).any(0)] = level
        level += 1
    return front
