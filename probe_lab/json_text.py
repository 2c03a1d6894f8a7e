"""JSON of files that others may have written: manifests, sidecars, metrics, probes, captions."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterable
from typing import Any

MOST_LEVELS = 64
"""Lists and mappings within each other: our own files have at most 8."""


def read_json(text: str | bytes) -> Any:
    """What a text says.

    Raises:
        ValueError: no JSON, bytes that are no UTF, the same key twice in one object, or more than ``MOST_LEVELS``
            levels, at which Python's own recursion would end, here or wherever the content is used.
    """
    too_deep = f"its lists and mappings are nested more than {MOST_LEVELS} levels deep"
    try:
        content = json.loads(text, object_pairs_hook=_distinct)
    except RecursionError:
        raise ValueError(too_deep) from None
    level, depth = [content], 0
    while level := [item for item in level if isinstance(item, dict | list)]:
        depth += 1
        if depth > MOST_LEVELS:
            raise ValueError(too_deep)
        level = [inner for item in level for inner in _inside(item)]
    return content


def _distinct(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    content = dict(pairs)
    if len(content) < len(pairs):
        twice = next(key for key, count in Counter(key for key, _ in pairs).items() if count > 1)
        raise ValueError(f"the key {twice!r} stands twice in one object")
    return content


def _inside(item: dict[str, Any] | list[Any]) -> Iterable[Any]:
    return item.values() if isinstance(item, dict) else item
