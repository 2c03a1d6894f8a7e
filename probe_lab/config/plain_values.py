"""Plain values as people write them: what a whole number, a number and a truth value look like."""

from __future__ import annotations

import re
from typing import Any

_WHOLE = re.compile(r"[-+]?(0|[1-9][0-9]*)")
_NUMBER = re.compile(r"[-+]?((0|[1-9][0-9]*)(\.[0-9]*)?|\.[0-9]+)([eE][-+]?[0-9]+)?|[-+]?\.?(inf|nan)", re.IGNORECASE)
_TRUTH = {"true": True, "yes": True, "on": True, "false": False, "no": False, "off": False}
_MOST_DIGITS = 18


def scalar_of(text: str, hint: Any) -> int | float | bool:
    """The value of a key that holds an ``int``, a ``float`` or a ``bool``.

    Decimal digits only: YAML's octal (010 is 8), hexadecimal, sexagesimal (1:30 is 90) and underscored numbers are not
    what most people who write them mean.

    Raises:
        ValueError: the text is no such value; the message says what to write.
    """
    if hint is int:
        if not _WHOLE.fullmatch(text):
            raise ValueError(
                f"'{text}' is no whole number: write one in decimal digits, {_suggested(text)} for instance"
            )
        if len(text) > _MOST_DIGITS:
            raise ValueError(f"'{text[:_MOST_DIGITS]}…' has {len(text)} digits: write a whole number of at most 18")
        return int(text)
    if hint is float:
        if not _NUMBER.fullmatch(text):
            raise ValueError(f"'{text}' is no number: write one in decimal digits, 0.5 or 1e-3 for instance")
        return float(text.lower().replace(".inf", "inf").replace(".nan", "nan"))
    if text.lower() not in _TRUTH:
        raise ValueError(f"'{text}' is neither true nor false: write one of them")
    return _TRUTH[text.lower()]


def _suggested(text: str) -> int:
    """What was probably meant."""
    try:
        number = float(text.replace("_", ""))
        return int(number) if number == int(number) and abs(number) < 10**_MOST_DIGITS else 5
    except (ValueError, OverflowError):
        return 5
