"""Small words beside the points of a chart, only where they cover nothing."""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
from matplotlib.axes import Axes
from matplotlib.collections import LineCollection
from matplotlib.figure import Figure

_SIZE = 6.0
_GAP = 4.5
_CLEAR = 2.0
_STRIDE = 2.0
"""Points (1/72 inch): size of a word; from a point to its word; from a word to what it must not cover; from one sample
of a line to the next."""
_PLACES = ((1, 0), (-1, 0), (0, 1), (0, -1), (0.8, 0.8), (-0.8, 0.8), (0.8, -0.8), (-0.8, -0.8))
"""Where a word may stand, seen from its point: the first that is free is taken."""

Points = npt.NDArray[np.float64]


@dataclass(frozen=True)
class Label:
    """A word for the point (x, y) of a chart."""

    text: str
    x: float
    y: float
    color: str


@dataclass(frozen=True)
class _Box:
    """Lower left and upper right corner, [2] each, in points from the corner of the figure."""

    low: Points
    high: Points

    def within(self, other: _Box) -> bool:
        return bool((self.low >= other.low).all() and (self.high <= other.high).all())

    def meets(self, other: _Box) -> bool:
        """Whether they overlap, or are closer than they should be."""
        return bool((self.low < other.high + _CLEAR).all() and (self.high > other.low - _CLEAR).all())

    def holds(self, points: Points) -> bool:
        """Whether one of ``points`` [n, 2] lies in it, or closer than it should."""
        return bool(((points > self.low - _CLEAR) & (points < self.high + _CLEAR)).all(axis=1).any())


def place_labels(figure: Figure, ax: Axes, labels: Sequence[Label]) -> list[str]:
    """Write those of ``labels`` for which there is room, the first ones first; returns their texts.

    None covers a line, a bar, a marker or another word. Call it when all else is drawn: it lays the figure out, and the
    limits of ``ax`` stay as they are then.
    """
    figure.draw_without_rendering()
    ax.autoscale(False)
    drawn, frame = _drawn(ax), _frame(ax)
    taken: list[_Box] = []
    written = []
    for label in labels:
        point = _on_paper(ax, np.array([[label.x, label.y]]))[0]
        for place in _PLACES:
            box = _box(point, label.text, place)
            if box.within(frame) and not box.holds(drawn) and not any(box.meets(other) for other in taken):
                taken.append(box)
                _write(ax, label, place)
                written.append(label.text)
                break
    return written


def _write(ax: Axes, label: Label, place: tuple[float, float]) -> None:
    right, up = (float(part) for part in _offset(label.text, place))
    note = ax.annotate(
        label.text,
        (label.x, label.y),
        (right, up),
        textcoords="offset points",
        ha="center",
        va="center_baseline",
        fontsize=_SIZE,
        color=label.color,
        zorder=6,
    )
    note.set_in_layout(False)


def _on_paper(ax: Axes, data: Points) -> Points:
    """[n, 2] in the units of the axes -> in points from the corner of the figure."""
    to_points = ax.transData - ax.figure.dpi_scale_trans
    return 72 * np.asarray(to_points.transform(data), np.float64)


def _frame(ax: Axes) -> _Box:
    low, high = _on_paper(ax, np.array([*zip(ax.get_xlim(), ax.get_ylim(), strict=True)]))
    return _Box(low, high)


def _drawn(ax: Axes) -> Points:
    """[n, 2] points along all lines and bars of a chart."""
    paths = [np.asarray(line.get_xydata(), np.float64) for line in ax.lines]
    for bars in ax.collections:
        if isinstance(bars, LineCollection):
            paths += [np.asarray(segment, np.float64) for segment in bars.get_segments()]
    return np.concatenate([np.empty((0, 2)), *(_sampled(_on_paper(ax, path)) for path in paths)])


def _sampled(corners: Points) -> Points:
    """[n, 2] corners of a line -> points along it."""
    parts = [corners]
    for start, end in itertools.pairwise(corners):
        count = int(np.hypot(*(end - start)) / _STRIDE) + 2
        parts.append(start + (end - start) * np.linspace(0, 1, count)[:, None])
    return np.concatenate(parts)


def _half(text: str) -> Points:
    """Half the width and height of a word; digits of the font are 0.64 of its size wide."""
    return np.array([0.32 * _SIZE * len(text), 0.4 * _SIZE])


def _offset(text: str, place: tuple[float, float]) -> Points:
    return np.array(place) * (_half(text) + _GAP)


def _box(point: Points, text: str, place: tuple[float, float]) -> _Box:
    center, half = point + _offset(text, place), _half(text)
    return _Box(center - half, center + half)
