"""What a measured trade-off says in a terminal."""

from __future__ import annotations

from rich.table import Table

from probe_lab.console import literal
from probe_lab.fitting import Fitting, natural_width
from probe_lab.select.tradeoff.records import Pair, Tradeoff, TradeoffRow
from probe_lab.select.tradeoff.ways import QUESTIONS, WAYS


def rows_table(made: Tradeoff) -> Fitting:
    """A line per way and number of candidates; in narrow terminals, ranges and intervals stand below their numbers."""
    wide = _table(made, narrow=False)
    return Fitting(((natural_width(wide), wide),), _table(made, narrow=True))


def _table(made: Tradeoff, *, narrow: bool) -> Table:
    about, between = made.about, "\n" if narrow else " "
    title = f"{about.evaluator} of what is kept, {about.prompts} test prompts, {about.backbone}, {about.sampling}"
    table = Table(title=literal(title), title_justify="left", box=None, pad_edge=False)
    table.add_column("way")
    table.add_column("N", justify="right", no_wrap=True)
    table.add_column("cuts", justify="right", overflow="fold")
    for heading in ("calls", "s per prompt", "score"):
        table.add_column(heading, justify="right", no_wrap=True)
    for row in made.rows:
        table.add_row(
            WAYS[row.way].label,
            str(row.candidates),
            row.schedule.replace(",", ",\n" if narrow else ","),
            f"{row.calls:g}",
            _seconds(row, between),
            f"{row.score:.4f}{between}[{row.lower:.4f}, {row.upper:.4f}]",
        )
    return table


def lines_of(made: Tradeoff) -> list[str]:
    """A sentence per question and number of candidates."""
    return [f"{QUESTIONS[pair.question]} {pair.first} minus {pair.second}: {_difference(pair)}" for pair in made.pairs]


def _seconds(row: TradeoffRow, between: str) -> str:
    return f"{row.seconds:.3f}{between}({row.seconds_low:.3f} to {row.seconds_high:.3f})" if row.timed else ""


def _difference(pair: Pair) -> str:
    text = f"{pair.difference:+.4f} [{pair.lower:+.4f}, {pair.upper:+.4f}], {pair.calls_first:g} and "
    text += f"{pair.calls_second:g} calls"
    if pair.seconds_first > 0 and pair.seconds_second > 0:  # not NaN
        text += f", {pair.seconds_first / pair.seconds_second:.2f} of its seconds"
    return text
