"""Pictures and captions of single samples of a cache."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt
import torch
from matplotlib.axes import Axes
from torch import Tensor

from probe_lab.cache import Cache
from probe_lab.cache.picture import opened
from probe_lab.errors import CacheError
from probe_lab.report.layout.material import Material
from probe_lab.report.layout.style import LIGHT

# Words that name no thing; what is left between them is shown as one phrase ("red circle").
_ARTICLES = ("a", "an", "the", "and", "or", "of", "is", "are", "with")
_PLACES = (
    "in",
    "on",
    "at",
    "to",
    "by",
    "for",
    "from",
    "next",
    "near",
    "left",
    "right",
    "above",
    "below",
    "under",
)
_LINKING = frozenset(_ARTICLES + _PLACES)


def picture(cache: Cache, sample: int) -> npt.NDArray[np.uint8]:
    """The finished image, ``[H, W, 3]``. CacheError when it is damaged."""
    data = cache.image(sample)
    try:
        with opened(data, cache.manifest.pixels) as image:
            return np.asarray(image.convert("RGB"))
    except Exception as error:  # Pillow raises whatever its decoder met: OSError, SyntaxError, ValueError, struct.error
        raise CacheError(
            f"the image of sample {sample} of {cache.folder} cannot be decoded ({error}): `probe-lab cache verify` "
            "names its file"
        ) from error


def read_sample(cache: Cache, key: str, sample: int) -> Tensor:
    """One array of one sample, ``[C, H, W]`` float32; only its own bytes are read."""
    shard, row = (int(cache.samples[column].to_numpy()[sample]) for column in ("shard", "row"))
    return cache.read(key, shard, slice(row, row + 1))[0].to(torch.float32)


def frame(ax: Axes) -> None:
    """No ticks and a thin frame, without which a white picture has no edge."""
    ax.set_axis_on()
    ax.grid(False)
    ax.set(xticks=[], yticks=[])
    ax.spines[:].set(visible=True, color=LIGHT, linewidth=0.5)


def taps_of_kind(material: Material, kind: str) -> list[str]:
    """The taps of one kind in the cache, those that the best probe reads first."""
    assert material.cache
    used = material.choice.best.taps.split("+")
    found = [tap for tap in material.cache.manifest.taps if tap.endswith(f"/{kind}")]
    return sorted(found, key=lambda tap: tap not in used)


def phrases(words: list[str]) -> list[tuple[str, list[int]]]:
    """Runs of content words with their positions: "a red circle and a cross" -> ("red circle", [1, 2]),
    ("cross", [5])."""
    found: list[tuple[str, list[int]]] = []
    running = False
    for i, word in enumerate(words):
        content = word.strip(",.").lower() not in _LINKING
        if content and running:
            found[-1] = (f"{found[-1][0]} {word.strip(',.')}", [*found[-1][1], i])
        elif content:
            found.append((word.strip(",."), [i]))
        running = content and not word.endswith((",", "."))
    return found
