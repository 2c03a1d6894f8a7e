"""Pictures of any mode and size as models want them: RGB, resized, cropped, normalised."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal

import numpy as np
from PIL import Image as Pictures
from PIL.Image import Image
from torch import Tensor
from torchvision.transforms import InterpolationMode
from torchvision.transforms import functional as TF

from probe_lab.evaluators.model import Transform

CLIP_MEAN = (0.48145466, 0.4578275, 0.40821073)
CLIP_STD = (0.26862954, 0.26130258, 0.27577711)
"""Of the RGB channels in 0..1, as OpenAI's CLIP and most models after it were trained (BLIP too)."""

Interpolation = Literal["bicubic", "bilinear"]
ResizeMode = Literal["shortest", "squash"]
"""Shortest side to the size, the longer one cropped; or both sides to the size, whatever that does to the picture."""


def to_rgb(image: Image) -> Image:
    """The picture in mode RGB, uint8: what ``convert("RGB")`` makes of it, as the original packages do.

    So transparency is dropped, not painted on a ground, and palettes, grey, black and white, and CMYK become RGB.
    Two kinds get more than that. Sixteen bits per pixel (``I;16``, and ``I`` as such files were opened before) are
    scaled to eight, where Pillow alone makes nearly all of it white; grey with premultiplied alpha (``La``), which
    it refuses, is converted in two steps.
    """
    if image.mode == "RGB":
        return image
    if image.mode == "I" or image.mode.startswith("I;16"):
        sixteen = np.asarray(image).astype(np.float64).clip(0, 65535)
        return Pictures.fromarray(np.round(sixteen / 257).astype(np.uint8)).convert("RGB")
    if image.mode == "La":
        image = image.convert("LA")
    return image.convert("RGB")


def clip_transform(
    size: int,
    mean: Sequence[float] = CLIP_MEAN,
    std: Sequence[float] = CLIP_STD,
    *,
    interpolation: Interpolation = "bicubic",
    fit: ResizeMode = "shortest",
) -> Transform:
    """What CLIP is shown of a picture, float32 [3, size, size]: equal to OpenAI's and open_clip's of the RGB picture.

    They resize, with Pillow's antialiasing, before they convert to RGB. Ours converts first, as ``transformers``
    does, since Pillow takes the nearest pixel of a palette and blends colours with transparency.
    """
    mode = InterpolationMode.BICUBIC if interpolation == "bicubic" else InterpolationMode.BILINEAR
    target = [size] if fit == "shortest" else [size, size]

    def apply(image: Image) -> Tensor:
        resized = TF.resize(to_rgb(image), target, mode)
        found: Tensor = TF.normalize(TF.to_tensor(TF.center_crop(resized, [size, size])), list(mean), list(std))
        return found

    side = f"shortest side to {size}, centre crop" if fit == "shortest" else f"squashed to {size}x{size}"
    return Transform(f"RGB, {interpolation}, {side}, mean {_told(mean)}, std {_told(std)}", apply)


def _told(channels: Sequence[float]) -> str:
    return " ".join(f"{each:g}" if float(f"{each:g}") == each else repr(float(each)) for each in channels)
