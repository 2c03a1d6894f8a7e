"""Quality over compute: the figure and the tables say what was measured, whatever of it is there."""

from __future__ import annotations

import csv
import dataclasses
import itertools
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from probe_lab.errors import ReportError
from probe_lab.report import build, build_report
from probe_lab.report.analysis.chosen import choose
from probe_lab.report.analysis.loaded_results import load_results
from probe_lab.report.analysis.results import Results
from probe_lab.report.layout.labels import Label, place_labels
from probe_lab.report.layout.material import Material, Section
from probe_lab.report.layout.style import drawing
from probe_lab.report.sections import tradeoff
from probe_lab.report.sections.tradeoff_tables import ahead, lead, share
from probe_lab.tradeoff import WAYS, About, Pair, Tradeoff, TradeoffRow, Way
from probe_lab.tradeoff.thinning import Left, Thinning

NAN = float("nan")
ABOUT = About("shapes_reward", 64, 50, "tiny-sd", "25 steps, ddim, 64×64", ("cnn-5-a", "cnn-2-b"), "a CPU, 2 threads")
COUNTS = (2, 5, 10, 20, 50)
REACHED: dict[Way, float] = {
    "best_of_n": 1.0, "fewer_steps": 0.5, "preview": 0.62, "lookahead": 0.7, "probe": 0.55, "progressive": 0.58,
    "thinned": 0.66, "cascade": 0.72, "probe_plan": 0.8, "preview_plan": 0.76, "lookahead_plan": 0.78,
    "oracle": 1.0,
}  # fmt: skip
CUTS: dict[Way, str] = {"preview": "5:1", "probe": "5:1", "progressive": "2:6,5:4,8:3,10:2,12:1", "cascade": "5:3,8:1",
    "probe_plan": "2:6,2:2", "preview_plan": "3:4", "lookahead_plan": "2:3",
}  # fmt: skip


def _row(way: Way, count: int, calls: float, score: float) -> TradeoffRow:
    seconds = calls * 0.045 + 0.003 * count
    own = {"fewer_steps": 9, "probe_plan": 10 if count < 10 else 15, "preview_plan": 15, "lookahead_plan": 10}
    steps = own.get(way, 25)
    times = (NAN, NAN, NAN) if way == "oracle" else (seconds, 0.9 * seconds, 1.2 * seconds)
    return TradeoffRow(way, count, 1, steps, CUTS.get(way, ""), calls, *times, score, score - 0.03, score + 0.03)


def _found(counts: tuple[int, ...] = COUNTS, ways: tuple[Way, ...] = tuple(REACHED)) -> Tradeoff:
    rows = [_row("random", 1, 25.0, 0.78)]
    for way, count in itertools.product(ways, counts):
        calls = {"best_of_n": 25.0 * count, "cascade": 6.5 * count + 17.25}.get(way, 5.0 * count + 20)
        rows.append(_row(way, count, calls, 0.78 + 0.2 * REACHED[way] * (1 - 1 / count)))
    by_way = {(row.way, row.candidates): row for row in rows}
    pairs = []
    for count, (first, half) in itertools.product(counts, (("probe", 0.001), ("cascade", 0.005), ("progressive", 0.5))):
        if {first, "preview"} <= set(ways):
            pairs.append(_pair(by_way[first, count], by_way["preview", count], half))
    return Tradeoff(tuple(rows), tuple(pairs), ABOUT)


def _pair(one: TradeoffRow, two: TradeoffRow, half: float) -> Pair:
    gap = one.score - two.score
    costs = one.calls, two.calls, one.seconds, two.seconds
    p = 0.01 if half < abs(gap) else 0.5
    return Pair(one.text, two.text, one.candidates, "beats_preview", gap, gap - half, gap + half, *costs, p=p)


@pytest.fixture(autouse=True)
def style() -> Iterator[None]:
    with drawing():
        yield


@pytest.fixture
def material(simulated: Any, tmp_path: Path) -> Material:
    """Its runs folder is empty: a test puts the measurement there."""
    results: Results = load_results(simulated.runs)
    folder = tmp_path / "quick"
    folder.mkdir()
    choice = choose(results, simulated.world.evaluators, None)
    return Material(dataclasses.replace(results, folder=folder), choice, None)


def _section(material: Material, found: Tradeoff) -> Section:
    found.save(material.results.folder)
    return tradeoff.section(material)


def _panels(section: Section) -> list[Axes]:
    (drawn,) = section.drawings
    assert drawn.name == "tradeoff"
    return drawn.figure.axes


def test_without_a_measurement_the_page_says_how_to_make_one(material: Material) -> None:
    section = tradeoff.section(material)
    assert section.drawings == section.tables == ()
    (said,) = section.skipped
    assert "run `probe-lab tradeoff quick`" in said
    assert _section(material, Tradeoff((), (), ABOUT)).skipped == (said,)


def test_every_way_is_a_line_over_calls_and_over_seconds(material: Material) -> None:
    found = _found()
    section = _section(material, found)
    calls, seconds = _panels(section)
    assert calls.get_xscale() == seconds.get_xscale() == "log"
    assert {line.get_label() for line in calls.lines} == {words.label for words in WAYS.values()}
    untimed = {WAYS["oracle"].label}
    assert {line.get_label() for line in seconds.lines} == {words.label for words in WAYS.values()} - untimed
    for ax, cost in ((calls, "calls"), (seconds, "seconds")):
        for line in ax.lines:
            rows = [row for row in found.rows if WAYS[row.way].label == line.get_label()]
            assert list(line.get_xdata()) == [getattr(row, cost) for row in rows]
            assert list(line.get_ydata()) == [row.score for row in rows]
    styles = {line.get_label(): line.get_linestyle() for line in calls.lines}
    assert [styles[WAYS[way].label] for way in ("random", "best_of_n", "oracle", "probe")] == ["None", "--", "--", "-"]
    looks = [(line.get_color(), line.get_marker()) for line in calls.lines]
    assert len({color for color, _ in looks}) == len({marker for _, marker in looks}) == len(WAYS)


def test_the_page_says_what_each_way_is_and_what_would_be_suspicious(material: Material) -> None:
    section = _section(material, _found())
    assert section.tables[0].rows == tuple((words.label, words.sentence) for words in WAYS.values())
    assert "Suspicious would be" in section.explanation
    assert all(words.label in section.drawings[0].alt for words in WAYS.values())
    few = _section(material, _found(ways=("probe",)))
    assert [row[0] for row in few.tables[0].rows] == ["random seed", "probe"]


@pytest.mark.parametrize("counts", [COUNTS, (5,), tuple(range(2, 51))])
def test_numbers_of_candidates_stand_where_there_is_room(material: Material, counts: tuple[int, ...]) -> None:
    figure = _section(material, _found(counts)).drawings[0].figure
    figure.draw_without_rendering()
    for ax in figure.axes:
        boxes = [text.get_window_extent() for text in ax.texts]
        assert boxes
        assert {text.get_text() for text in ax.texts} <= {str(count) for count in counts}
        assert str(counts[-1]) in {text.get_text() for text in ax.texts}
        assert not any(one.overlaps(other) for one, other in itertools.combinations(boxes, 2))
        for box, line in itertools.product(boxes, ax.lines):
            points = ax.transData.transform(np.asarray(line.get_xydata()))
            assert not any(box.contains(x, y) for x, y in points)


def test_of_many_points_some_are_marked(material: Material) -> None:
    lines = _panels(_section(material, _found(tuple(range(2, 51)))))[0].lines
    (probe,) = (line for line in lines if line.get_label() == WAYS["probe"].label)
    assert len(list(probe.get_xdata())) == 49
    assert probe.get_markevery() == [0, 1, 3, 6, 11, 18, 30, 48]  # N = 2, 3, 5, 8, 13, 20, 32, 50


def test_without_seconds_there_is_one_panel(material: Material) -> None:
    found = _found()
    rows = [dataclasses.replace(row, seconds=NAN, seconds_low=NAN, seconds_high=NAN) for row in found.rows]
    section = _section(material, dataclasses.replace(found, rows=tuple(rows), pairs=()))
    assert len(_panels(section)) == 1
    assert "seconds" not in section.explanation
    assert section.skipped == ("Score over seconds: nothing was timed.",)
    assert [table.name for table in section.tables] == ["tradeoff_ways", "tradeoff"]


def test_arithmetic_has_a_panel_of_its_own_where_it_was_counted(material: Material) -> None:
    found = _found()
    rows = [dataclasses.replace(row, flops=2e9 * row.calls) if row.timed else row for row in found.rows]
    section = _section(material, dataclasses.replace(found, rows=tuple(rows)))
    panel = _panels(section)[2]
    (probe,) = (line for line in panel.lines if line.get_label() == WAYS["probe"].label)
    assert list(probe.get_xdata()) == [2 * row.calls for row in rows if row.way == "probe"]
    assert "floating-point operations" in section.explanation
    assert "GFLOPs" in section.drawings[0].alt


def test_each_number_of_fewer_steps_is_a_line_with_one_entry_in_the_legend(material: Material) -> None:
    found = _found()
    more = [
        dataclasses.replace(row, steps=5, calls=row.calls * 0.8, score=row.score - 0.02)
        for row in found.rows
        if row.way == "fewer_steps"
    ]
    figure = _section(material, dataclasses.replace(found, rows=(*found.rows, *more))).drawings[0].figure
    colour = next(line.get_color() for line in figure.axes[0].lines if line.get_label() == WAYS["fewer_steps"].label)
    assert len([line for line in figure.axes[0].lines if line.get_color() == colour]) == 2
    assert [text.get_text() for text in figure.legends[0].get_texts()].count(WAYS["fewer_steps"].label) == 1
    wanted = [label.text for label in tradeoff._labels((*found.rows, *more), "calls")]
    assert (wanted.count("5 steps"), wanted.count("9 steps")) == (1, 1)


def test_how_the_share_was_chosen_is_a_table(material: Material) -> None:
    tried = (Left(2, 0.8, 0.02, 0.01), Left(3, 0.815, 0.005, 0.006), Left(4, 0.82, 0.0, 0.0))
    about = dataclasses.replace(ABOUT, thinning=Thinning(0.75, 40, 4, tried))
    section = _section(material, dataclasses.replace(_found(), about=about))
    (table,) = (table for table in section.tables if table.name == "tradeoff_thinning")
    assert [(row[0], row[-1]) for row in table.rows] == [(2, ""), (3, "yes"), (4, "")]
    given = _section(material, dataclasses.replace(_found(), about=dataclasses.replace(ABOUT, thinning=Thinning(0.5))))
    assert "tradeoff_thinning" not in {table.name for table in given.tables}


def test_one_way_alone_is_enough(material: Material) -> None:
    found = Tradeoff((_row("random", 1, 25.0, 0.78),), (), ABOUT)
    section = _section(material, found)
    assert len(_panels(section)) == 2
    assert section.lead == ""


def test_damaged_files_are_refused(material: Material) -> None:
    _found().save(material.results.folder)
    (material.results.folder / "tradeoff.parquet").write_bytes(b"")
    with pytest.raises(ReportError, match=r"tradeoff\.parquet cannot be read"):
        tradeoff.section(material)


def test_the_share_is_between_a_random_seed_and_the_best_of_the_same_number() -> None:
    found = _found()
    for row in found.rows[1:]:
        assert share(found, row) == pytest.approx(REACHED[row.way])
    assert share(found, found.rows[0]) is None
    only_oracle = dataclasses.replace(found, rows=tuple(row for row in found.rows if row.way != "best_of_n"))
    assert [share(only_oracle, row) for row in only_oracle.rows] == [
        share(found, row) for row in found.rows if row.way != "best_of_n"
    ]
    no_best = dataclasses.replace(only_oracle, rows=tuple(row for row in only_oracle.rows if row.way != "oracle"))
    assert {share(no_best, row) for row in no_best.rows} == {None}
    flat = dataclasses.replace(found, rows=tuple(dataclasses.replace(row, score=0.5) for row in found.rows))
    assert {share(flat, row) for row in flat.rows} == {None}


def test_the_first_sentence_is_of_the_largest_number_that_all_ways_have() -> None:
    found = _found()
    text = lead(found)
    assert "the best of 50, which takes 1250 denoiser calls" in text
    assert "; probe 55\u00a0% for 22\u00a0% of the calls; " in text
    rows = tuple(row for row in found.rows if (row.way, row.candidates) != ("cascade", 50))
    assert "the best of 20" in lead(dataclasses.replace(found, rows=rows))
    assert lead(dataclasses.replace(found, rows=tuple(row for row in rows if row.way != "best_of_n"))) == ""


def test_who_is_ahead_is_what_holms_p_says() -> None:
    pairs = {pair.first.split(", N")[0]: ahead(pair) for pair in _found((10,)).pairs}
    assert pairs == {"probe": "the second", "probe, then lookahead": "the first", "several cuts": "not told apart"}


def test_the_tables_of_a_report_hold_the_numbers_of_the_files(
    simulated: Any, runs_copy: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(build, "FAMILIES", (tradeoff.section,))
    found = _found()
    found.save(runs_copy)
    page = build_report(runs=runs_copy, cache=None, out=tmp_path / "r", title="t", evaluators=("shapes_reward",))
    text = page.read_text()
    assert 'id="tradeoff"' in text
    assert "2:6, 5:4, 8:3, 10:2, 12:1" in text
    assert (page.parent / "figures" / "tradeoff.pdf").stat().st_size > 5_000
    rows = _table(page.parent / "tables" / "tradeoff.csv")
    assert len(rows) == len(found.rows)
    for row in found.rows:
        (shown,) = (r for r in rows if (r["way"], r["N"]) == (WAYS[row.way].label, str(row.candidates)))
        numbers = [shown[name] for name in ("calls", "score", "score lower", "score upper")]
        assert [float(number) for number in numbers] == [row.calls, row.score, row.lower, row.upper]
        times = [shown[name] for name in ("seconds", "seconds lower", "seconds upper")]
        measured = [row.seconds, row.seconds_low, row.seconds_high]
        assert times == ["" if np.isnan(second) else str(second) for second in measured]
    pairs = _table(page.parent / "tables" / "tradeoff_pairs.csv")
    assert len(pairs) == len(found.pairs)
    for pair in found.pairs:
        (shown,) = (p for p in pairs if (p["first"], p["second"]) == (pair.first, pair.second))
        names = ("difference", "difference lower", "difference upper", "calls first", "seconds second")
        measured = [pair.difference, pair.lower, pair.upper, pair.calls_first, pair.seconds_second]
        assert [float(shown[name]) for name in names] == measured
        assert shown["ahead"] == ahead(pair)


def _table(path: Path) -> list[dict[str, str]]:
    with path.open() as file:
        return list(csv.DictReader(file))


def test_a_label_without_room_is_left_out() -> None:
    figure = Figure(figsize=(2, 2))
    ax = figure.subplots()
    ax.plot([0, 1], [0, 1])
    same = [Label(text, 0.5, 0.5, "black") for text in "abcdefghij"]
    written = place_labels(figure, ax, same)
    assert written
    assert written == [label.text for label in same][: len(written)]
    assert len(written) < len(same)
