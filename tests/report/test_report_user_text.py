"""Texts of users are drawn as they are: no language that a figure, a table or a spreadsheet knows takes them for its
own."""

from __future__ import annotations

import csv
import io
import warnings
from pathlib import Path

import matplotlib.text
import numpy as np
import pandas as pd
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from markdown_it import MarkdownIt
from matplotlib.figure import Figure

from probe_lab.compare.sheet import Sheet
from probe_lab.csv_text import harmless
from probe_lab.fonts import missing
from probe_lab.report.analysis.results import Value
from probe_lab.report.layout.style import drawing, fitted, legend_label, save_figure
from probe_lab.report.layout.table_forms import Table
from probe_lab.report.sections.attention import AttentionRow, Lit, _draw

PICTURE = np.zeros((16, 16, 3), np.uint8)
DOLLARS = (
    "a $19 bill next to a $190 coin",
    "make $$ fast",
    "a blackboard with $x^2^3$",
    r"\frac{1}{2} costs \$5",
    "a $",
)


def _attention(prompt: str, phrase: str = "all words") -> Figure:
    return _draw([AttentionRow(prompt, 0.5, [PICTURE] * 2, [0.1, 0.2], [[Lit(phrase, torch.rand(4, 4))]] * 2)])


def _texts(figure: Figure) -> list[matplotlib.text.Text]:
    return [text for text in figure.findobj(matplotlib.text.Text) if isinstance(text, matplotlib.text.Text)]


def test_a_dollar_is_a_dollar(tmp_path: Path) -> None:
    with drawing():
        for prompt in DOLLARS:
            figure = _attention(prompt, phrase=prompt[-8:])
            figure.draw_without_rendering()  # invalid mathematics would raise
            titles = [text for text in _texts(figure) if prompt in text.get_text()]
            assert titles
            assert not any(text.get_parse_math() for text in _texts(figure))
        save_figure(figure, tmp_path, "attention", photographic=True)


def test_a_long_prompt_ends_before_its_correlation() -> None:
    with drawing():
        for prompt in ("W" * 500, "many words " * 60, "猫" * 300, "line\nbreak \x1b[31m " * 30):
            figure = _attention(prompt, phrase=prompt)
            figure.draw_without_rendering()
            (title,) = (text for text in _texts(figure) if "rank correlation" in text.get_text())
            assert "…”  (rank correlation +0.50)" in title.get_text()
            assert "\n" not in title.get_text()
            assert title.get_window_extent().x1 <= figure.bbox.x1
            tiles = [(ax.title, ax.bbox.width) for ax in figure.axes if ax.title.get_text().endswith("…")]
            assert all(tile.get_window_extent().width <= 1.3 * bound for tile, bound in tiles)


def test_what_fits_is_not_shortened() -> None:
    with drawing():
        assert fitted("a  cat\tand a dog", 200, 7) == "a cat and a dog"
        assert fitted("", 10, 7) == ""
        assert fitted("a cat", 1, 7) == "…"


def test_characters_without_a_sign_are_named_once_and_warned_of_never(tmp_path: Path) -> None:
    nowhere = "\U000f0000"  # private use: no font of scripts has it
    with warnings.catch_warnings(record=True) as seen:
        warnings.simplefilter("always")
        with drawing():
            save_figure(_attention(f"{nowhere} and {nowhere}"), tmp_path, "attention", photographic=True)
    assert not [warning for warning in seen if "Glyph" in str(warning.message)]
    assert missing(f"{nowhere} and {nowhere}") == nowhere
    assert missing("naïve Ελληνικά русский – 5 °C") == ""


def test_a_line_whose_name_begins_with_an_underscore_is_in_the_legend() -> None:
    with drawing():
        ax = Figure().subplots()
        ax.plot([0, 1], label=legend_label("_mine"))
        assert [name.strip() for name in ax.get_legend_handles_labels()[1]] == ["_mine"]


@pytest.mark.parametrize("text", ["=1+1", "+SUM(A1)", "-cmd|' /C calc'!A0", "@x", "\t=1", "\r=1", "＝1+1"])
def test_a_spreadsheet_calculates_nothing(text: str) -> None:
    table = Table("t", "T", "", (text, "n"), ((text, -0.5), ("-0.5", -3)))
    rows = list(csv.reader(io.StringIO(table.csv(), newline="")))
    assert rows[0][0] == rows[1][0] == "'" + text.replace("\r", "\n")
    assert [rows[1][1], *rows[2]] == ["-0.5", "-0.5", "-3"]
    assert harmless("a=1") == "a=1"


def test_latex_knows_no_command_of_a_user() -> None:
    text = Table(
        "t", "T", "", ("a",), ((r"\input{x} & 5% $ # _ ~ ^ {",), ("[1ex]",), ("*",), ("two\n\nlines",))
    ).latex()
    assert r"\textbackslash{}input\{x\} \& 5\% \$ \# \_ \textasciitilde{} \textasciicircum{} \{ \\" in text
    assert "\n{}[1ex] \\\\\n{}* \\\\\ntwo lines \\\\" in text
    assert not text.startswith("%")
    assert Table("t", "猫", "", ("a",), ()).latex().startswith("% Has characters beyond Latin: ")


def test_a_table_of_a_terminal_s_escapes_can_be_written(tmp_path: Path) -> None:
    table = Table("t", "T", "", ("a", "b"), (("\x1b[2J", "c\r\nd|e"), ("\ud800", "")))
    table.save(tmp_path)
    assert "| \\x1b[2J | c d\\|e |" in (tmp_path / "t.md").read_text()
    assert "\x1b" not in (tmp_path / "t.tex").read_text()


@given(st.text(st.sampled_from(r"ab1 \|<>*_`$[]()!&;#~-/"), min_size=1, max_size=12).map(str.strip).filter(bool))
def test_markdown_shows_what_a_user_wrote(text: str) -> None:
    _shows(text)


@pytest.mark.parametrize(
    "text", [r"\|", "a|b", "<b>x</b>", "<!-- x", "*x*", "_x_", "a_b", "`x`", "~~x~~", "[x](y)", "&lt;", "&#42;", "\\"]
)
def test_markdown_of_any_kind_is_text(text: str) -> None:
    _shows(text)


def _shows(text: str) -> None:
    """In the heading and the cells of both kinds of tables."""
    shared = pd.DataFrame({text: [text], "n": [0.5], "n/lower": [0.4], "n/upper": [0.6]})
    sheet = Sheet(shared, (text,), {"n": "n"}, title=f"a {text}", notes=(f"a {text}",)).text("markdown")
    table = Table("t", text, f"a {text}", (text, "other"), ((text, Value(0.5, 0.4, 0.6)),)).markdown()
    for markdown in (sheet, table):
        tokens = MarkdownIt("commonmark").enable(["table", "strikethrough"]).parse(markdown)
        inline = [token.children or [] for token in tokens if token.type == "inline"]
        kinds = {child.type for children in inline for child in children}
        assert kinds <= {"text", "text_special", "strong_open", "strong_close"}
        shown = ["".join(child.content for child in children) for children in inline]
        assert shown.count(" ".join(text.split()) if markdown is sheet else text) == 2


def test_latex_draws_every_character_as_itself() -> None:
    """No two of them make up a third, as fonts of LaTeX have it: dashes, quotes, inverted marks."""

    def latex(text: str) -> str:
        return Table("t", "T", "", ("a",), ((text,),)).latex().split("\\midrule\n")[1].split(" \\\\")[0]

    assert latex("--seed") == "-{}-seed"
    assert latex("a---b") == "a-{}-{}-b"
    assert latex("1–2 — x") == "1--2 --- x"
    assert latex("-–") == "-{}--"
    assert latex("``a''") == r"\textasciigrave{}\textasciigrave{}a'{}'"
    assert latex('"a"') == r"\texttt{\char34}a\texttt{\char34}"
    assert latex("?`!`") == r"?\textasciigrave{}!\textasciigrave{}"
    assert latex("!“a” ?‘") == "!{}``a'' ?{}`"
    assert latex(",,a") == ",{},a"
