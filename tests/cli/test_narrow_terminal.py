"""What the commands print can be read in a terminal of 80 columns."""

from __future__ import annotations

import io
import re
from dataclasses import replace

import pandas as pd
import pytest
from rich.console import RenderableType

import probe_lab.progress
from probe_lab.capture import Tap
from probe_lab.compare.sheet import Sheet
from probe_lab.compare.terminal import sheet_table
from probe_lab.console import PlainConsole, shortened_line
from probe_lab.generation.measured_plan import Plan, plan_table
from probe_lab.generation.tap_listing import ListedTap, taps_table
from probe_lab.progress import bar_of, clock, pace_text, progress
from probe_lab.selection.candidates import Candidate, PromptCandidates
from probe_lab.selection.outcome import kept_table
from probe_lab.sweep.sweep_bar import SweepProgress
from probe_lab.sweep.worker import Outcome
from probe_lab.tradeoff import WAYS, About, Tradeoff, TradeoffRow
from probe_lab.tradeoff.terminal_summary import rows_table


def _printed(shown: RenderableType, width: int = 80) -> list[str]:
    """Lines, each of which fits."""
    console = PlainConsole(file=io.StringIO(), width=width, soft_wrap=True)
    console.print(shown)
    assert isinstance(console.file, io.StringIO)
    lines = console.file.getvalue().splitlines()
    assert max(map(len, lines)) <= width
    return lines


def _terminal() -> PlainConsole:
    return PlainConsole(file=io.StringIO(), width=80, soft_wrap=True, force_terminal=True, color_system=None)


def _output(console: PlainConsole) -> str:
    """Without what moves the cursor."""
    assert isinstance(console.file, io.StringIO)
    return re.sub(r"\x1b\[[0-9;?]*[a-zA-Z]", "", console.file.getvalue().replace("\r", "\n"))


def _bar(console: PlainConsole) -> str:
    """The line of a bar as it was drawn last."""
    return [line for line in _output(console).splitlines() if " left" in line][-1]


def test_a_trade_off_shows_every_number_whole() -> None:
    row = TradeoffRow("progressive", 10, 1, 25, "2:16,5:8,10:4,20:1", 1184.25, 112.345, 111.5, 113.5, 0.9, 0.88, 0.92)
    about = About("shapes_reward", 60, 50, "tiny-sd", "25 steps", ("cnn-5-a",), "a CPU")
    made = Tradeoff(tuple(replace(row, way=way) for way in WAYS), (), about)
    text = "\n".join(_printed(rows_table(made)))
    for part in ("1184.25", "112.345", "(111.500 to 113.500)", "[0.8800, 0.9200]", "20:1", WAYS["progressive"].label):
        assert part in " ".join(text.split()), part
    assert "112.345 (111.500 to 113.500)" in "\n".join(_printed(rows_table(made), 140))


def test_a_selection_shows_every_number_whole() -> None:
    kept = Candidate(3, 1234567890, {"a_one": 0.25, "a_two": 0.5}, place=0, true={"a_one": 0.75})
    text = "\n".join(
        _printed(kept_table([PromptCandidates("a prompt [bold] of many words " * 4, [kept])], ["a_one", "a_two"]))
    )
    for part in ("1234567890", "0.250 → 0.750  one", "0.500  two", "[bold]", "…'"):
        assert part in text, part


def test_a_comparison_shows_every_number_whole() -> None:
    row = {"cell": "step05-cnn-1a2b3c4d", "model": "cnn", "step": 5, "taps": "+".join(["up_blocks.1/attention"] * 4)}
    numbers = {"srcc_within": "shapes_reward\nsrcc_within", "selection_gain": "shapes_reward\nselection_gain"}
    values = {f"{name}{part}": 0.125 for name in numbers for part in ("", "/lower", "/upper")}
    sheet = Sheet(pd.DataFrame([row | {"key": "[red]x"} | values]), (*row, "key"), numbers, "title")
    text = "\n".join(_printed(sheet_table(sheet)))
    assert text.count("0.125 [0.125, 0.125]") == 2
    assert all(part in text for part in ("1a2b3c4d", "[red]x", "selection_gain"))


def test_a_tap_that_is_too_long_is_broken_before_its_kind() -> None:
    tap = "down_blocks.1.attentions.0.transformer_blocks.0/attention"
    plan = Plan(10_000, (1, 5), {tap: (24, 128, 128), "x0": (4, 128, 128)}, 2, 1, 1e5)
    listed = [ListedTap(Tap.parse(tap), (24, 128, 128), 786432, True)]
    row = {"cell": "step05-cnn-1a2b3c4d", "model": "cnn", "step": 5, "taps": tap}
    numbers = {name: f"a_rather_long_evaluator\n{name}" for name in ("srcc_within", "selection_gain")}
    values = {f"{name}{part}": 0.125 for name in numbers for part in ("", "/lower", "/upper")}
    sheet = Sheet(pd.DataFrame([row | values]), tuple(row), numbers, "title")
    for shown in (plan_table(plan), taps_table(listed, "title"), sheet_table(sheet)):
        lines = _printed(shown)
        assert any("  /attention" in line for line in lines)
        assert any(tap in line for line in _printed(shown, 200))


def test_the_line_of_a_bar_has_count_rate_and_time_left() -> None:
    console = _terminal()
    with bar_of("images", console) as bar:
        what = shortened_line("score [bold]a_very_long_evaluator_name", 20)
        bar.add_task(what, completed=120000, total=960000, pace="12.3/s, 10:02:03 left")
    last = _bar(console)
    assert len(last) <= 80
    assert all(part in last for part in ("score [bold]a_very_…", "120000/960000 images", "12.3/s, 10:02:03 left"))


def test_a_sweep_on_a_terminal_names_the_best_cell_above_its_bar() -> None:
    console = _terminal()
    name = "step05-cnn-" + "up_blocks.1.attentions.0.attention-" * 3
    with SweepProgress(5000, label="shapes_reward val srcc_within", console=console) as shown:
        shown.advance(Outcome(name + "a", seconds=1.0), (0.5, 0.4, 0.6))
        shown.advance(Outcome(name + "b", seconds=1.0), (0.25, 0.4, 0.6))
        shown.advance(Outcome(name + "c", seconds=1.0, error="loss is [nan]"), None)
    text = _output(console)
    last = _bar(console)
    assert len(last) <= 80
    assert all(part in last for part in ("3/5000 cells", " left, 1 failed"))
    joined = text.replace("\n", "")
    assert f"[1/5000] best so far: {name}a shapes_reward val srcc_within 0.500 [0.400, 0.600]" in joined
    assert f"{name}b" not in joined
    assert f"failed {name}c: loss is [nan]" in joined


def test_a_log_has_a_line_now_and_then(monkeypatch: pytest.MonkeyPatch) -> None:
    console = PlainConsole(file=io.StringIO(), width=80, soft_wrap=True)
    with SweepProgress(200, label="srcc", console=console) as shown:
        for i in range(200):
            shown.advance(Outcome(f"cell-{i}", seconds=1.0), (0.5 - i / 1000, 0.4, 0.6))
    lines = _output(console).splitlines()
    assert [line.split()[0] for line in lines[1:]] == ["[1/200]", "[200/200]"]
    assert "best so far: cell-0 srcc 0.500" in lines[1]


def test_lines_of_a_log_control_no_terminal(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(probe_lab.progress, "LINE_EVERY", 0.0)
    with progress("score \x1b[2J", "images") as update:
        update(1, 2)
    assert capsys.readouterr().err.startswith("score \\x1b[2J: 1/2 images")


def test_times_and_rates_are_those_of_people() -> None:
    assert [clock(seconds) for seconds in (5, 65, 3665, 90061)] == ["0:05", "1:05", "1:01:05", "1 d 1:01:01"]
    assert [pace_text(speed) for speed in (12.34, 0.5, 0.01, 0.0001)] == ["12.3/s", "30.0/min", "36.0/h", "0.4/h"]
    assert shortened_line("猫" * 9, 9) == "猫猫猫猫…"
