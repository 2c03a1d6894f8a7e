"""How an experiment names the numbers that a probe reads beside its arrays, such as ``preview:shapes_reward``."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

from probe_lab.cache.layout import LOOKAHEAD, PREVIEW_WORDS, decoded_array
from probe_lab.errors import ConfigError

LATENTS = {word: latent for latent, word in PREVIEW_WORDS.items()}
"""The first word of a scalar and the latent that it stands for. ``preview:<evaluator>`` is that evaluator's score of
the picture that the predicted x₀ of the step decodes to, ``lookahead:<evaluator>`` the same of the lookahead, and
``tiny_preview:<evaluator>`` of the predicted x₀ as ``scoring.preview_decoder`` decodes it."""
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

    @property
    def array(self) -> str:
        """The latent that is decoded: ``x0`` or ``lookahead``."""
        return decoded_array(self.latent)

    def __str__(self) -> str:
        return f"{PREVIEW_WORDS[self.latent]}:{self.evaluator}"


def looks_ahead(taps: Iterable[str], scalars: Iterable[Scalar]) -> bool:
    """Whether what is read takes one more denoiser call for each candidate."""
    return LOOKAHEAD in (*taps, *(scalar.latent for scalar in scalars))
