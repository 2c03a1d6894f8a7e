"""Quality over compute: what each way of selecting one image of N reaches, over denoiser calls, seconds and FLOPs."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import FuncFormatter, LogLocator, NullFormatter

from probe_lab.report.layout.labels import Label, place_labels
from probe_lab.report.layout.material import Drawing, Material, Section
from probe_lab.report.layout.style import GREY, OKABE_ITO, PAGE, evaluator_label
from probe_lab.report.sections.tradeoff_tables import lead, pairs_table, rows_table, thinning_table, ways_table
from probe_lab.tradeoff import PLANS, WAYS, Tradeoff, TradeoffRow, Way

TITLE = "Quality over compute"
MOST_MARKS = 8
"""Points of one line that have a marker and bars."""

_EXPLANATION = """Mean true score of the kept image over what it costs per prompt, on a logarithmic scale: {costs}. A
line joins one way of selecting at growing N, or plans for growing numbers of calls; the numbers are N; upright bars are
95 % intervals over test prompts. Higher is better and further left is cheaper: go up from a cost to see which way makes
most of it. Black and grey are what to measure the colours against. All ways saw the same {prompts} prompts, so bars
that overlap do not mean that two ways are alike: the table of paired differences decides, also at the same cost.
Suspicious would be a way above best of N or the oracle at the same N, since they have the best that there is (fewer
steps and plans apart, whose images are others); a score that falls with N by more than its bars; or a random seed that
is level with the rest, for then there is nothing to choose."""

Resource = Literal["calls", "seconds", "flops"]


@dataclass(frozen=True)
class Panel:
    """What one panel has on its axis: its title, the axis' label, and words for the explanation."""

    title: str
    label: str
    words: str


_PANELS: Mapping[Resource, Panel] = {
    "calls": Panel("score over calls", "denoiser calls per prompt", "calls of the denoiser, counted for each image"),
    "seconds": Panel(
        "score over seconds",
        "wall-clock seconds per prompt",
        "seconds of the wall clock, decoding and scoring included, with flat bars from the lowest to the highest of "
        "the timed rounds",
    ),
    "flops": Panel(
        "score over arithmetic",
        "GFLOPs per prompt",
        "floating-point operations of all networks, in billions",
    ),
}
"""From left to right; seconds and operations without what was not measured."""


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
    "lookahead": Look(OKABE_ITO[4], "p"),
    "thinned": Look("#8c6d1f", "h", ":"),
    "probe": Look(OKABE_ITO[0], "o"),
    "progressive": Look(OKABE_ITO[1], "s"),
    "cascade": Look(OKABE_ITO[2], "^"),
    "preview_plan": Look("#7b3294", "d", "-."),
    "lookahead_plan": Look("#b2182b", "<", "-."),
    "probe_plan": Look("#01665e", ">", "-."),
}
"""From the back to the front."""
_NUMBERED: tuple[Way, ...] = ("best_of_n", "fewer_steps", "cascade", "progressive", "probe", "preview", "lookahead")
"""Whose N are written, where there is room: the first ones first."""


def section(material: Material) -> Section:
    """One figure with a panel for each measured cost, and tables; or how to measure it.

    Raises ReportError when the files are damaged or of another version.
    """
    folder = material.results.folder
    found = Tradeoff.load(folder)
    if found is None or not found.rows:
        text = f"Ways of selecting were not measured: run `probe-lab tradeoff {folder.name}`, then the report again."
        return Section("tradeoff", TITLE, "", skipped=(text,))
    panels = [resource for resource in _PANELS if _measured(found.rows, resource)]
    skipped = () if "seconds" in panels else ("Score over seconds: nothing was timed.",)
    ways = [way for way in WAYS if any(row.way == way for row in found.rows)]
    costs = "; ".join(_PANELS[resource].words for resource in panels)
    text = _EXPLANATION.format(costs=costs, prompts=found.about.prompts)
    drawing = Drawing("tradeoff", _alt(found, ways, panels), _draw(found, panels))
    tables = [ways_table(ways), rows_table(found)]
    tables += [pairs_table(found)] if found.pairs else []
    thinning = thinning_table(found)
    tables += [thinning] if thinning else []
    return Section("tradeoff", TITLE, text, (drawing,), skipped, tuple(tables), lead(found))


def _measured(rows: Sequence[TradeoffRow], resource: Resource) -> list[TradeoffRow]:
    return [row for row in rows if not math.isnan(_cost(row, resource))]


def _draw(found: Tradeoff, resources: Sequence[Resource]) -> Figure:
    figure = Figure(figsize=(PAGE, 3.4))
    panels = figure.subplots(1, len(resources), sharey=True, squeeze=False)[0]
    for ax, resource in zip(panels, resources, strict=True):
        for way in _LOOKS:
            _lines(ax, way, _measured(found.rows, resource), resource)
        _logarithmic(ax)
        ax.set_title(_PANELS[resource].title)
        ax.set_xlabel(_PANELS[resource].label)
    panels[0].set_ylabel(f"mean {evaluator_label(found.about.evaluator)} of the kept image")
    handles, names = panels[0].get_legend_handles_labels()
    order = [names.index(WAYS[way].label) for way in WAYS if WAYS[way].label in names]
    figure.legend([handles[i] for i in order], [names[i] for i in order], loc="outside lower center", ncols=4)
    for ax, resource in zip(panels, resources, strict=True):
        place_labels(figure, ax, _labels(_measured(found.rows, resource), resource))
    return figure


def _lines(ax: Axes, way: Way, rows: Sequence[TradeoffRow], resource: Resource) -> None:
    """One way through its N, a line for each number of steps, with bars for the score's interval and, over seconds, for
    the range of rounds."""
    look = _LOOKS[way]
    for number, line in enumerate(_in_order(rows, way, resource)):
        marked = _marked(line)
        ends = [line[i] for i in marked]
        x, y = [_cost(row, resource) for row in ends], [row.score for row in ends]
        if way != "oracle":  # its interval is that of best of N, elsewhere
            ax.vlines(x, [row.lower for row in ends], [row.upper for row in ends], color=look.color, lw=0.7, alpha=0.45)
        if resource == "seconds":
            ax.hlines(
                y, [row.seconds_low for row in ends], [row.seconds_high for row in ends], color=look.color, lw=0.7
            )
        ax.plot(
            [_cost(row, resource) for row in line],
            [row.score for row in line],
            color=look.color,
            marker=look.marker,
            markevery=marked,
            ms=look.size,
            mec="white",
            mew=0.4,
            ls=look.line,
            lw=1.2,
            label=WAYS[way].label if number == 0 else "_",
            zorder=3,
        )


def _in_order(rows: Sequence[TradeoffRow], way: Way, resource: Resource) -> list[list[TradeoffRow]]:
    """The rows of one way, a list for each number of sampling steps, the cheapest first; plans are one list."""
    own = [row for row in rows if row.way == way]
    if way in PLANS:
        return [sorted(own, key=lambda row: _cost(row, resource))] if own else []
    return [
        sorted((row for row in own if row.steps == steps), key=lambda row: _cost(row, resource))
        for steps in sorted({row.steps for row in own})
    ]


def _marked(line: Sequence[TradeoffRow]) -> list[int]:
    """The numbers of those rows that get a marker and bars: both ends, and between them evenly over the logarithm of
    N, of plans over that of their calls."""
    if len(line) <= MOST_MARKS:
        return list(range(len(line)))
    counts = np.log([row.budget or row.candidates for row in line])
    wanted = np.linspace(counts[0], counts[-1], MOST_MARKS)
    return sorted({int(np.abs(counts - count).argmin()) for count in wanted})


def _cost(row: TradeoffRow, resource: Resource) -> float:
    return {"calls": row.calls, "seconds": row.seconds, "flops": row.flops / 1e9}[resource]


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


def _labels(rows: Sequence[TradeoffRow], resource: Resource) -> list[Label]:
    """N along best of N, the largest first, then at the ends of the other lines; of several lines of fewer steps, their
    steps."""
    labels = []
    for way in _NUMBERED:
        lines = _in_order(rows, way, resource)
        for line in lines:
            marked = _marked(line)
            if len(lines) > 1:
                end = line[-1]
                labels.append(Label(f"{end.steps} steps", _cost(end, resource), end.score, "#333333"))
                continue
            for i in marked[::-1] if way == "best_of_n" else dict.fromkeys([*marked[-1:], *marked[:1]]):
                labels.append(Label(str(line[i].candidates), _cost(line[i], resource), line[i].score, "#333333"))
    return labels


def _alt(found: Tradeoff, ways: Sequence[Way], panels: Sequence[Resource]) -> str:
    over = " and over ".join(_PANELS[resource].label.removesuffix(" per prompt") for resource in panels)
    counts = sorted({row.candidates for row in found.rows})
    names = "; ".join(WAYS[way].label for way in ways)
    return (
        f"Line charts of the mean true {evaluator_label(found.about.evaluator)} of the kept image over {over} per "
        f"prompt, for {counts[0]} to {counts[-1]} candidates and the ways: {names}."
    )
