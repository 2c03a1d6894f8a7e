"""Where the images of a cell come from: cells of different backbones or caches are never averaged or compared."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass

from probe_lab.runs.configs import Flat


@dataclass(frozen=True)
class Origin:
    """The backbone and the name of the cache that cells were trained on; "" where they do not say."""

    backbone: str = ""
    cache: str = ""


def origin_of(written: Flat) -> Origin:
    """What the configuration of a cell says."""
    family = ":".join(str(written[key]) for key in ("backbone.family", "backbone.path") if written.get(key))
    label = written.get("backbone.name") or written.get("backbone") or family
    return Origin(str(label), str(written.get("cache.name") or written.get("name") or ""))


def origin_names(origins: Sequence[Origin]) -> list[str]:
    """A name for each: its backbone, with the cache where that is not enough."""
    counts = Counter(origin.backbone for origin in origins)
    return [
        origin.backbone
        if origin.backbone and counts[origin.backbone] == 1
        else f"{origin.backbone} ({origin.cache})"
        if origin.backbone
        else origin.cache or "unknown backbone"
        for origin in origins
    ]
