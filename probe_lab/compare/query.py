"""What a comparison is asked for."""

from __future__ import annotations

from collections.abc import Collection, Iterable
from dataclasses import dataclass

from probe_lab.sweep.tap_patterns import TapNames

DEFAULT_METRIC = "srcc_within"


@dataclass(frozen=True)
class Query:
    """Which cells, which numbers, and how they are put together.

    - ``metrics``: in this order; empty is within-prompt SRCC, and for a difference all metrics.
    - ``evaluators``: in this order; empty is all. ``splits``: ``test``, ``val`` or both.
    - ``where``: an expression such as ``step in [5, 10] and loss != "mse"``; ``sets`` knows the sets of taps that it
      may name. ``cells``: only these names.
    - ``seeds``: cells that differ only in their training seed become one row, their mean.
    - ``group``: one row per value of these keys, the mean over its settings (seeds are averaged first).
    - ``best``: per value of these keys, the row that is best on the validation split.
    - ``sort``: a column, key, metric or evaluator; empty is the first number, or the keys of ``best``.
    """

    metrics: tuple[str, ...] = ()
    evaluators: tuple[str, ...] = ()
    splits: tuple[str, ...] = ("test",)
    where: str = ""
    sets: TapNames | None = None
    cells: Collection[str] | None = None
    seeds: bool = False
    group: tuple[str, ...] = ()
    best: tuple[str, ...] = ()
    sort: str = ""
    limit: int | None = None


def words(values: Iterable[str] | None) -> tuple[str, ...]:
    """Options that may be given several times, or once with commas: ``["a,b", "c"]`` is a, b and c."""
    return tuple(dict.fromkeys(word.strip() for value in values or () for word in value.split(",") if word.strip()))
