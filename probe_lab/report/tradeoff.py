"""Quality over compute: what each way of selecting one image of N reaches, over denoiser calls and over seconds."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import FuncFormatter, LogLocator, NullFormatter

from probe_lab.report.labels import Label, place_labels
from probe_lab.report.material import Drawing, Material, Section
from probe_lab.report.style import GREY, OKABE_ITO, PAGE, evaluator_label
from probe_lab.report.tradeoff_tables import lead, pairs_table, rows_table, ways_table
from probe_lab.select.tradeoff import WAYS, Tradeoff, TradeoffRow, Way

TITLE = "Quality over compute"
MOST_MARKS = 8
"""Points of one line that have a marker and bars."""

_EXPLANATION = """Mean true score of the kept image over what it costs per prompt, on a logarithmic scale: {costs}. A
line joins one way of selecting at growing N, the numbers are N; upright bars are 95 % intervals over test prompts.
Higher is better and further left is cheaper: go up from a cost to see which way makes most of it. Black and grey are
what to measure the colours against. All ways saw the same {prompts} prompts, so bars that overlap do not mean that
two ways are alike: the table of paired differences decides. Suspicious would be a way above best of N or the oracle
at the same N, since they have the best that there is (fewer steps apart, whose images are others); a score that falls
with N by more than its bars; or a random seed that is level with the rest, for then there is nothing to choose."""
_CALLS = "calls of the denoiser, counted for each image"
_CALLS_AND_SECONDS = f"""on the left {_CALLS}; on the right seconds of the wall clock, decoding and scoring included,
with flat bars from the lowest to the highest of the timed rounds, and without what was not timed"""


@dataclass(frozen=True)
class Look:
    """How a way is drawn."""

    color: str
    marker: str
    line: str = "-"
    size: float = 4.0


_LOOKS: dict[Way, Look] = {
    "oracle": Look("#999999", "*", "--", 5.5),
    "best_of_n": Look("#333333", "X", "--", 5.0),
    "random": Look(GREY, "P", "", 5.5),
    "fewer_steps": Look(OKABE_ITO[5], "v"),
    "preview": Look(OKABE_ITO[3], "D"),
    "probe": Look(OKABE_ITO[0], "o"),
    "progressive": Look(OKABE_ITO[1], "s"),
    "cascade": Look(OKABE_ITO[2], "^"),
}
"""From the back to the front."""
_NUMBERED: tuple[Way, ...] = ("best_of_n", "cascade", "progressive", "probe", "preview", "fewer_steps")
"""Whose N are written, where there is room: the first ones first."""


def section(material: Material) -> Section:
    """One figure with a panel for calls and one for seconds, and three tables; or how to measure it.

    Raises ReportError when the files are damaged or of another version.
    """
    folder = material.results.folder
    found = Tradeoff.load(folder)
    if found is None or not found.rows:
        text = f"Ways of selecting were not measured: run `probe-lab tradeoff {folder.name}`, then the report again."
        return Section("tradeoff", TITLE, "", skipped=(text,))
    timed = [row for row in found.rows if row.timed]
    skipped = () if timed else ("Score over seconds: nothing was timed.",)
    ways = [way for way in WAYS if any(row.way == way for row in found.rows)]
    text = _EXPLANATION.format(costs=_CALLS_AND_SECONDS if timed else _CALLS, prompts=found.about.prompts)
    drawing = Drawing("tradeoff", _alt(found, ways, bool(timed)), _draw(found, timed))
    tables = (ways_table(ways), rows_table(found), *((pairs_table(found),) if found.pairs else ()))
    return Section("tradeoff", TITLE, text, (drawing,), skipped, tables, lead(found))


def _draw(found: Tradeoff, timed: Sequence[TradeoffRow]) -> Figure:
    figure = Figure(figsize=(PAGE, 3.3))
    panels = figure.subplots(1, 2 if timed else 1, sharey=True, squeeze=False)[0]
    for ax, rows in zip(panels, (found.rows, timed), strict=False):
        for way in _LOOKS:
            _line(ax, way, rows, over_seconds=rows is timed)
        _logarithmic(ax)
    panels[0].set_xlabel("denoiser calls per prompt")
    panels[0].set_ylabel(f"mean {evaluator_label(found.about.evaluator)} of the kept image")
    panels[0].set_title("score over calls")
    if timed:
        panels[1].set_title("score over seconds")
        panels[1].set_xlabel("wall-clock seconds per prompt")
    handles, names = panels[0].get_legend_handles_labels()
    order = [names.index(WAYS[way].label) for way in WAYS if WAYS[way].label in names]
    figure.legend([handles[i] for i in order], [names[i] for i in order], loc="outside lower center", ncols=4)
    for ax, rows in zip(panels, (found.rows, timed), strict=False):
        place_labels(figure, ax, _labels(rows, over_seconds=rows is timed))
    return figure


def _line(ax: Axes, way: Way, rows: Sequence[TradeoffRow], *, over_seconds: bool) -> None:
    """One way through its N, with bars for the score's interval and, over seconds, for the range of rounds."""
    line = _in_order(rows, way, over_seconds)
    if not line:
        return
    look, marked = _LOOKS[way], _marked(line)
    ends = [line[i] for i in marked]
    x, y = [_cost(row, over_seconds) for row in ends], [row.score for row in ends]
    if way != "oracle":  # its interval is that of best of N, elsewhere
        ax.vlines(x, [row.lower for row in ends], [row.upper for row in ends], color=look.color, lw=0.7, alpha=0.45)
    if over_seconds:
        ax.hlines(y, [row.seconds_low for row in ends], [row.seconds_high for row in ends], color=look.color, lw=0.7)
    ax.plot(
        [_cost(row, over_seconds) for row in line],
        [row.score for row in line],
        color=look.color,
        marker=look.marker,
        markevery=marked,
        ms=look.size,
        mec="white",
        mew=0.4,
        ls=look.line,
        lw=1.2,
        label=WAYS[way].label,
        zorder=3,
    )


def _in_order(rows: Sequence[TradeoffRow], way: Way, over_seconds: bool) -> list[TradeoffRow]:
    """The rows of one way, the cheapest first."""
    return sorted((row for row in rows if row.way == way), key=lambda row: _cost(row, over_seconds))


def _marked(line: Sequence[TradeoffRow]) -> list[int]:
    """The numbers of those rows that get a marker and bars: both ends, and between them evenly over the logarithm of
    N."""
    if len(line) <= MOST_MARKS:
        return list(range(len(line)))
    counts = np.log([row.candidates for row in line])
    wanted = np.linspace(counts[0], counts[-1], MOST_MARKS)
    return sorted({int(np.abs(counts - count).argmin()) for count in wanted})


def _cost(row: TradeoffRow, over_seconds: bool) -> float:
    return row.seconds if over_seconds else row.calls


def _logarithmic(ax: Axes) -> None:
    """A scale with plain numbers; a single cost gets room on both sides."""
    ax.set_xscale("log")
    low, high = ax.get_xlim()
    if high / low < 4:
        middle = math.sqrt(low * high)
        ax.set_xlim(middle / 2, middle * 2)
    ax.xaxis.set_major_locator(LogLocator(subs=(1, 2, 5)))
    ax.xaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))
    ax.xaxis.set_minor_formatter(NullFormatter())


def _labels(rows: Sequence[TradeoffRow], *, over_seconds: bool) -> list[Label]:
    """N along best of N, the largest first, then at the ends of the other lines."""
    found = []
    for way in _NUMBERED:
        line = _in_order(rows, way, over_seconds)
        marked = _marked(line)
        for i in marked[::-1] if way == "best_of_n" else dict.fromkeys([*marked[-1:], *marked[:1]]):
            found.append(Label(str(line[i].candidates), _cost(line[i], over_seconds), line[i].score, "#333333"))
    return found


def _alt(found: Tradeoff, ways: Sequence[Way], timed: bool) -> str:
    over = "denoiser calls and over seconds" if timed else "denoiser calls"
    counts = sorted({row.candidates for row in found.rows})
    names = "; ".join(WAYS[way].label for way in ways)
    return (
        f"Line charts of the mean true {evaluator_label(found.about.evaluator)} of the kept image over {over} per "
        f"prompt, for {counts[0]} to {counts[-1]} candidates and the ways: {names}."
    )
