"""Prompts as an evaluator's text tower encodes them: ``text.encoder`` of an experiment."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol, runtime_checkable

import torch
from torch import Tensor

from probe_lab.config import Scoring
from probe_lab.errors import ConfigError
from probe_lab.evaluators.base import create


@runtime_checkable
class TextTower(Protocol):
    """An evaluator that can give its text encodings away."""

    reads_prompts: bool

    def text_arrays(self, prompts: Sequence[str]) -> dict[str, Tensor]:
        """As the function of that name, of distinct prompts."""
        ...


def text_arrays(encoder: str, scoring: Scoring, prompts: Sequence[str]) -> dict[str, Tensor]:
    """Text encodings of at least one prompt, in their order and on the CPU; each distinct one is encoded once.

    ``embedding`` float32 [P, D]: L2-normalised, what the evaluator compares pictures with. ``tokens`` float32
    [P, L, D']: states of the begin, the words and the end after the tower's last norm, before the projection to D; L
    is as long as the longest of the prompts needs. ``token_mask`` bool [P, L]: False is padding. ``truncated`` bool
    [P]: the tower does not read the prompt to its end.

    Raises:
        ConfigError: no such evaluator, or one without a text tower.
        ScoreError: its checkpoint is missing, or of another model.
    """
    tower = text_tower(encoder, scoring)
    row = {prompt: index for index, prompt in enumerate(dict.fromkeys(prompts))}
    rows = torch.tensor([row[prompt] for prompt in prompts])
    return {name: tensor[rows] for name, tensor in tower.text_arrays(list(row)).items()}


def text_tower(encoder: str, scoring: Scoring) -> TextTower:
    """The evaluator that encodes. ConfigError where there is none, or it has no text tower."""
    evaluator = create(encoder, scoring)
    if isinstance(evaluator, TextTower) and evaluator.reads_prompts:
        return evaluator
    raise ConfigError(
        f"'text.encoder' is '{encoder}', which has no text tower: name the backbone, or an evaluator on CLIP "
        "(clip_score, shapes_clip_score, pick_score, hps_v2_1)"
    )
