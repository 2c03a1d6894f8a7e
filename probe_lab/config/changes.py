"""An experiment with some keys set to other values: the points of a sweep."""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Mapping
from typing import Any, cast

from omegaconf import DictConfig, ListConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException

from probe_lab.config.checks import check
from probe_lab.config.keys import leaf_keys
from probe_lab.config.load import merged, not_valid
from probe_lab.config.schema import Experiment, Schema

_MERGED = ("backbone", "scoring")
"""Sections whose parts are not set one by one: a family replaces a name, models have names of their own."""


def with_changes(experiment: Experiment, changes: Mapping[str, Any]) -> Experiment:
    """The experiment with some keys (dotted names) set to other values, checked again; its sweep is dropped.

    A single string for a key that holds a list is a list of one: a sweep over ``probe.taps`` may name plain taps.

    Raises:
        ConfigError: an unknown key, a wrong type or an impossible value.
    """
    changed = changed_unchecked(experiment, changes)
    check(changed)
    return changed


def changed_unchecked(experiment: Experiment, changes: Mapping[str, Any]) -> Experiment:
    """``with_changes`` where further keys will follow, and only together they may be possible."""
    simple = {key: value for key, value in changes.items() if is_simple(key, value)}
    others = {key: value for key, value in changes.items() if key not in simple}
    origin = _origin(experiment)
    if others:  # tens of milliseconds: everything is read anew
        content = OmegaConf.create(experiment.to_dict() | {"sweep": []})
        update = OmegaConf.create({})
        for key, value in others.items():
            OmegaConf.update(update, key, _one_of_a_list(key, value), force_add=True)
        changed = dataclasses.replace(
            merged(content, update, origin=origin), asked=experiment.asked, written=experiment.written
        )
    else:
        changed = dataclasses.replace(experiment, sweep=(), only="", sets={})
    return with_values(changed, {key: typed(key, value, origin) for key, value in simple.items()})


def is_simple(key: str, value: object) -> bool:
    """Whether setting the key is no more than a conversion to its type."""
    return key in leaf_keys() and key.partition(".")[0] not in _MERGED and "${" not in str(value)


def typed(key: str, value: object, origin: str) -> Any:
    """What a plain key holds where it is set to this value. ConfigError when that is not of its type."""
    path, _, name = key.rpartition(".")
    try:
        node = OmegaConf.merge(_structured(path), OmegaConf.create({name: _one_of_a_list(key, value)}))
        found = cast(DictConfig, node)[name]
    except (OmegaConfBaseException, TypeError) as error:
        raise not_valid(key, origin, error) from error
    return OmegaConf.to_container(found) if isinstance(found, ListConfig | DictConfig) else found


def with_values(experiment: Experiment, values: Mapping[str, Any]) -> Experiment:
    """The experiment with plain keys set to values of their types, unchecked: microseconds."""
    return cast(Experiment, _replaced(experiment, {tuple(key.split(".")): value for key, value in values.items()}))


def _replaced(part: Any, values: Mapping[tuple[str, ...], Any]) -> Any:
    own = {path[0]: value for path, value in values.items() if len(path) == 1}
    below: dict[str, dict[tuple[str, ...], Any]] = {}
    for path, value in values.items():
        if len(path) > 1:
            below.setdefault(path[0], {})[path[1:]] = value
    sections = {name: _replaced(getattr(part, name), inner) for name, inner in below.items()}
    return dataclasses.replace(part, **own, **sections)


def _one_of_a_list(key: str, value: object) -> object:
    return [value] if isinstance(value, str) and isinstance(leaf_keys().get(key), list) and "${" not in value else value


def _origin(experiment: Experiment) -> str:
    return f"a cell of {experiment.name}"


@functools.cache
def _structured(path: str) -> DictConfig:
    """The typed, empty section at a dotted path."""
    section: Any = Schema()
    for name in filter(None, path.split(".")):
        section = getattr(section, name)
    return cast(DictConfig, OmegaConf.structured(type(section)))
