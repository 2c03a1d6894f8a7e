"""Tables that take another form where the terminal is too narrow for them."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from rich.cells import cell_len
from rich.console import Console, ConsoleOptions, RenderableType
from rich.measure import Measurement
from rich.table import Table
from rich.text import Text

from probe_lab.console import visible

_UNLIMITED = 100_000


@dataclass(frozen=True)
class FittingTable:
    """``narrow``, unless one of ``forms`` has room: (columns of the terminal that it needs, the form), widest first."""

    forms: tuple[tuple[int, RenderableType], ...]
    narrow: RenderableType

    def __rich_console__(self, console: Console, options: ConsoleOptions) -> Iterator[RenderableType]:
        yield next((form for needed, form in self.forms if needed <= options.max_width), self.narrow)


@dataclass(frozen=True)
class TapLines:
    """Lines of a cell, of which those with a tap that is too long are broken before its kind, not within a word."""

    text: str

    def __rich_measure__(self, console: Console, options: ConsoleOptions) -> Measurement:
        return Text(visible(self.text)).__rich_measure__(console, options)

    def __rich_console__(self, console: Console, options: ConsoleOptions) -> Iterator[RenderableType]:
        lines = [_broken(line, options.max_width) for line in visible(self.text).split("\n")]
        yield Text("\n".join(lines), overflow="fold", no_wrap=False)

    def __str__(self) -> str:
        return self.text


def _broken(line: str, width: int) -> str:
    module, slash, kind = line.rpartition("/")
    return f"{module}\n  {slash}{kind}" if slash and cell_len(line) > width and " " not in line.strip() else line


def natural_width(table: Table) -> int:
    """Columns that a table takes where no line of it is broken."""
    return Console(width=_UNLIMITED).measure(table).maximum
