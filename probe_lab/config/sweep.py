"""The ``sweep`` of an experiment file: grids of axes, named sets of taps, seeds, and which cells to run.

docs/sweeps.md shows every form. What needs no cache is settled here (ranges, seeds, overrides); patterns and sets stand
for taps only where cells are laid out.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from probe_lab.cache.layout import PLACELESS
from probe_lab.config.choice import Choice
from probe_lab.config.keys import known_keys, leaf_keys
from probe_lab.config.limits import MOST_CELLS
from probe_lab.config.ranges import span
from probe_lab.config.schema import Axis, Conditional, Grid
from probe_lab.errors import ConfigError, nearest

_OPTIONS = ("select", "seeds", "sets")
_WORDS = (*_OPTIONS, "grids")
_SEED = "trainer.seed"
_AXIS = "write a list with at least one value, a range {from: 1, to: 9}, or {values: [...], if: ...}"


@dataclass(frozen=True)
class Sweep:
    """What an experiment file says in ``sweep``, see ``Experiment``."""

    grids: tuple[Grid, ...] = ()
    select: str = ""
    sets: Mapping[str, tuple[str, ...]] = field(default_factory=dict)


def read_sweep(content: object) -> Sweep:
    """A sweep from plain containers: a grid, a list of grids, or a mapping with ``select``, ``seeds``, ``sets`` beside
    the keys of one grid or ``grids``, a list of several.

    Raises:
        ConfigError: an unknown key, a value of another form, or a test that cannot be read.
    """
    said, listed = _parts(content)
    grids = tuple(_grid(grid) for grid in listed)
    if "seeds" in said:
        grids = _seeded(grids, said["seeds"])
    select = said.get("select") or ""
    if not isinstance(select, str):
        raise ConfigError(
            f"'sweep.select' is {select}: write a test of cells in quotes, 'step in [5, 10]' for instance"
        )
    Choice.parse(select, {key for grid in grids for key in grid}, where="'sweep.select'")
    _require_few(grids)
    return Sweep(grids, select, _sets(said.get("sets") or {}))


def overridden(own: object, change: object) -> object:
    """A file's sweep and one of the overrides, as one: options alone change a file's, a sweep with grids replaces all
    but its sets."""
    said, grids = _parts(own)
    new, others = _parts(change)
    sets = {**(said.get("sets") or {}), **(new.get("sets") or {})}
    if isinstance(change, dict) and change and set(change) <= set(_OPTIONS):
        return {**said, **new, "sets": sets, "grids": grids}
    return {**new, "sets": sets, "grids": others}


def _parts(content: object) -> tuple[dict[str, Any], list[Any]]:
    """Options and grids, unread."""
    if content is None or content == {}:
        return {}, []
    if isinstance(content, list):
        return {}, content
    if not isinstance(content, dict):
        raise ConfigError(f"'sweep' holds '{content!s}': it is a mapping, or a list of mappings, from key to values")
    said = {key: content[key] for key in _OPTIONS if key in content}
    if not isinstance(said.get("sets") or {}, dict):
        raise ConfigError(f"'sweep.sets' holds '{said['sets']!s}': it is a mapping from a name to a list of taps")
    axes = {key: axis for key, axis in content.items() if key not in _WORDS}
    if "grids" not in content:
        return said, [axes] if axes else []
    if axes:
        raise ConfigError(f"'sweep' has 'grids' and beside it '{next(iter(axes))}': put that into one of the grids")
    grids = content["grids"]
    if not isinstance(grids, list):
        raise ConfigError(f"'sweep.grids' holds '{grids!s}': it is a list of mappings from key to values")
    return said, grids


def _grid(content: object) -> Grid:
    if not isinstance(content, dict):
        raise ConfigError(f"'sweep' holds '{content!s}': it is a mapping, or a list of mappings, from key to values")
    for key in content:
        if key in _WORDS or key not in known_keys():  # `select` is also a section of an experiment
            raise ConfigError(f"unknown key '{key!s}' in sweep: {_suggested(str(key))}")
    grid = {str(key): _axis(str(key), axis) for key, axis in content.items()}
    for key, axis in grid.items():
        if isinstance(axis, Conditional):
            Choice.parse(axis.condition, grid, where=f"'if' of the sweep over '{key}'")
    return grid


def _suggested(key: str) -> str:
    if key in _WORDS:
        return f"write {{{key}: ..., grids: [...]}}, for all grids"
    head = key.partition(".")[0]
    beside = [known for known in known_keys() if known.startswith(f"{head}.")] if "." in key else []
    return nearest(key, beside or [*_WORDS, *(known for known in known_keys() if "." not in known)])


def require_option(text: str) -> None:
    """ConfigError for an override ``sweep.KEY=VALUE`` whose KEY is none of the options."""
    key, _, value = text.removeprefix("sweep.").partition("=")
    if key not in _OPTIONS and key in known_keys():
        raise ConfigError(
            f"'{text}' sets one axis of a sweep: write a sweep, 'sweep={{{key}: {value}}}', or choose among the file's "
            f"cells, 'sweep.select={key} in {value}'"
        )
    if key.partition(".")[0] not in _OPTIONS:
        raise ConfigError(f"unknown key 'sweep.{key}' in the overrides: {nearest(key, _OPTIONS)}")


def _axis(key: str, content: object) -> Axis:
    if isinstance(content, dict) and "values" in content:
        for word in content:
            if word not in ("values", "if"):
                raise ConfigError(f"unknown word '{word}' in the sweep over '{key}': {nearest(str(word), _IF)}")
        condition = content.get("if")
        if not isinstance(condition, str) or not condition.strip():
            raise ConfigError(f"the sweep over '{key}' has values and no 'if': write a test, or the values alone")
        return Conditional(_values(key, content["values"]), condition)
    return _values(key, content)


_IF = ("values", "if")


def _values(key: str, content: object) -> tuple[Any, ...]:
    whole = type(leaf_keys().get(key)) is int
    if isinstance(content, dict) and "from" in content:
        return span(key, content, whole=whole)
    if not isinstance(content, list) or not content:
        raise ConfigError(f"the sweep over '{key}' holds '{content}': {_AXIS}")
    found: list[Any] = []
    for value in content:
        found += span(key, value, whole=whole) if isinstance(value, dict) and "from" in value else [value]
        if len(found) > MOST_CELLS:
            raise ConfigError(f"the sweep over '{key}' has more than {MOST_CELLS:,} values: take larger steps")
    return tuple(found)


def _require_few(grids: tuple[Grid, ...]) -> None:
    """ConfigError for more cells than can be laid out. A conditional axis counts as one value here."""
    count = sum(math.prod(len(axis) for axis in grid.values() if isinstance(axis, tuple)) for grid in grids)
    if count > MOST_CELLS:
        raise ConfigError(f"'sweep' has {count:,} cells: name fewer values (at most {MOST_CELLS:,} cells)")


def _seeded(grids: tuple[Grid, ...], seeds: object) -> tuple[Grid, ...]:
    """Every grid with the training seeds 0 to ``seeds`` − 1, in place of those that it has."""
    if isinstance(seeds, bool) or not isinstance(seeds, int) or seeds < 1:
        raise ConfigError(f"'sweep.seeds' is {seeds}: write how many training seeds each cell gets, 3 for instance")
    if seeds > MOST_CELLS:
        raise ConfigError(f"'sweep.seeds' is {seeds}: it must be at most {MOST_CELLS:,}")
    axis = tuple(range(seeds))
    return tuple({_SEED: axis, **grid, **({_SEED: axis} if _SEED in grid else {})} for grid in grids or ({},))


def _sets(content: Mapping[str, Any]) -> Mapping[str, tuple[str, ...]]:
    for name, taps in content.items():
        if not isinstance(taps, list) or not taps or not all(isinstance(tap, str) for tap in taps):
            raise ConfigError(f"the set '{name}' in sweep.sets holds '{taps}': write a list of taps or patterns")
        if name in ("paper", *PLACELESS) or not isinstance(name, str) or set(name) & set("/*?+"):
            raise ConfigError(f"a set in sweep.sets cannot be called '{name}': that is, or looks like, something else")
    return {name: tuple(taps) for name, taps in content.items()}
