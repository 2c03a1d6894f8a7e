"""Values of the environment in an experiment (``${oc.env:NAME}``): used, and kept out of messages and stored files."""

from __future__ import annotations

import os
import re
from collections.abc import Iterator, Mapping
from typing import Any

Written = Mapping[str, Mapping[str, str]]
"""Dotted key -> a value that came from the environment -> the text that was written for it."""
_READS = "oc.env"
_NAME = re.compile(r"oc\.env:\s*['\"]?([^\s,'\"{}]+)")
_REFERENCE = re.compile(r"\$\{([^${}:]+)\}")
_SHORTEST = 3
"""Shorter values are in every other word of a message."""


def written_texts(raw: Mapping[str, Any], resolved: Mapping[str, Any]) -> Written:
    """The texts of ``raw`` that read the environment, themselves or by another key, by ``resolved`` value."""
    texts = {path: text for path, text in _leaves(raw) if "${" in text}
    reading = {path for path, text in texts.items() if _READS in text}
    while further := {path for path, text in texts.items() if path not in reading and _refers(text, reading)}:
        reading |= further
    found: dict[str, dict[str, str]] = {}
    for path, value in _leaves(resolved):
        source = next((path[:length] for length in range(1, len(path) + 1) if path[:length] in reading), None)
        if source is not None and value:
            found.setdefault(key_at(path), {})[value] = texts[source]
    return found


def as_written(content: Any, written: Written, path: tuple[str, ...] = ()) -> Any:
    """Plain containers with the written texts in the place of values."""
    if isinstance(content, dict):
        return {key: as_written(value, written, (*path, str(key))) for key, value in content.items()}
    if isinstance(content, list):
        return [as_written(value, written, (*path, str(place))) for place, value in enumerate(content)]
    return written.get(key_at(path), {}).get(content, content) if isinstance(content, str) else content


def without_values(message: str, *sources: str) -> str:
    """A message with the name of a variable for its value, of those that the sources read."""
    for name in {name for source in sources for name in _NAME.findall(source)}:
        value = os.environ.get(name, "")
        if len(value) >= _SHORTEST:
            message = message.replace(value, f"${{oc.env:{name}}}")
    return message


def key_at(path: tuple[str, ...]) -> str:
    """The dotted key at a path of names and places in lists; that of the axis within a sweep."""
    names = [name for name in path if not name.isdigit()]
    if names[:1] == ["sweep"]:
        return next((name for name in names if "." in name), ".".join(names))
    return ".".join(names)


def _leaves(content: Any, path: tuple[str, ...] = ()) -> Iterator[tuple[tuple[str, ...], str]]:
    if isinstance(content, str):
        yield path, content
    elif isinstance(content, Mapping | list):
        items = content.items() if isinstance(content, Mapping) else enumerate(content)
        for name, value in items:
            yield from _leaves(value, (*path, str(name)))


def _refers(text: str, paths: set[tuple[str, ...]]) -> bool:
    named = set(_REFERENCE.findall(text))
    return any(".".join(path[:length]) in named for path in paths for length in range(1, len(path) + 1))
