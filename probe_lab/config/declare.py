"""How the schema declares a key: its default, what it is for, and which numbers it may hold."""

from __future__ import annotations

import copy
from dataclasses import Field, dataclass, field
from typing import Any


@dataclass(frozen=True)
class Limits:
    """The numbers from ``least`` to ``most``. ``positive``: 0 itself is outside; ``below``: ``most`` itself is.

    ``least`` is the lowest whole number, or 0.
    """

    most: float
    positive: bool = False
    below: bool = False
    least: int = 0

    def holds(self, value: float) -> bool:
        """Whether a number is within; NaN and infinity never are."""
        return (value > 0 if self.positive else value >= self.least) and (
            value < self.most if self.below else value <= self.most
        )

    @property
    def text(self) -> str:
        """What a message says that the number must be."""
        if self.below:
            return f"it must be {'greater than' if self.positive else 'at least'} 0 and below {self.most:,}"
        if self.least:
            return f"it must be at least {self.least}, and at most {self.most:,}"
        return f"it must {'be greater than 0' if self.positive else 'not be negative'}, and at most {self.most:,}"

    def span(self, *, whole: bool) -> str:
        """The same for a table: ``1 to 4,096`` for whole numbers, ``0 to below 1`` for others."""
        lowest = "1" if self.positive and whole else "above 0" if self.positive else str(self.least)
        return f"{lowest} to {'below ' if self.below else ''}{self.most:,}"


@dataclass(frozen=True)
class Declared:
    """What the schema says of a key. ``text``'s first sentence says what the key is for; messages quote it.

    ``limits`` are those of its number, or of each in its list. ``allowed`` says in words what depends on other keys.
    Without ``in_result`` the key changes no result of a cell, and is no part of a cell's name.
    """

    text: str = ""
    limits: Limits | None = None
    allowed: str = ""
    in_result: bool = True

    @property
    def purpose(self) -> str:
        """The first sentence, as a message quotes it."""
        sentence = self.text.partition(". ")[0].removesuffix(".")
        return sentence if sentence[1:2].isupper() else sentence[:1].lower() + sentence[1:]


def key(default: Any, text: str, limits: Limits | None = None, *, allowed: str = "", in_result: bool = True) -> Any:
    """A field of a section: its default, which may be a list or a mapping, and what ``Declared`` holds."""
    metadata = {"text": text, "limits": limits, "allowed": allowed, "in_result": in_result}
    if isinstance(default, list | dict):
        return field(default_factory=lambda: copy.copy(default), metadata=metadata)
    return field(default=default, metadata=metadata)


def section_field(kind: type, *, in_result: bool = True) -> Any:
    """A field that holds a section; its class says what it is."""
    return field(default_factory=kind, metadata={"in_result": in_result})


def declared(entry: Field[Any]) -> Declared:
    """What a field declares."""
    return Declared(**entry.metadata)


def positive(most: float) -> Limits:
    """Above 0, up to ``most``."""
    return Limits(most, positive=True)


def up_to(most: float) -> Limits:
    """From 0 to ``most``."""
    return Limits(most)


SEED = Limits(2**32 - 1)
SHARE = Limits(1, below=True)
