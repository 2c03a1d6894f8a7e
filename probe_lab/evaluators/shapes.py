"""The exact rewards of the embedded world as evaluators: shapes_reward, shapes_presence, shapes_binding, ..."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import chain
from typing import cast

import numpy as np
import torch
from PIL.Image import Image
from torch import Tensor

from probe_lab.errors import ConfigError, ScoreError
from probe_lab.evaluators.base import Evaluator, Prepared, Settings
from probe_lab.shapes.captions import Scene, parse_caption
from probe_lab.shapes.rewards import REWARDS, scene_rewards

_REWARD_OF = {reward if reward.startswith("shapes_") else f"shapes_{reward}": reward for reward in REWARDS}


class ShapesEvaluator(Evaluator):
    """One of the five exact rewards of :mod:`probe_lab.shapes.rewards`, in 0..1."""

    family = "shapes"
    version = "1"
    preprocessing = "RGB uint8, not resized"

    def __init__(self, settings: Settings) -> None:
        self.name = settings.name
        self.reward = _REWARD_OF[settings.name.partition("@")[0]]

    def unscorable(self, prompts: Sequence[str]) -> list[str]:
        """Whatever is no caption of the shapes world."""
        return [prompt for prompt in prompts if not _is_caption(prompt)]

    def score(self, images: Sequence[Image], prompts: Sequence[str]) -> Tensor:
        """float32 [n] in 0..1. ScoreError for a prompt that is not a caption of the shapes world."""
        return self.score_family([self], images, prompts)[self.name]

    def score_family(
        self, members: Sequence[Evaluator], inputs: Sequence[Prepared], prompts: Sequence[str]
    ) -> dict[str, Tensor]:
        scores = self.score_captions(members, inputs, [(prompt,) for prompt in prompts])
        return {name: columns[:, 0] for name, columns in scores.items()}

    def score_captions(
        self, members: Sequence[Evaluator], inputs: Sequence[Prepared], captions: Sequence[Sequence[str]]
    ) -> dict[str, Tensor]:
        """All rewards under all captions come from one segmentation of each image."""
        scenes = {caption: _scene(caption) for caption in dict.fromkeys(chain.from_iterable(captions))}
        found = [
            scene_rewards(np.asarray(image.convert("RGB")), [scenes[caption] for caption in own])
            for image, own in zip(cast(Sequence[Image], inputs), captions, strict=True)
        ]
        shape = (len(found), len(captions[0]) if captions else 1)
        return {
            member.name: torch.tensor(
                [[getattr(each, member.reward) for each in of_image] for of_image in found], dtype=torch.float32
            ).reshape(shape)
            for member in cast(Sequence[ShapesEvaluator], members)
        }


def _is_caption(prompt: str) -> bool:
    try:
        parse_caption(prompt)
    except ConfigError:
        return False
    return True


def _scene(prompt: str) -> Scene:
    try:
        return parse_caption(prompt)
    except ConfigError as error:
        raise ScoreError(
            f"the shapes evaluators cannot score the prompt '{prompt}': {error}; use prompts.source=shapes"
        ) from error
