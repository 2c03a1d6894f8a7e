"""Where the images of a cell come from: cells of different backbones or caches are never averaged or compared."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

import yaml

from probe_lab.config.yaml_text import read_yaml
from probe_lab.errors import ReportError

_STATED = ("name", "backbone", "cache")
_PLAIN = ("name", "backbone")
"""Keys that may be texts."""


@dataclass(frozen=True)
class Origin:
    """The backbone and the name of the cache that cells were trained on; "" where they do not say."""

    backbone: str = ""
    cache: str = ""


def origin_of(config: str) -> Origin:
    """What the YAML text of a cell's configuration says."""
    found = stated(config, *_STATED)
    backbone, cache = found.get("backbone") or {}, found.get("cache") or {}
    if isinstance(backbone, str):
        backbone = {"name": backbone}
    label = backbone.get("name") or ":".join(filter(None, (backbone.get("family"), backbone.get("path"))))
    return Origin(label, str(cache.get("name") or found.get("name") or ""))


def stated(config: str, *names: str) -> dict[str, Any]:
    """Those of its sections that are named; to read whole configurations of many cells would take long.

    ReportError for what is no configuration.
    """
    sections = re.split(r"^(?=\S)", config, flags=re.MULTILINE)
    try:
        return _read("".join(part for part in sections if part.partition(":")[0] in names))
    except (ValueError, yaml.YAMLError) as error:
        reason = " ".join(str(error).split())
        raise ReportError(f"the configuration of a cell is no YAML of an experiment ({reason})") from error


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


@lru_cache(maxsize=256)  # the cells of a sweep say the same few things
def _read(text: str) -> dict[str, Any]:
    content = read_yaml(text) or {}
    if not isinstance(content, dict):
        raise ValueError(f"it holds {type(content).__name__} where sections were written")
    for key, value in content.items():
        if not isinstance(value, dict | None) and key not in _PLAIN:
            raise ValueError(f"'{key}' is {value!r:.60} and no section")
    return content
