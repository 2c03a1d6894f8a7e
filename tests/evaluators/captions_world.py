"""Scores of pictures under several captions, compared with those of each pair alone."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from PIL.Image import Image
from torch import Tensor

from probe_lab.evaluators import Evaluator
from probe_lab.evaluators.base import families, prepared, score_all_captions
from probe_lab.evaluators.model import ModelEvaluator


def scored_and_alone(
    evaluators: Sequence[Evaluator], pictures: Sequence[Image], texts: Sequence[str]
) -> tuple[Tensor, Tensor]:
    """float64 [n, evaluators, C] of pictures under C captions of their own, together and pair by pair.

    Each picture of a family with a model is encoded once, in batches, whatever the captions.
    """
    captions = [[texts[(row + 2 * column) % len(texts)] for column in range(3)] for row in range(len(pictures))]
    encoded: dict[str, int] = {}
    for first in (members[0] for members in families(evaluators)):
        if isinstance(first, ModelEvaluator):
            _count(first, encoded)
    together = score_all_captions(evaluators, [prepared(evaluators, picture) for picture in pictures], captions)
    assert set(encoded.values()) <= {len(pictures)}
    assert together.dtype == torch.float32
    alone = [
        torch.stack([each.score([picture] * 3, own) for picture, own in zip(pictures, captions, strict=True)])
        for each in evaluators
    ]
    return together.double(), torch.stack(alone, 1).double()


def _count(evaluator: ModelEvaluator, encoded: dict[str, int]) -> None:
    original = evaluator.encode_pictures

    def counted(pixels: Tensor, *, again: bool) -> Any:
        encoded[evaluator.name] = encoded.get(evaluator.name, 0) + len(pixels)
        return original(pixels, again=again)

    evaluator.encode_pictures = counted  # type: ignore[method-assign]
