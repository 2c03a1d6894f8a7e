"""What the shell offers while a command is typed: names of experiments, and keys with what they may be."""

from __future__ import annotations

from typing import Literal, get_args, get_origin

import typer


def experiments(incomplete: str) -> list[str]:
    """The experiments whose names begin so."""
    from probe_lab.config.load import experiment_names

    return sorted(name for name in experiment_names() if name.startswith(incomplete))


def keys(incomplete: str) -> list[str]:
    """The keys and sections that begin so."""
    from probe_lab.config.keys import known_keys

    return sorted(name for name in known_keys() if name.startswith(incomplete))


def overrides(context: typer.Context, incomplete: str) -> list[str]:
    """``KEY=`` for what begins a key, ``KEY=VALUE`` for every value of a key that has a few.

    To Bash, ``=`` is a word of its own, which is kept from us where it is the last: it takes the value alone.
    """
    from probe_lab.config.keys import leaf_keys

    typed: tuple[str, ...] = context.params.get("overrides") or ()
    before, last = ("", "", *typed)[-2:]
    if last in leaf_keys():
        return _values(last)
    if last == "=":
        return [value for value in _values(before) if value.startswith(incomplete)]
    key, equals, start = incomplete.partition("=")
    if not equals:
        return [f"{name}=" for name in leaf_keys() if name.startswith(incomplete)]
    return [f"{key}={value}" for value in _values(key) if value.startswith(start)]


def _values(key: str) -> list[str]:
    from probe_lab.config.hints import hint_at, without_null
    from probe_lab.registry import NAMED, registry_of

    if key in NAMED:
        return list(registry_of(key).names())
    hint, _ = without_null(hint_at(key.split(".")))
    if hint is bool:
        return ["true", "false"]
    return list(map(str, get_args(hint))) if get_origin(hint) is Literal else []
