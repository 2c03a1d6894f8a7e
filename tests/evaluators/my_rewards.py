"""An evaluator of a user's own: experiments name it ``my_rewards:Warmth``."""

from __future__ import annotations

import os
import signal
from collections.abc import Sequence

import numpy as np
import torch
from PIL.Image import Image
from torch import Tensor

from probe_lab.evaluators import Evaluator, Settings


class Warmth(Evaluator):
    """Red minus blue, in -1..1."""

    family = "warmth"
    version = "1"
    preprocessing = "RGB, not resized"

    def __init__(self, settings: Settings) -> None:
        self.name = settings.name

    def score(self, images: Sequence[Image], prompts: Sequence[str]) -> Tensor:
        pixels = [np.asarray(image.convert("RGB"), np.float32) / 255 for image in images]
        return torch.tensor([float((p[..., 0] - p[..., 2]).mean()) for p in pixels])


class Deadly(Warmth):
    """Kills its process at a picture."""

    def score(self, images: Sequence[Image], prompts: Sequence[str]) -> Tensor:
        os.kill(os.getpid(), signal.SIGKILL)
        return super().score(images, prompts)
