"""Four forms of one table."""

from __future__ import annotations

import csv
import io
import math
from html.parser import HTMLParser

from probe_lab.report.analysis.results import Value
from probe_lab.report.layout.table_forms import Table

TABLE = Table(
    name="a_b",
    title="Results & more",
    caption="95 % of x_0 < 1.",
    columns=("model", "SRCC", "note", "n"),
    rows=(
        ("a|b_1", Value(0.123456, -0.1, 0.3), "x & y", 3),
        ("<none>", None, None, 4),
        ("nan", Value(math.nan, math.nan, math.nan), "", -0.0001),
    ),
    highlight=1,
)


def test_a_page_shows_the_first_rows_of_a_long_table() -> None:
    def made(rows: int) -> str:
        return Table("t", "T", "", ("a", "b"), tuple((str(i), i) for i in range(rows))).html()

    assert made(16).count("later") == made(50).count("later") == 0
    assert made(51).count('<tr class="later"><th scope="row">50</th>') == 1
    assert made(300).count("later") == 250
    assert [" short" in made(n) for n in (16, 17)] == [True, False]
    assert [" huge" in made(n) for n in (200, 201)] == [False, True]


def test_markdown() -> None:
    lines = TABLE.markdown().splitlines()
    assert lines[0] == "**Results & more.** 95 % of x_0 < 1."
    assert lines[3] == "| :-- | --: | :-- | --: |"
    assert lines[4] == "| a\\|b_1 | 0.123 [−0.100, 0.300] | x & y | 3 |"
    assert lines[5] == "| \\<none> | – | – | 4 |"
    assert lines[6] == "| nan | – |  | 0.000 |"  # no negative zero


def test_latex_is_escaped() -> None:
    text = TABLE.latex()
    assert r"\caption{Results \& more. 95 \% of x\_0 \textless{} 1.}" in text
    assert r"a|b\_1 & $0.123$ {\scriptsize$[-0.100, 0.300]$} & x \& y & 3 \\" in text
    assert r"\label{tab:a-b}" in text
    assert r"\begin{tabular}{lrlr}" in text
    assert text.count("\\begin{table}") == text.count("\\end{table}") == 1


def test_csv_keeps_all_digits_and_splits_intervals() -> None:
    rows = list(csv.reader(io.StringIO(TABLE.csv())))
    assert rows[0] == ["model", "SRCC", "SRCC lower", "SRCC upper", "note", "n"]
    assert rows[1] == ["a|b_1", "0.123456", "-0.1", "0.3", "x & y", "3"]
    assert rows[2] == ["<none>", "", "", "", "", "4"]
    assert rows[3][1:4] == ["", "", ""]


def test_html_is_escaped_and_sortable() -> None:
    text = TABLE.html()
    HTMLParser().feed(text)
    assert '<th scope="row">&lt;none&gt;</th>' in text
    assert 'data-key="0.123456">0.123 <span class="interval">[−0.100, 0.300]</span></td>' in text
    assert text.count('data-key=""') == 3
    assert text.count("<tr class=") == 1
    assert "95 % of" not in TABLE.html(caption=False)
