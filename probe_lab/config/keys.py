"""The names of an experiment's keys: which there are, what holds what, and how a filter's short names are meant."""

from __future__ import annotations

import functools
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import fields, is_dataclass

from probe_lab.config.declare import Declared, declared
from probe_lab.config.schema import EvaluatorModel, Schema
from probe_lab.errors import ConfigError, nearest

ENTRIES: Mapping[str, type] = {"scoring.models": EvaluatorModel}
"""Keys that hold sections by names of the user's choice."""

SWEEP = "sweep"
_CALLED = {"backbone": "backbone.name", "experiment": "name"}


@functools.cache
def known_keys() -> frozenset[str]:
    """Every dotted key of an experiment, sections included."""
    return frozenset({SWEEP, *_keys(Schema, "")})


@functools.cache
def leaf_keys() -> Mapping[str, object]:
    """Every key that holds a plain value or a list, with its default."""
    found: dict[str, object] = {}
    for key in sorted(known_keys() - {SWEEP}):
        value: object = Schema()
        for name in key.split("."):
            value = getattr(value, name)
        if not is_dataclass(value) and key not in ENTRIES:
            found[key] = value
    return found


@functools.cache
def declarations() -> Mapping[str, Declared]:
    """Every key that the schema declares, in its order, with what it says of it."""
    return dict(_declarations(Schema, ""))


def section(cls: type, name: str) -> type | None:
    """The dataclass that a field holds, or None for a plain value."""
    default = getattr(cls(), name, None)
    return type(default) if is_dataclass(default) else None


def key_of(name: str, swept: Iterable[str]) -> str:
    """The key that a filter names: a dotted one as it is, or the last part of one.

    Where several keys end alike, the swept one is meant, then that of ``probe``, then that of ``trainer``.
    ``backbone`` and ``experiment`` are their names.

    Raises:
        ConfigError: no key ends so, or several do.
    """
    leaves = leaf_keys()
    if name in _CALLED:
        return _CALLED[name]
    if "." in name:
        if name not in leaves:
            raise ConfigError(f"there is no key '{name}': {_suggested(name, leaves)}")
        return name
    found = [key for key in leaves if key.rpartition(".")[2] == name]
    for preferred in (
        [key for key in found if key in set(swept)],
        [key for key in found if key.startswith("probe.")],
        [key for key in found if key.startswith("trainer.")],
        found,
    ):
        if len(preferred) == 1:
            return preferred[0]
    if found:
        raise ConfigError(f"several keys are called '{name}': write one of {', '.join(found)}")
    usual = {key.rpartition(".")[2] for key in (*swept, *leaves) if key.startswith(("probe.", "trainer.", *swept))}
    raise ConfigError(f"there is no key '{name}': {nearest(name, usual)}")


def _suggested(name: str, leaves: Iterable[str]) -> str:
    head = name.partition(".")[0]
    return nearest(name, [key for key in leaves if key.startswith(f"{head}.")] or {k.partition(".")[0] for k in leaves})


def _keys(cls: type, prefix: str) -> set[str]:
    found: set[str] = set()
    for entry in fields(cls):
        found.add(prefix + entry.name)
        kind = section(cls, entry.name)
        if kind is not None:
            found |= _keys(kind, f"{prefix}{entry.name}.")
    return found


def _declarations(cls: type, prefix: str) -> Iterator[tuple[str, Declared]]:
    for entry in fields(cls):
        kind = section(cls, entry.name)
        if kind is None:
            yield prefix + entry.name, declared(entry)
        else:
            yield from _declarations(kind, f"{prefix}{entry.name}.")
