"""Texts in Markdown files: a reader sees what a user wrote, whatever it means in GitHub's Markdown."""

from __future__ import annotations

import re

_MEANING = re.compile(
    r"""
    \\(?=[!-/:-@\[-`{-~]|$)         # an escape, or one of what follows
    | [|*`~$]                       # cells, emphasis, code, strikethrough, mathematics
    | (?<![A-Za-z0-9])_ | _(?![A-Za-z0-9])  # emphasis, which none within a word is
    | <(?=[A-Za-z/!?])              # tags, comments, addresses
    | &(?=\#?[A-Za-z0-9]+;)         # entities
    | \[(?=.*\]) | \]               # links, images, notes
    """,
    re.VERBOSE,
)


def verbatim(line: str) -> str:
    """One line of text, for a cell of a table or within a paragraph, with a backslash before all that has a meaning."""
    return _MEANING.sub(lambda found: f"\\{found[0]}", line)
