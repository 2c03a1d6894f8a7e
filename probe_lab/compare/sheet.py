"""What the terminal, a CSV, JSON or Markdown file all show: a table of words and of numbers with intervals."""

from __future__ import annotations

import json
from collections.abc import Hashable, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal

from probe_lab.console import visible
from probe_lab.csv_text import harmless
from probe_lab.markdown_text import verbatim

if TYPE_CHECKING:
    import pandas as pd

Form = Literal["csv", "json", "markdown"]


@dataclass(frozen=True)
class Sheet:
    """``frame`` has the columns ``keys``, then of each of ``numbers`` (column -> heading) the estimate, "/lower" and
    "/upper". ``title`` says the split, ``notes`` what a reader has to know beside."""

    frame: pd.DataFrame
    keys: tuple[str, ...]
    numbers: Mapping[str, str]
    title: str
    notes: tuple[str, ...] = ()

    def text(self, form: Form) -> str:
        """The whole table as CSV, JSON (a list of records) or Markdown; full precision but in Markdown."""
        if form == "csv":
            texts = self.frame.map(lambda value: harmless(value) if isinstance(value, str) else value)
            return str(texts.rename(columns=harmless).to_csv(index=False))
        if form == "json":
            records = self.frame.astype(object).where(self.frame.notna(), None).to_dict("records")
            return json.dumps(records, indent=1, allow_nan=False, default=_plain) + "\n"
        return self._markdown()

    def _markdown(self) -> str:
        headings = [_plainly(heading) for heading in (*self.keys, *self.numbers.values())]
        lines = [
            verbatim(self.title),
            "",
            _line([verbatim(heading) for heading in headings]),
            _line([*("---" for _ in self.keys), *("---:" for _ in self.numbers)]),
        ]
        for row in self.frame.to_dict("records"):
            words = [verbatim(_plainly(worded(row[key]))) for key in self.keys]
            lines.append(_line([*words, *(shown(row, name) for name in self.numbers)]))
        return "\n".join([*lines, *(f"\n{verbatim(note)}" for note in self.notes), ""])


def shown(row: Mapping[Hashable, Any], column: str) -> str:
    """ "estimate [lower, upper]", a dash where there is none."""
    estimate, lower, upper = (row[column + part] for part in ("", "/lower", "/upper"))
    if estimate != estimate:
        return "-"
    return f"{estimate:.3f} [{lower:.3f}, {upper:.3f}]" if lower == lower else f"{estimate:.3f}"


def worded(value: object) -> str:
    """A key for people; nothing where a cell has none."""
    return "" if value is None or value != value else str(value)


def _line(fields: list[str]) -> str:
    return f"| {' | '.join(fields)} |"


def _plainly(text: str) -> str:
    """In one line, with control characters written out."""
    return " ".join(visible(text).split())


def _plain(value: Any) -> Any:
    return value.item()
