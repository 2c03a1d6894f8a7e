"""PickScore (Kirstain et al. 2023): a CLIP-H trained on which of two pictures people picked."""

from __future__ import annotations

from torch import Tensor

from probe_lab.evaluators.clip import ClipEvaluator, Encoded


class PickScore(ClipEvaluator):
    """exp(logit_scale) * cosine, as its model card computes it, before any softmax over candidates.

    The card crops with ``transformers``, one pixel off where the resized picture is an odd number of pixels too long.
    """

    architecture = "ViT-H-14"

    def rate(self, batch: Encoded) -> Tensor:
        return batch.scale * batch.cosine
