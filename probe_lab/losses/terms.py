"""What a loss expression may name, and the schedule of Probe-Select."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal, get_args

from probe_lab.errors import ConfigError, nearest

Term = Literal[
    "mse", "listwise", "infonce", "pairwise", "listnet", "listmle", "pearson", "margin", "lambdarank", "spearman"
]
TERMS: tuple[Term, ...] = get_args(Term)
"""In this order the terms of a sum stand in the names of cells: new ones belong at the end."""


@dataclass(frozen=True)
class Annealed:
    """Temperature τ (of ``listwise`` and ``spearman``) and margin α (of ``listwise``) in one epoch."""

    temperature: float
    margin: float


def annealed(epoch: int, epochs: int, *, temperature_max: float, margin_max: float) -> Annealed:
    """Schedule of Probe-Select: τ = τ_max · max(1 − e/E, 0.1) and α = α_max · (1 − e/E).

    ``epoch`` e counts from 0 to ``epochs`` − 1, so training starts at the two maxima.
    """
    left = 1.0 - epoch / epochs
    return Annealed(temperature=temperature_max * max(left, 0.1), margin=margin_max * left)


def rising(epoch: int, epochs: int, *, first: float, ratio: float) -> float:
    """Temperature of InfoNCE in one epoch: first · (1 + (ratio − 1) · e/E), linear from ``first`` on.

    The published code of Probe-Select goes from 0.1 to 1, so its ratio is 10; with 1 the temperature stays.
    """
    return first * (1.0 + (ratio - 1.0) * epoch / epochs)


def parse_loss(expression: str) -> tuple[Term, ...]:
    """Terms of a sum such as ``"listwise+infonce"``, in the order written; spaces around a term are ignored.

    Raises :class:`~probe_lab.errors.ConfigError` for an unknown term (naming the nearest), an empty one, or a
    repeated one.
    """
    terms: list[Term] = []
    for name in (part.strip() for part in expression.split("+")):
        if not name:
            raise ConfigError(f"loss '{expression}' has an empty term: join terms by + {nearest('', TERMS)}")
        if name not in TERMS:
            raise ConfigError(f"loss '{expression}' has the unknown term '{name}': {nearest(name, TERMS)}")
        if name in terms:
            raise ConfigError(f"loss '{expression}' has the term '{name}' twice: write each term once")
        terms.append(name)
    return tuple(terms)
