"""What a loss expression may name, one ``Loss`` per term, and the schedule of Probe-Select."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING

from probe_lab import losses  # gives its functions when they are called: an experiment is read without torch
from probe_lab.errors import ConfigError, nearest
from probe_lab.registry import Registry

if TYPE_CHECKING:
    from torch import Tensor

    Scored = Callable[[Tensor, Tensor, "Annealed", Tensor | None], Tensor]

Term = str
"""The name of a ``Loss``."""


@dataclass(frozen=True)
class Annealed:
    """Temperature τ (of ``listwise`` and ``spearman``) and margin α (of ``listwise``) in one epoch."""

    temperature: float
    margin: float


@dataclass(frozen=True)
class Loss:
    """A term of ``probe.loss``.

    Attributes:
        score: (prediction [B], target [B], τ and α of the epoch, group [B] or None) -> scalar, for one evaluator, see
            the package; ``group`` is None without ``probe.within_prompt``. None for ``infonce``, which compares
            embeddings with text.
        label: what reports call it; empty: its name.
        keys: the keys of ``probe`` that change it, beside ``within_prompt``.
        compares: whether it compares samples with each other.
        scaled: whether it gives predictions the scale of the targets: then they are not calibrated.
        weight: the key of ``probe`` that weighs it, one of ``keys``; empty: it counts once.
    """

    score: Scored | None
    label: str = ""
    keys: tuple[str, ...] = ()
    compares: bool = True
    scaled: bool = False
    weight: str = ""

    def reads(self, key: str) -> bool:
        """Whether a key of ``probe`` changes it."""
        return key in self.keys or (key == "within_prompt" and self.compares and self.score is not None)


_OURS = {
    "mse": Loss(lambda y, target, now, group: losses.mse(y, target), "MSE", compares=False, scaled=True),
    "listwise": Loss(
        lambda y, target, now, group: losses.listwise(
            y, target, temperature=now.temperature, margin=now.margin, group=group
        ),
        keys=("temperature", "margin"),
    ),
    "infonce": Loss(None, "InfoNCE", keys=("alignment", "nce_temperature", "nce_temperature_ratio", "nce_negatives")),
    "pairwise": Loss(lambda y, target, now, group: losses.pairwise_logistic(y, target, group=group), "RankNet"),
    "listnet": Loss(lambda y, target, now, group: losses.list_net(y, target, group=group), "ListNet"),
    "listmle": Loss(lambda y, target, now, group: losses.list_mle(y, target, group=group), "ListMLE"),
    "pearson": Loss(
        lambda y, target, now, group: losses.pearson(y, target, group=group),
        "Pearson",
        keys=("correlation",),
        weight="correlation",
    ),
    "margin": Loss(lambda y, target, now, group: losses.pairwise_hinge(y, target, group=group), "hinge"),
    "lambdarank": Loss(lambda y, target, now, group: losses.lambda_rank(y, target, group=group), "LambdaRank"),
    "spearman": Loss(
        lambda y, target, now, group: losses.spearman(y, target, temperature=now.temperature, group=group),
        "Spearman",
        keys=("temperature",),
    ),
}
"""In this order the terms of a sum stand in the names of cells: new ones belong at the end."""
TERMS: tuple[Term, ...] = tuple(_OURS)
LOSSES = Registry("loss term", Loss, "losses", _OURS)


def register_loss(name: str, loss: Loss) -> None:
    """Let experiments of this process name ``loss`` as a term of ``probe.loss``.

    Workers that start afresh do not know the name: for them, name the loss as ``module:attribute`` instead.

    Raises:
        ConfigError: another loss has the name, or the name has a colon.
    """
    LOSSES.register(name, loss)


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
        if ":" not in name and LOSSES.loaded(name) is None:
            raise ConfigError(f"loss '{expression}' has the unknown term '{name}': {nearest(name, TERMS)}")
        LOSSES.get(name)
        if name in terms:
            raise ConfigError(f"loss '{expression}' has the term '{name}' twice: write each term once")
        terms.append(name)
    return tuple(terms)


def in_order(terms: tuple[Term, ...]) -> list[Term]:
    """As the terms of a sum stand in the names of cells: ours in the order of ``TERMS``, then others by name."""
    return sorted(terms, key=lambda term: (TERMS.index(term) if term in TERMS else len(TERMS), term))


def loss_text(expression: str) -> str:
    """``listwise+infonce`` -> "listwise + InfoNCE"."""
    known = {name: LOSSES.loaded(name) for name in expression.split("+")}
    return " + ".join((loss.label if loss else "") or name.rpartition(":")[2] for name, loss in known.items())
