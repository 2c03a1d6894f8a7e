"""A sheet in a terminal, as wide as there is room for."""

from __future__ import annotations

from typing import TYPE_CHECKING

from rich.text import Text

from probe_lab.compare.sheet import Sheet, shown, worded
from probe_lab.console import literal, visible
from probe_lab.terminal_tables import FittingTable, TapLines, natural_width

if TYPE_CHECKING:
    from rich.table import Table

_PLAIN = ("model", "loss", "evaluator", "metric")
"""Keys whose values speak for themselves."""


def sheet_table(sheet: Sheet) -> FittingTable:
    """A line per row and a column per number where there is room, else a line per tap; in narrow terminals a line per
    number, beside what the row is. A cell is called by the digits at the end of its name."""
    wide = [_by_column(sheet, between) for between in ("+", "+\n")]
    return FittingTable(tuple((natural_width(table), table) for table in wide), _by_line(sheet))


def _by_column(sheet: Sheet, between: str) -> Table:
    table = _table(sheet)
    for key in sheet.keys:
        table.add_column(literal(key))
    for heading in sheet.numbers.values():
        table.add_column(literal(heading), justify="right", no_wrap=True)
    for row in sheet.frame.to_dict("records"):
        told = (_told(key, row[key], between) for key in sheet.keys)
        table.add_row(*map(literal, told), *(literal(shown(row, column)) for column in sheet.numbers))
    return table


def _by_line(sheet: Sheet) -> Table:
    """What a row is in one column, with its taps below each other; its numbers beside, one on each line."""
    table = _table(sheet, edge=False)
    table.add_column("what", overflow="fold")
    table.add_column("of", overflow="fold")
    table.add_column("estimate", justify="right", no_wrap=True)
    headings = "\n".join(heading.replace("\n", " ") for heading in sheet.numbers.values())
    for row in sheet.frame.to_dict("records"):
        told = {key: _told(key, row[key]) for key in sheet.keys if key != "taps"}
        words = [word if key in _PLAIN else f"{key} {word}" for key, word in told.items() if word]
        taps = worded(row.get("taps")).split("+") if worded(row.get("taps")) else []
        values = [shown(row, column) for column in sheet.numbers]
        table.add_row(TapLines("\n".join([", ".join(words), *taps])), literal(headings), literal("\n".join(values)))
        table.add_section()
    return table


def _table(sheet: Sheet, *, edge: bool = True) -> Table:
    from rich.table import Table

    return Table(
        title=Text(visible(sheet.title), style="table.title"),
        title_justify="left",
        caption=Text(visible("\n".join(sheet.notes)), style="table.caption") if sheet.notes else None,
        caption_justify="left",
        show_edge=edge,
        pad_edge=edge,
    )


def _told(key: str, value: object, between: str = "+") -> str:
    word = worded(value)
    if key == "cell":
        return word.rpartition("-")[2]
    return word.replace("+", between) if key == "taps" else word
