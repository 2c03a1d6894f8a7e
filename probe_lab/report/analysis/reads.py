"""What a probe reads of every candidate image, and what that takes beside the denoiser calls up to its step."""

from __future__ import annotations

from dataclasses import dataclass

from probe_lab.cache.layout import PREVIEW_WORDS
from probe_lab.data.scalars import Scalar, looks_ahead
from probe_lab.report.analysis.results import Results, Variant
from probe_lab.report.layout.style import evaluator_label, tap_labels


@dataclass(frozen=True)
class Reads:
    """Taps, joined by "+", and the scores of decoded latents beside them."""

    taps: str
    scores: tuple[Scalar, ...] = ()

    @property
    def looks_ahead(self) -> bool:
        """Whether a candidate takes one denoiser call more."""
        return looks_ahead(self.taps.split("+"), self.scores)

    @property
    def needs(self) -> str:
        """What a candidate takes beside the calls up to the step, in words; "" where that is nothing."""
        parts = ["one more denoiser call"] if self.looks_ahead else []
        if self.scores:
            latents = len({score.latent for score in self.scores})
            parts.append("a decode" if latents == 1 else f"{latents} decodes")
            parts.append("an evaluator run" if len(self.scores) == 1 else f"{len(self.scores)} evaluator runs")
        return " and ".join(filter(None, (", ".join(parts[:-1]), *parts[-1:])))

    def text(self, taps: str = "") -> str:
        """One line for people: "up 1.0 attn + shapes reward of the lookahead"; ``taps`` as the taps shall be called."""
        called = taps or tap_labels([self.taps])[self.taps]
        scores = (
            f"{evaluator_label(score.evaluator)} of the {PREVIEW_WORDS[score.latent].replace('_', ' ')}"
            for score in self.scores
        )
        return " + ".join((called, *scores))


def reads_of(results: Results, variant: Variant) -> Reads:
    return Reads(variant.taps, tuple(map(Scalar.parse, results.scalars(variant))))
