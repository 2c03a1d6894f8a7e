"""YAML within bounds: what is nested too deeply, or grows by its aliases, is refused before it is built."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import yaml
from yaml.events import AliasEvent, CollectionEndEvent, CollectionStartEvent, Event, ScalarEvent

MOST_LEVELS = 64
"""Lists and mappings within each other: an experiment has 6. The C parser ends the interpreter at some ten thousand."""
MOST_VALUES = 1_000_000
"""Values of a text with its aliases written out."""

_LOADER = getattr(yaml, "CSafeLoader", yaml.SafeLoader)
"""Seven to ten times faster, where PyYAML has it: reports and comparisons read thousands."""

_OF_VALUES = (ValueError, LookupError, TypeError, AttributeError, ArithmeticError)
"""What PyYAML lets through for dates, numbers and tags without a meaning, and for lone surrogates."""


def read_yaml(text: str | bytes) -> Any:
    """What a text says, None where it is empty; interpolations (``${name}``) stay the texts that they are.

    Raises:
        yaml.YAMLError: no YAML, no Unicode, more than ``MOST_LEVELS`` levels or ``MOST_VALUES`` values, or a value that
            does not exist (the 45th of a month).
    """
    try:
        require_bounds(yaml.parse(text, Loader=_LOADER))
        return yaml.load(text, Loader=_LOADER)
    except _OF_VALUES as error:
        raise yaml.YAMLError(f"it holds a value that does not exist ({error})") from error


def require_bounds(events: Iterator[Event]) -> None:
    """yaml.MarkedYAMLError, with the place, for the first event that passes a bound or has no meaning."""
    sizes = [0]  # of the collections that are open, outermost first
    anchors: dict[str, int] = {}
    names: list[str | None] = []
    for event in events:
        size = 0
        if isinstance(event, CollectionStartEvent):
            sizes.append(0)
            names.append(event.anchor)
            anchors.pop(event.anchor or "", None)  # an alias within would repeat itself without end
            if len(names) > MOST_LEVELS:
                raise _refused(event, f"lists and mappings are nested more than {MOST_LEVELS} levels deep")
        elif isinstance(event, CollectionEndEvent):
            size, name = sizes.pop() + 1, names.pop()
            if name:
                anchors[name] = size
        elif isinstance(event, ScalarEvent):
            size = 1
            if event.anchor:
                anchors[event.anchor] = 1
        elif isinstance(event, AliasEvent):
            if event.anchor not in anchors:
                raise _refused(event, f"the alias *{event.anchor} stands for nothing before it: quote the text")
            size = anchors[event.anchor]
        sizes[-1] += size
        if sizes[-1] > MOST_VALUES:
            raise _refused(event, f"its aliases stand for more than {MOST_VALUES:,} values")


def _refused(event: Event, problem: str) -> yaml.MarkedYAMLError:
    mark: Any = event.start_mark  # the C parser's mark is a class of its own
    return yaml.MarkedYAMLError(problem=problem, problem_mark=mark)
