"""Texts in CSV files: a spreadsheet must not take what a user wrote for a formula."""

from __future__ import annotations

import re

_FORMULA = re.compile(r"[=+\-@\t\r\n＝＋－＠]")
"""What begins a formula in a spreadsheet, itself or once it is stripped or normalised (OWASP, CSV injection)."""


def harmless(text: str) -> str:
    """The text, behind an apostrophe where a spreadsheet would calculate it; what reads as a number stays.

    Line breaks become ``\\n``: Python's writer does not quote a field for a carriage return, which then ends the row.
    """
    escaped = f"'{text}" if _FORMULA.match(text) and not _is_number(text) else text
    return re.sub(r"\r\n?", "\n", escaped)


def _is_number(text: str) -> bool:
    try:
        float(text)
    except ValueError:
        return False
    return True
