"""The consoles that the commands print on: texts of users and files appear as they are, and control nothing."""

from __future__ import annotations

import unicodedata
from collections.abc import Iterable
from typing import Any

from rich.cells import cell_len, set_cell_size
from rich.console import Console
from rich.segment import Segment
from rich.text import Text

_KEPT = "\n\t"
_HIDDEN = ("Cc", "Cs", "Zl", "Zp")
_DIRECTIONS = frozenset("\u061c\u200e\u200f\u202a\u202b\u202c\u202d\u202e\u2066\u2067\u2068\u2069")


def visible(text: str) -> str:
    """The text with terminal escapes and other control characters written out (``\\x1b``), line breaks and tabs kept.

    Marks that reverse the direction of writing are written out too: a name could pretend to be another one.
    """
    if text.isascii() and text.isprintable():
        return text
    return "".join(_written(character) if _controls(character) else character for character in text)


def shortened_line(text: str, columns: int) -> str:
    """The text as one ``visible`` line of at most so many columns of a terminal, with an ellipsis where it is longer.

    Signs of East Asia and emoji take two columns each.
    """
    line = " ".join(visible(text).split())
    if cell_len(line) <= columns:
        return line
    return set_cell_size(line, columns - 1).rstrip() + "…"


def literal(text: str) -> Text:
    """A text for a cell or title of a table: ``visible``, and markup on no console."""
    return Text(visible(text))


class PlainConsole(Console):
    """A console without markup, for which control characters of texts are made ``visible``."""

    def __init__(self, **settings: Any) -> None:
        super().__init__(markup=False, highlight=False, emoji=False, **settings)

    def render_str(self, text: str, **settings: Any) -> Text:  # before it is measured
        return super().render_str(visible(text), **settings)

    def render(self, *arguments: Any, **settings: Any) -> Iterable[Segment]:
        for segment in super().render(*arguments, **settings):
            yield segment if segment.control else segment._replace(text=visible(segment.text))


def _controls(character: str) -> bool:
    return character not in _KEPT and (unicodedata.category(character) in _HIDDEN or character in _DIRECTIONS)


def _written(character: str) -> str:
    return character.encode("unicode_escape").decode()
