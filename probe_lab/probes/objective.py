"""From a loss expression to one number: which term sees what. See ``docs/losses.md`` for how to add one."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass

import torch
from torch import Tensor

from probe_lab import losses
from probe_lab.config import Negatives, ProbeConfig
from probe_lab.errors import ConfigError
from probe_lab.losses import Annealed, Term, annealed, rising

Scored = Callable[[Tensor, Tensor, Annealed, Tensor | None], Tensor]
"""(prediction [B], target [B], τ and α of the epoch, group [B] or None) -> scalar, for one evaluator."""

SCORED: Mapping[Term, Scored] = {
    "mse": lambda prediction, target, now, group: losses.mse(prediction, target),
    "listwise": lambda prediction, target, now, group: losses.listwise(
        prediction, target, temperature=now.temperature, margin=now.margin, group=group
    ),
    "pairwise": lambda prediction, target, now, group: losses.pairwise_logistic(prediction, target, group=group),
    "listnet": lambda prediction, target, now, group: losses.list_net(prediction, target, group=group),
    "listmle": lambda prediction, target, now, group: losses.list_mle(prediction, target, group=group),
    "pearson": lambda prediction, target, now, group: losses.pearson(prediction, target, group=group),
    "margin": lambda prediction, target, now, group: losses.pairwise_hinge(prediction, target, group=group),
    "lambdarank": lambda prediction, target, now, group: losses.lambda_rank(prediction, target, group=group),
    "spearman": lambda prediction, target, now, group: losses.spearman(
        prediction, target, temperature=now.temperature, group=group
    ),
}
"""The terms that compare predictions with scores; ``infonce`` compares embeddings with text instead."""


@dataclass(frozen=True)
class Objective:
    """The sum of ``terms``: mean over evaluators of each scored term, plus λ (``alignment``) times InfoNCE.

    Targets are in standard deviations of the training split, and so is the margin. With ``within_prompt`` the
    ranking terms compare samples of one prompt only. The samples of one prompt share their text, so InfoNCE never
    has them as each other's negatives, unless ``negatives`` is "all". ``correlation`` weighs ``pearson``. τ, α and
    the temperature of InfoNCE change over ``epochs``.

    Raises:
        ConfigError: no term trains the predictions.
    """

    terms: tuple[Term, ...]
    within_prompt: bool
    temperature: float
    margin: float
    alignment: float
    nce_temperature: float
    epochs: int
    correlation: float = 1.0
    nce_temperature_ratio: float = 1.0
    negatives: Negatives = "prompts"

    def __post_init__(self) -> None:
        if not any(term in SCORED for term in self.terms):
            raise ConfigError(
                f"probe.loss={'+'.join(self.terms)} trains no predictions: add one of {', '.join(sorted(SCORED))}"
            )

    @classmethod
    def of(cls, config: ProbeConfig, terms: tuple[Term, ...], epochs: int) -> Objective:
        return cls(
            terms=terms,
            within_prompt=config.within_prompt,
            temperature=config.temperature,
            margin=config.margin,
            alignment=config.alignment,
            nce_temperature=config.nce_temperature,
            epochs=epochs,
            correlation=config.correlation,
            nce_temperature_ratio=config.nce_temperature_ratio,
            negatives=config.nce_negatives,
        )

    @property
    def across_prompts(self) -> bool:
        """Whether samples of different prompts are compared, so that the loss depends on which share a batch."""
        return self.contrastive or (not self.within_prompt and set(self.terms) != {"mse"})

    @property
    def contrastive(self) -> bool:
        """Whether embeddings are compared with text."""
        return "infonce" in self.terms

    @property
    def scaled(self) -> bool:
        """Whether predictions are trained to have the scale of the targets; ranking terms leave it open."""
        return "mse" in self.terms

    def scored(self, prediction: Tensor, target: Tensor, group: Tensor, epoch: int) -> Tensor:
        """``prediction`` and ``target`` ``[B, E]``, ``group`` ``[B]`` to a scalar."""
        now = annealed(epoch, self.epochs, temperature_max=self.temperature, margin_max=self.margin)
        lists = group if self.within_prompt else None
        values = [
            self._weight(term) * SCORED[term](prediction[:, e], target[:, e], now, lists)
            for term in self.terms
            if term in SCORED
            for e in range(prediction.shape[1])
        ]
        return torch.stack(values).sum() / prediction.shape[1]

    def contrast(self, embedding: Tensor, text: Tensor, group: Tensor, epoch: int = 0) -> Tensor:
        """λ · InfoNCE of ``[B, D]`` embeddings and text."""
        temperature = rising(epoch, self.epochs, first=self.nce_temperature, ratio=self.nce_temperature_ratio)
        known = group if self.negatives == "prompts" else None
        return self.alignment * losses.info_nce(embedding, text, temperature=temperature, group=known)

    def _weight(self, term: Term) -> float:
        return self.correlation if term == "pearson" else 1.0
