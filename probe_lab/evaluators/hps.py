"""HPSv2 and HPSv2.1: human preference (Wu et al. 2023), a CLIP ViT-H/14 tuned on choices of people."""

from __future__ import annotations

from dataclasses import replace

from PIL.Image import Image
from torch import Tensor
from torchvision.transforms import InterpolationMode
from torchvision.transforms import functional as TF

from probe_lab.evaluators.base import Settings, card
from probe_lab.evaluators.checkpoints import Checkpoint, locate
from probe_lab.evaluators.clip import ClipEvaluator, Encoded
from probe_lab.evaluators.clip_spec import ClipSpec, named_spec
from probe_lab.evaluators.model import Transform
from probe_lab.evaluators.preprocessing import CLIP_MEAN, CLIP_STD, to_rgb


class HpsV2(ClipEvaluator):
    """The cosine of picture and prompt, as the ``hpsv2`` package gives it on a CPU.

    Both versions are one architecture with other weights: the released ``{"state_dict": ...}`` files. On a GPU the
    package computes in float16 by autocast, ours in ``scoring.dtype``. It fails where the longest side is the model's
    224 and the other is not, and where the shorter one rounds to no pixel; ours pads the first and keeps one pixel of
    the second. It clips sixteen bits per pixel to eight, which makes nearly all of it white; ours scales them.
    """

    architecture = "ViT-H-14"

    def find(self, settings: Settings) -> tuple[Checkpoint, ClipSpec]:
        """The released files never say what they are, whatever lies beside them."""
        spec = named_spec(settings.model.architecture or self.architecture)
        spec = replace(spec, transform=letterbox(spec.config["vision_cfg"]["image_size"]))
        return locate(settings, (card(settings.name).file,)), spec

    def rate(self, batch: Encoded) -> Tensor:
        return batch.cosine


def letterbox(size: int) -> Transform:
    """What HPSv2 is shown of a picture, float32 [3, size, size]: all of it, between black bars.

    It is resized as float values, which bicubic weights may carry out of 0..1, and padded before it is normalised:
    open_clip's own ``longest`` mode resizes eight-bit values with Pillow, which differs by up to 2e-3 of the score. Of
    a picture one pixel wide torch repeats the first pixel (2.15, on a CPU); the package does the same, and so do we.
    """

    def apply(image: Image) -> Tensor:
        pixels = TF.to_tensor(to_rgb(image))
        scale = size / max(pixels.shape[1:])
        height, width = (max(1, round(side * scale)) for side in pixels.shape[1:])
        pixels = TF.resize(pixels, [height, width], InterpolationMode.BICUBIC, antialias=True)
        left, top = (size - width) // 2, (size - height) // 2
        found: Tensor = TF.normalize(
            TF.pad(pixels, [left, top, size - width - left, size - height - top]), list(CLIP_MEAN), list(CLIP_STD)
        )
        return found

    words = f"RGB, float, bicubic, longest side to {size}, black bars, mean {_told(CLIP_MEAN)}, std {_told(CLIP_STD)}"
    return Transform(words, apply)


def _told(channels: tuple[float, ...]) -> str:
    return " ".join(map(str, channels))
