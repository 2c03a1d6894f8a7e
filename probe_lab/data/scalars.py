"""Numbers that a probe reads beside its arrays: one per sample, made before training."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from probe_lab.cache import Cache
from probe_lab.cache.layout import LOOKAHEAD, PREVIEW_WORDS
from probe_lab.errors import ConfigError, ScoreError

LATENTS = {word: latent for latent, word in PREVIEW_WORDS.items()}
"""The first word of a scalar and the latent that it stands for. ``preview:<evaluator>`` is that evaluator's score of
the picture that the predicted x₀ of the step decodes to, ``lookahead:<evaluator>`` the same of the lookahead."""
PREVIEW = "preview:"


@dataclass(frozen=True)
class Scalar:
    """Whose score of which decoded ``latent`` of the step a scalar is."""

    latent: str
    evaluator: str

    @classmethod
    def parse(cls, text: str) -> Scalar:
        """ConfigError for a word that stands for no latent, or for no evaluator behind it."""
        word, _, evaluator = text.partition(":")
        if word not in LATENTS or not evaluator:
            forms = " or ".join(f"{known}:EVALUATOR" for known in LATENTS)
            raise ConfigError(f"'probe.scalars' names '{text}': write {forms}, {PREVIEW}shapes_reward say")
        return cls(LATENTS[word], evaluator)

    def __str__(self) -> str:
        return f"{PREVIEW_WORDS[self.latent]}:{self.evaluator}"


def looks_ahead(taps: Iterable[str], scalars: Iterable[Scalar]) -> bool:
    """Whether what is read takes one more denoiser call for each candidate."""
    return LOOKAHEAD in (*taps, *(scalar.latent for scalar in scalars))


def scalar_table(cache: Cache, step: int, scalars: Sequence[str]) -> Tensor:
    """Scalars of all samples, float32 [samples, S], row by sample_id; NaN in shards that are not complete.

    ScoreError for one that was not made, or not for every sample of the complete shards.
    """
    named = map(Scalar.parse, scalars)
    columns = [cache.preview_scores(each.evaluator, step, each.latent) for each in named]
    complete = cache.picture_samples["sample_id"].to_numpy()
    for scalar, column in zip(scalars, columns, strict=True):
        lacking = int(np.isnan(column[complete]).sum())
        if lacking:
            raise ScoreError(
                f"{lacking} of {len(complete)} samples of {cache.folder} have no {scalar} at step {step}: "
                "run `probe-lab score` again, it resumes"
            )
    return torch.from_numpy(np.stack(columns, axis=1))


def stored_previews(cache: Cache, step: int, evaluators: Sequence[str]) -> Tensor | None:
    """Scores of the previews of all samples, [samples, E], or None where some have to be decoded."""
    try:
        return scalar_table(cache, step, [PREVIEW + evaluator for evaluator in evaluators])
    except ScoreError:
        return None
