"""Lists in which a value must not stand twice: it would count twice, or be another name of the same."""

from __future__ import annotations

from collections.abc import Hashable, Sequence
from operator import attrgetter
from typing import Any

from probe_lab.config.keys import leaf_keys
from probe_lab.config.schema import Conditional, Experiment
from probe_lab.errors import ConfigError

_LISTS = [(key, attrgetter(key)) for key, default in leaf_keys().items() if isinstance(default, list)]


def check_repeats(experiment: Experiment) -> None:
    """ConfigError for the first list that holds a value twice."""
    for key, values_of in _LISTS:
        require_once(f"'{key}'", values_of(experiment))


def check_axes(experiment: Experiment) -> None:
    """``check_repeats`` of a sweep: of the values of its axes and of its sets of taps."""
    for grid in experiment.sweep:
        for key, axis in grid.items():
            require_once(f"the sweep over '{key}'", axis.values if isinstance(axis, Conditional) else axis)
    for name, taps in experiment.sets.items():
        require_once(f"the set '{name}' in sweep.sets", taps)


def require_once(place: str, values: Sequence[Any]) -> None:
    """ConfigError where ``place`` names one of its values twice; values may be lists and mappings."""
    plain = [value for value in values if isinstance(value, Hashable)]
    if len(set(plain)) == len(plain) == len(values):  # a range may have many
        return
    for number, value in enumerate(values):
        if value in values[:number]:
            raise ConfigError(f"{place} names '{value}' twice: once is enough")
