"""Tables that take another form where the terminal is too narrow for them."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from rich.console import Console, ConsoleOptions, RenderableType
from rich.table import Table

_UNLIMITED = 100_000


@dataclass(frozen=True)
class Fitting:
    """``narrow``, unless one of ``forms`` has room: (columns of the terminal that it needs, the form), widest first."""

    forms: tuple[tuple[int, RenderableType], ...]
    narrow: RenderableType

    def __rich_console__(self, console: Console, options: ConsoleOptions) -> Iterator[RenderableType]:
        yield next((form for needed, form in self.forms if needed <= options.max_width), self.narrow)


def natural_width(table: Table) -> int:
    """Columns that a table takes where no line of it is broken."""
    return Console(width=_UNLIMITED).measure(table).maximum
