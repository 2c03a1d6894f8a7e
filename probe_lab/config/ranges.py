"""Ranges of a sweep: ``{from: 1, to: 12, step: 2}`` and ``{from: 1e-4, to: 1e-2, count: 5, scale: log}`` to values."""

from __future__ import annotations

import math
from collections.abc import Mapping
from decimal import Decimal
from typing import Any, Literal

from probe_lab.config.limits import MOST_CELLS
from probe_lab.errors import ConfigError, nearest

AxisScale = Literal["linear", "log"]
_WORDS = ("from", "to", "step", "count", "scale")


def span(key: str, content: Mapping[str, Any], *, whole: bool) -> tuple[int | float, ...]:
    """The values of a range over ``key``, both ends included.

    With ``step`` (1 where it is left out), from the first end on, as far as the other is not passed. With ``count``,
    so many values from end to end, at equal distances or, with ``scale: log``, at equal ratios. Values have the digits
    that a person would write. ``whole`` keys get the nearest whole numbers, each once.

    Raises:
        ConfigError: a word or number that makes no range.
    """
    for word in map(str, content):
        if word not in _WORDS:
            raise ConfigError(f"unknown word '{word}' in the range over '{key}': {nearest(word, _WORDS)}")
    first, last = (_number(key, word, content.get(word)) for word in ("from", "to"))
    if last < first:
        raise ConfigError(f"the range over '{key}' goes from {first} to {last}: the first number is the smaller one")
    if "count" in content and "step" in content:
        raise ConfigError(f"the range over '{key}' has a step and a count: write one of them")
    if "count" in content:
        values = _spread(key, first, last, content["count"], content.get("scale", "linear"))
    elif "scale" in content:
        raise ConfigError(f"the range over '{key}' has a scale and no count: write count: 5, for instance")
    else:
        values = _stepped(key, first, last, _number(key, "step", content.get("step", 1)))
    return tuple(dict.fromkeys(round(value) for value in values)) if whole else values


def _number(key: str, word: str, value: object) -> int | float:
    if isinstance(value, bool) or not isinstance(value, int | float) or not math.isfinite(value):
        raise ConfigError(f"the range over '{key}' has '{word}: {value}': write a number, as in {{from: 1, to: 12}}")
    return value


def _stepped(key: str, first: float, last: float, step: float) -> tuple[int | float, ...]:
    if step <= 0:
        raise ConfigError(f"the range over '{key}' has the step {step}: it must be greater than 0")
    # Decimal: 0.1, 0.2, 0.3 and not 0.30000000000000004.
    start, stride = Decimal(str(first)), Decimal(str(step))
    count = int((Decimal(str(last)) - start) / stride) + 1
    _require_few(key, count)
    exact = isinstance(first, int) and isinstance(step, int)
    return tuple(int(value) if exact else float(value) for value in (start + i * stride for i in range(count)))


def _spread(key: str, first: float, last: float, count: object, scale: object) -> tuple[int | float, ...]:
    if isinstance(count, bool) or not isinstance(count, int) or count < 2:
        raise ConfigError(f"the range over '{key}' has the count {count}: write a whole number from 2 on")
    if scale not in ("linear", "log"):
        raise ConfigError(f"the range over '{key}' has the scale '{scale}': {nearest(str(scale), ('linear', 'log'))}")
    if scale == "log" and first <= 0:
        raise ConfigError(f"the range over '{key}' starts at {first}: on a log scale it must be greater than 0")
    _require_few(key, count)
    shares = [i / (count - 1) for i in range(1, count - 1)]
    if scale == "log":
        between = [math.exp((1 - s) * math.log(first) + s * math.log(last)) for s in shares]
    else:
        between = [(1 - s) * first + s * last for s in shares]
    # Ten digits: the logarithm's last ones are another machine's, and would be another cell's name.
    tidy = [min(max(float(f"{value:.10g}"), first), last) for value in between]
    return (first, *tidy, last)


def _require_few(key: str, count: int) -> None:
    if count > MOST_CELLS:
        raise ConfigError(f"the range over '{key}' has {count} values: take a larger step (at most {MOST_CELLS})")
