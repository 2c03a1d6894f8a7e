"""The plan of a sweep as a table: a line per set of taps and what is trained on it, over all its steps."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Hashable, Iterable, Sequence
from typing import Any

from rich.console import Group as Lines
from rich.table import Table

from probe_lab.console import literal
from probe_lab.probes.kinds import kind_of
from probe_lab.sweep.grid import Cell
from probe_lab.sweep.plan import Group, State, SweepPlan
from probe_lab.terminal_tables import TapLines

_WORDS: dict[State, str] = {
    "pending": "to train",
    "finished": "finished",
    "stopped": "stopped",
    "elsewhere": "elsewhere",
}
_OWN_PLACE = ("probe.step", "probe.taps", "probe.model", "probe.loss", "trainer.seed")
"""Swept keys that have a place of their own in a line."""
_TAPS = 4
_VALUES = 6


def plan_listing(plan: SweepPlan) -> Lines:
    """The plan for a terminal of 80 columns: a line per set of taps and what is trained on it, then the totals."""
    table = Table(title=f"{len(plan.cells)} cells", title_justify="left", show_lines=True)
    table.add_column("what is read, and trained on it", overflow="fold")
    for column in ("state", "MB", "time"):
        table.add_column(column, justify="right", no_wrap=True)
    many = {str(group.cache) for group in plan.groups}
    seeds = len({cell.experiment.trainer.seed for cell in plan.cells}) > 1
    for rows in _lines(plan.groups):
        cells = [cell for group in rows for cell in group.cells]
        states = Counter(plan.states[cell.name] for cell in cells)
        told = [*_reads(cells[0]), *([f"  of {rows[0].cache}"] if len(many) > 1 else [])]
        if rows[0].arrays:
            told.append(f"  {_numbered('step', [cell.experiment.probe.step for cell in cells])}")
        told += [f"  {line}" for line in _varies(cells, seeds=seeds)]
        sizes = [group.bytes for group in rows]
        table.add_row(
            TapLines("\n".join(told)),
            "\n".join(f"{states[state]} {word}" for state, word in _WORDS.items() if states[state]),
            "?" if None in sizes else f"{sum(size or 0 for size in sizes) / 1e6:,.1f}" if rows[0].arrays else "",
            _clock(sum(group.seconds for group in rows) / plan.workers) if states["pending"] else "",
        )
    return Lines(table, *map(literal, _totals(plan)))


def _lines(groups: Iterable[Group]) -> list[list[Group]]:
    """Groups that differ only in their step."""
    found: dict[Hashable, list[Group]] = {}
    for group in groups:
        variants = frozenset(_variant(cell) for cell in group.cells)
        place = (group.cache, tuple(group.cells[0].experiment.probe.taps), variants)
        found.setdefault(place, []).append(group)
    return list(found.values())


def _variant(cell: Cell) -> str:
    """What a cell is beside its step and taps."""
    further = {key: value for key, value in cell.axes.items() if key not in ("probe.step", "probe.taps")}
    probe = cell.experiment.probe
    return repr((probe.model, probe.loss, cell.experiment.trainer.seed, further))


def _reads(cell: Cell) -> list[str]:
    taps, label = cell.experiment.probe.taps, cell.axes.get("probe.taps")
    if not taps:
        return ["the prompts alone"]
    shown = taps if len(taps) <= _TAPS else [*taps[: _TAPS - 1], f"and {len(taps) - _TAPS + 1} more"]
    return [f"{label}:", *shown] if isinstance(label, str) else list(shown)


def _varies(cells: Sequence[Cell], *, seeds: bool) -> list[str]:
    """Models with losses, seeds and further axes of some cells, a line each; models of the same losses share one."""
    losses: dict[str, dict[str, None]] = {}
    for probe in (cell.experiment.probe for cell in cells):
        losses.setdefault(probe.model, {}).update({probe.loss: None} if kind_of(probe.model).chooses_loss else {})
    sharing: dict[tuple[str, ...], list[str]] = {}
    for model, its in losses.items():
        sharing.setdefault(tuple(its), []).append(model)
    told = [", ".join(models) + (f": {', '.join(its)}" if its else "") for its, models in sharing.items()]
    if seeds:
        told.append(_numbered("seed", [cell.experiment.trainer.seed for cell in cells]))
    for key in dict.fromkeys(key for cell in cells for key in cell.axes if key not in _OWN_PLACE):
        values = _short(cell.axes[key] for cell in cells)
        told.append(f"{key.rpartition('.')[2]} {values}")
    return told


def _numbered(name: str, values: Sequence[int]) -> str:
    return f"{name}{'s' if len(set(values)) > 1 else ''} {_short(values)}"


def _short(values: Iterable[Any]) -> str:
    """Distinct values in order; of many numbers the first and last."""
    found = list(dict.fromkeys("+".join(map(str, v)) if isinstance(v, list) else v for v in map(_plain, values)))
    if all(isinstance(value, int | float) for value in found):
        found.sort()
        if len(found) > 2 and found == list(range(int(found[0]), int(found[0]) + len(found))):
            return f"{found[0]}–{found[-1]}"
        if len(found) > _VALUES:
            return f"{found[0]} … {found[-1]} ({len(found)} values)"
    return ", ".join(map(str, found))


def _plain(value: Any) -> Any:
    return str(value) if isinstance(value, dict) else value


def _totals(plan: SweepPlan) -> list[str]:
    counts = [f"{plan.count(state)} {word}" for state, word in _WORDS.items() if plan.count(state)]
    lines = [f"{len(plan.cells)} cells: {', '.join(counts)}."]
    if plan.count("elsewhere"):
        lines.append("Those elsewhere are copied from another experiment that has trained them.")
    if plan.again:
        lines.append(f"{plan.again}.")
    if plan.left_out:
        lines.append(f"sweep.select leaves out {plan.left_out} more.")
    arrays = len({(str(group.cache), key) for group in plan.groups for key in group.arrays})
    caches = ", ".join(dict.fromkeys(str(group.cache) for group in plan.groups))
    size = f", {plan.bytes / 1e6:,.0f} MB," if plan.bytes else ""
    lines.append(f"They read {arrays} arrays{size} of {caches}, in {len(plan.groups)} groups that load theirs once.")
    if any(group.bytes is None for group in plan.groups):
        lines.append("There is no such cache yet: run `probe-lab generate` and `probe-lab score` first.")
    if plan.missing:
        lines.append(f"As it is, the sweep would refuse to start: {plan.missing}.")
    if plan.count("pending"):
        atmost = "At most" if any(cell.experiment.halving.first for cell in plan.cells) else "About"
        workers = f"{plan.workers} workers" if plan.workers > 1 else "one worker"
        lines.append(f"{atmost} {_clock(plan.seconds)} with {workers}, by {plan.basis}.")
    return lines


def _clock(seconds: float) -> str:
    if seconds < 90:
        return f"{math.ceil(seconds)} s"
    return f"{seconds / 60:.0f} min" if seconds < 5400 else f"{seconds / 3600:.1f} h"
