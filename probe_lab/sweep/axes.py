"""One grid to its points: every combination of its axes, conditional ones where their condition holds."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from probe_lab.config import (
    Choice,
    Conditional,
    Experiment,
    Grid,
    Operand,
    changed_unchecked,
    is_simple,
    typed,
    with_values,
)
from probe_lab.config.checks import check, require_probe_step
from probe_lab.config.limits import MOST_CELLS
from probe_lab.errors import SweepError
from probe_lab.sweep.tap_patterns import TapNames


@dataclass(frozen=True)
class Setting:
    """One value of an axis; ``label`` is the name of the set of taps that it is.

    A ``simple`` value is of its key's type and is set in microseconds; others are told apart by their ``number``.
    """

    number: int
    value: Any
    simple: bool
    label: str = ""


AxisSettings = Mapping[str, Setting]
"""Key -> its value at one point."""
_Made = dict[tuple[tuple[str, int], ...], Experiment]


class GridPoints:
    """Makes the points of one experiment's grids.

    ``experiment`` has no sweep any more, and taps where it had names.
    """

    def __init__(self, experiment: Experiment, names: TapNames) -> None:
        self._experiment = experiment
        self._names = names

    def of(self, grid: Grid) -> Iterator[tuple[Experiment, AxisSettings]]:
        """Every point of the grid's product as an experiment, the last axis fastest, conditional axes last.

        Raises:
            ConfigError: a value of a wrong type, or impossible, alone or together with the others.
            SweepError: a name that no tap has, or a condition that no point fulfils.
        """
        made: _Made = {}
        found: list[AxisSettings] = [{}]
        for key, axis in sorted(grid.items(), key=lambda item: isinstance(item[1], Conditional)):
            if isinstance(axis, Conditional):
                settings, holds = self._settings(key, axis.values), self._holds(key, axis, grid, found, made)
            else:
                settings, holds = self._settings(key, axis), [True] * len(found)
            count = sum(len(settings) if held else 1 for held in holds)
            if count > MOST_CELLS:
                raise SweepError(
                    f"the sweep has at least {count:,} cells in one grid: name fewer values (at most {MOST_CELLS:,})"
                )
            found = [
                chosen
                for point, held in zip(found, holds, strict=True)
                for chosen in ([{**point, key: setting} for setting in settings] if held else [point])
            ]
        for point in found:
            experiment = self._at(point, made)
            check(experiment)
            require_probe_step(experiment)
            yield experiment, point

    def _holds(
        self, key: str, axis: Conditional, grid: Grid, points: Sequence[AxisSettings], made: _Made
    ) -> list[bool]:
        choice = Choice.parse(axis.condition, grid, where=f"'if' of the sweep over '{key}'")
        holds = [choice.holds(values_of(self._at(point, made), self._names)) for point in points]
        if not any(holds):
            raise SweepError(f"the sweep over '{key}' is empty: no point of its grid fulfils '{axis.condition}'")
        return holds

    def _settings(self, key: str, values: Sequence[Any]) -> list[Setting]:
        if key == "probe.taps":
            lists = [found for value in values for found in self._names.values(value)]
            return [Setting(number, found.taps, True, found.label) for number, found in enumerate(lists)]
        origin = f"a cell of {self._experiment.name}"
        return [
            Setting(number, typed(key, value, origin), True)
            if is_simple(key, value)
            else Setting(number, self._named(key, value), False)
            for number, value in enumerate(values)
        ]

    def _named(self, key: str, value: Any) -> Any:
        """A section with taps for their names."""
        if key == "probe" and isinstance(value, dict) and "taps" in value:
            return value | {"taps": self._names.joined(value["taps"])}
        return value

    def _at(self, point: AxisSettings, made: _Made) -> Experiment:
        """The experiment with these settings. What is not simple takes milliseconds and is ``made`` once."""
        slow = {key: setting for key, setting in point.items() if not setting.simple}
        place = tuple((key, setting.number) for key, setting in slow.items())
        if place not in made:
            changes = {key: setting.value for key, setting in slow.items()}
            made[place] = changed_unchecked(self._experiment, changes) if slow else self._experiment
        return with_values(made[place], {key: setting.value for key, setting in point.items() if setting.simple})


def value_at(experiment: Experiment, key: str) -> Any:
    """The value of a dotted key; a section as a mapping."""
    value: Any = experiment
    for name in key.split("."):
        value = getattr(value, name)
    return dataclasses.asdict(value) if dataclasses.is_dataclass(value) and not isinstance(value, type) else value


def values_of(experiment: Experiment, names: TapNames, *, loss: bool = True) -> Callable[[str], Operand]:
    """Its keys' values as tests see them. Without ``loss`` it has none, see ``answers_of_loss``."""

    def value_of(key: str) -> Operand:
        content = value_at(experiment, key) if loss or key != "probe.loss" else None
        return Operand(content, names.called(key, content), of_key=True)

    return value_of
