"""One table, four forms: Markdown, LaTeX (booktabs), CSV and HTML."""

from __future__ import annotations

import csv
import html
import io
import math
import re
from dataclasses import dataclass
from pathlib import Path

from probe_lab.console import visible
from probe_lab.csv_text import harmless
from probe_lab.markdown_text import verbatim
from probe_lab.report.analysis.results import Value
from probe_lab.report.layout.style import DASH, number_text

Field = str | int | float | Value | None
"""Text, a number, an estimate with its interval, or nothing (shown as a dash, empty in CSV)."""

_SHOWN = 50
"""Rows of a longer table that a page shows at first, as in page.js."""
_SHORT, _HUGE = 16, 200
"""Rows up to which a table stays on one sheet of paper; above which only the rows on the screen are printed."""
_LATEX = {
    "\\": r"\textbackslash{}", "&": r"\&", "%": r"\%", "$": r"\$", "#": r"\#",
    "_": r"\_", "{": r"\{", "}": r"\}",
    "~": r"\textasciitilde{}", "^": r"\textasciicircum{}", "<": r"\textless{}", ">": r"\textgreater{}",
    "`": r"\textasciigrave{}", '"': r"\texttt{\char34}", "–": "--", "−": "$-$", "×": r"$\times$", "“": "``", "”": "''",
    "—": "---", "‘": "`", "’": "'", "…": r"\ldots{}", "\u00a0": "~", "→": r"$\rightarrow$", "±": r"$\pm$",
    "≤": r"$\leq$", "≥": r"$\geq$", "·": r"$\cdot$", "°": r"$^\circ$",
}  # fmt: skip

_LIGATURES = ("--", "``", "''", ",,", "?`", "!`")
"""What fonts of LaTeX draw as one other character."""
_LATIN = "\u017f"
"""Up to here pdfLaTeX knows the characters of UTF-8."""
_ANY_SCRIPT = "% Has characters beyond Latin: compile it with LuaLaTeX or XeLaTeX, and a font that has them."


@dataclass(frozen=True)
class Table:
    """``rows`` have one field per column; row ``highlight`` stands out on the page. ``long`` ones may
    break over pages."""

    name: str
    title: str
    caption: str
    columns: tuple[str, ...]
    rows: tuple[tuple[Field, ...], ...]
    long: bool = False
    digits: int = 3
    highlight: int | None = None

    def markdown(self) -> str:
        """A pipe table with its title and caption."""
        head = [_cell(column) for column in self.columns]
        lines = [head, ["--:" if right else ":--" for right in self._right]]
        lines += [[_cell(field) if isinstance(field, str) else self._text(field) for field in row] for row in self.rows]
        table = "\n".join(f"| {' | '.join(line)} |" for line in lines)
        return f"**{_cell(self.title)}.** {_cell(self.caption)}\n\n{table}\n"

    def latex(self) -> str:
        """A complete ``table`` (``longtable`` if long) for the booktabs package; all text is escaped.

        A comment says where it has characters that pdfLaTeX does not know.
        """
        text = self._latex()
        return text if max(text) <= _LATIN else f"{_ANY_SCRIPT}\n{text}"

    def _latex(self) -> str:
        head = " & ".join(_latex(column) for column in self.columns) + r" \\"
        body = "\n".join(" & ".join(self._latex_field(field) for field in row) + r" \\" for row in self.rows)
        layout = "".join("r" if right else "l" for right in self._right)
        caption = rf"\caption{{{_latex(self.title)}. {_latex(self.caption)}}}"
        label = rf"\label{{tab:{self.name.replace('_', '-')}}}"
        if self.long:
            rules = "\\toprule\n" + head + "\n\\midrule\n\\endhead\n" + body + "\n\\bottomrule"
            return f"\\begin{{longtable}}{{{layout}}}\n{caption}\n{label}\\\\\n{rules}\n\\end{{longtable}}\n"
        rules = "\\toprule\n" + head + "\n\\midrule\n" + body + "\n\\bottomrule"
        tabular = f"\\begin{{tabular}}{{{layout}}}\n{rules}\n\\end{{tabular}}"
        kind = "table*" if len(self.columns) > 5 else "table"  # table* spans both columns of a paper
        return f"\\begin{{{kind}}}[t]\n\\centering\n\\small\n{caption}\n{label}\n{tabular}\n\\end{{{kind}}}\n"

    def csv(self) -> str:
        """Numbers unrounded; a column of estimates becomes three: its name, and the same with "lower" and
        "upper"."""
        wide = [any(isinstance(row[i], Value) for row in self.rows) for i in range(len(self.columns))]
        out = io.StringIO()
        writer = csv.writer(out, lineterminator="\n")
        head = [
            [name, f"{name} lower", f"{name} upper"] if w else [name]
            for name, w in zip(self.columns, wide, strict=True)
        ]
        writer.writerow([harmless(name) for names in head for name in names])
        for row in self.rows:
            fields = [_numbers(field, w) for field, w in zip(row, wide, strict=True)]
            writer.writerow([field for part in fields for field in part])
        return out.getvalue()

    def html(self, *, caption: bool = True) -> str:
        """A ``<table class="sortable">`` in a box of its own; cells carry the number that they sort by.

        Rows that the page does not show at first are "later", a table of many sheets of paper is "huge".
        """
        head = "".join(f'<th scope="col">{html.escape(column)}</th>' for column in self.columns)
        body = "".join(self._html_row(i) for i in range(len(self.rows)))
        text = f"<b>{html.escape(self.title)}.</b>" + (f" {html.escape(self.caption)}" if caption else "")
        parts = f"<caption><div>{text}</div></caption><thead><tr>{head}</tr></thead><tbody>{body}</tbody>"
        count = len(self.rows)
        size = " short" if count <= _SHORT else " long" if count > _SHOWN else ""
        huge = " huge" if count > _HUGE else ""
        name = html.escape(self.title, quote=True)
        box = f'<div class="wide{size}" role="region" tabindex="0" aria-label="{name}">'
        return f'{box}<table class="sortable{huge}" id="{html.escape(f"table-{self.name}")}">{parts}</table></div>'

    def _html_row(self, i: int) -> str:
        fields = "".join(self._html_field(field, column) for column, field in enumerate(self.rows[i]))
        kind = "best" if i == self.highlight else "later" if i >= _SHOWN else ""
        return (f'<tr class="{kind}">' if kind else "<tr>") + fields + "</tr>"

    def save(self, folder: Path) -> tuple[Path, ...]:
        """Write ``name.md``, ``name.tex`` and ``name.csv``."""
        texts = {".md": self.markdown(), ".tex": self.latex(), ".csv": self.csv()}
        for suffix, text in texts.items():
            (folder / f"{self.name}{suffix}").write_text(text, encoding="utf-8", errors="backslashreplace")
        return tuple(folder / f"{self.name}{suffix}" for suffix in texts)

    @property
    def _right(self) -> list[bool]:
        """Columns of numbers are set flush right, columns of text flush left."""
        return [not any(isinstance(row[i], str) for row in self.rows) for i in range(len(self.columns))]

    def _text(self, field: Field) -> str:
        match field:
            case Value():
                if math.isnan(field.estimate):
                    return DASH
                if math.isnan(field.lower):
                    return self._number(field.estimate)
                bounds = f"[{self._number(field.lower)}, {self._number(field.upper)}]"
                return f"{self._number(field.estimate)} {bounds}"
            case float():
                return self._number(field)
            case None:
                return DASH
            case _:
                return str(field)

    def _number(self, value: float) -> str:
        return number_text(value, self.digits)

    def _latex_field(self, field: Field) -> str:
        if isinstance(field, Value) and not math.isnan(field.lower):
            estimate, lower, upper = (
                self._number(v).replace("−", "-") for v in (field.estimate, field.lower, field.upper)
            )
            return rf"${estimate}$ {{\scriptsize$[{lower}, {upper}]$}}"
        return _latex(self._text(field))

    def _html_field(self, field: Field, column: int) -> str:
        if column == 0:
            return f'<th scope="row">{html.escape(self._text(field))}</th>'
        if isinstance(field, str):
            return f"<td>{html.escape(field)}</td>"
        number = field.estimate if isinstance(field, Value) else field
        key = "" if number is None or math.isnan(number) else f"{number:.6g}"
        shown = html.escape(self._text(field))
        if isinstance(field, Value) and "[" in shown:
            shown = shown.replace(" [", ' <span class="interval">[', 1) + "</span>"
        return f'<td class="number" data-key="{key}">{shown}</td>'


def _numbers(field: Field, wide: bool) -> list[str]:
    values: list[Field] = [field]
    if wide:
        values = [field.estimate, field.lower, field.upper] if isinstance(field, Value) else [field, None, None]
    return ["" if v is None or (isinstance(v, float) and math.isnan(v)) else _csv(v) for v in values]


def _csv(field: Field) -> str:
    return harmless(field) if isinstance(field, str) else str(field)


def _cell(text: str) -> str:
    return verbatim(_line(text))


def _latex(text: str) -> str:
    """One line in which every character stands for itself; a bracket or star behind ``\\\\`` would be its argument."""
    line = ""
    for character in _line(text):
        written = _LATEX.get(character, character)
        line += f"{{}}{written}" if line[-1:] + written[:1] in _LIGATURES else written
    return f"{{}}{line}" if line.startswith(("[", "*")) else line


def _line(text: str) -> str:
    """Without line breaks, which end a row or a paragraph, and with control characters written out."""
    return visible(re.sub(r"[\n\r\t\v\f\x85\u2028\u2029]+", " ", text))
