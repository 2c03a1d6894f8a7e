from __future__ import annotations

import io

import pytest
from rich.table import Table

from probe_lab.console import PlainConsole, visible


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("a red circle", "a red circle"),
        ("größe 🙂", "größe 🙂"),
        ("\x1b[31mred\x1b]0;title\x07", "\\x1b[31mred\\x1b]0;title\\x07"),
        ("a\rb\x9b2J", "a\\rb\\x9b2J"),
        ("gpj\u202eexe", "gpj\\u202eexe"),
        ("two\nlines\there", "two\nlines\there"),
    ],
)
def test_control_characters_are_written_out(text: str, shown: str) -> None:
    assert visible(text) == shown


def test_a_console_shows_texts_of_files_as_they_are() -> None:
    console = PlainConsole(file=io.StringIO(), width=80, force_terminal=True)
    console.print("[/x] [bold]a[/bold] :smile: \x1b[2J")
    table = Table(title="[/t]")
    table.add_column("[/c]")
    table.add_row("[/r] \x1b]0;x\x07")
    console.print(table)
    shown = console.file.getvalue()
    assert "[/x] [bold]a[/bold] :smile: \\x1b[2J" in shown
    assert all(part in shown for part in ("[/t]", "[/c]", "[/r] \\x1b]0;x\\x07"))
    assert "\x1b[2J" not in shown
    assert "\x1b]0;" not in shown
