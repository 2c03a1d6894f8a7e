"""From a loss expression to one number: which term sees what. See ``docs/losses.md`` for how to add one."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from probe_lab import losses
from probe_lab.config import Negatives, ProbeConfig
from probe_lab.errors import ConfigError
from probe_lab.losses import LOSSES, TERMS, Term, annealed, rising


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
        if not any(LOSSES.get(term).score for term in self.terms):
            others = sorted(term for term in TERMS if LOSSES.get(term).score)
            raise ConfigError(
                f"probe.loss={'+'.join(self.terms)} trains no predictions: add one of {', '.join(others)}"
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
        return self.contrastive or (not self.within_prompt and any(LOSSES.get(term).compares for term in self.terms))

    @property
    def contrastive(self) -> bool:
        """Whether embeddings are compared with text."""
        return "infonce" in self.terms

    @property
    def scaled(self) -> bool:
        """Whether predictions are trained to have the scale of the targets; ranking terms leave it open."""
        return any(LOSSES.get(term).scaled for term in self.terms)

    def scored(self, prediction: Tensor, target: Tensor, group: Tensor, epoch: int) -> Tensor:
        """``prediction`` and ``target`` ``[B, E]``, ``group`` ``[B]`` to a scalar."""
        now = annealed(epoch, self.epochs, temperature_max=self.temperature, margin_max=self.margin)
        lists = group if self.within_prompt else None
        values: list[Tensor] = []
        for loss in map(LOSSES.get, self.terms):
            if loss.score is not None:
                weight = getattr(self, loss.weight) if loss.weight else 1.0
                values += [
                    weight * loss.score(prediction[:, e], target[:, e], now, lists) for e in range(prediction.shape[1])
                ]
        return torch.stack(values).sum() / prediction.shape[1]

    def contrast(self, embedding: Tensor, text: Tensor, group: Tensor, epoch: int = 0) -> Tensor:
        """λ · InfoNCE of ``[B, D]`` embeddings and text."""
        temperature = rising(epoch, self.epochs, first=self.nce_temperature, ratio=self.nce_temperature_ratio)
        known = group if self.negatives == "prompts" else None
        return self.alignment * losses.info_nce(embedding, text, temperature=temperature, group=known)
