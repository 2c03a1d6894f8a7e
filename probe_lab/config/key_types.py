"""What each key of an experiment holds: the annotation of its field."""

from __future__ import annotations

import functools
import types
from collections.abc import Mapping, Sequence
from dataclasses import is_dataclass
from typing import Any, Literal, Union, get_args, get_origin, get_type_hints

from probe_lab.config.schema import Schema

OPEN: Any = Any
"""The hint of what no key names: it is read as YAML has it, and refused by its name later."""


def hint_at(path: Sequence[str]) -> Any:
    """The annotation of the key with these names, ``OPEN`` where there is no such key; the type of a section."""
    hint: Any = Schema
    for name in path:
        hint = inner(hint, name)
    return hint


def inner(hint: Any, name: str) -> Any:
    """The annotation of what a section, or a mapping by names, holds under ``name``."""
    if is_section(hint):
        return fields_of(hint).get(name, OPEN)
    return get_args(hint)[1] if get_origin(hint) is dict else OPEN


@functools.cache
def fields_of(cls: type) -> Mapping[str, Any]:
    """The annotations of a dataclass, by the names of its fields."""
    return get_type_hints(cls)


def is_section(hint: Any) -> bool:
    return isinstance(hint, type) and is_dataclass(hint)


def is_text(hint: Any) -> bool:
    """Whether a key holds a text, any or one of a few."""
    return hint is str or (get_origin(hint) is Literal and all(isinstance(value, str) for value in get_args(hint)))


def without_null(hint: Any) -> tuple[Any, bool]:
    """What an optional key holds beside null, and whether it is optional."""
    if get_origin(hint) in (Union, types.UnionType):
        others = [part for part in get_args(hint) if part is not type(None)]
        if len(others) == 1:
            return others[0], True
    return hint, False
