"""What a measured trade-off says in a terminal."""

from __future__ import annotations

from rich.table import Table

from probe_lab.select.tradeoff.records import Pair, Tradeoff, TradeoffRow
from probe_lab.select.tradeoff.ways import QUESTIONS, WAYS


def rows_table(made: Tradeoff) -> Table:
    """A line per way and number of candidates."""
    about = made.about
    title = f"{about.evaluator} of what is kept, {about.prompts} test prompts, {about.backbone}, {about.sampling}"
    table = Table(title=title, title_justify="left", box=None, pad_edge=False)
    table.add_column("way", no_wrap=True)
    for heading in ("N", "cuts", "calls", "s per prompt", "score"):
        table.add_column(heading, justify="right", no_wrap=True)
    for row in made.rows:
        table.add_row(
            WAYS[row.way].label,
            str(row.candidates),
            row.schedule,
            f"{row.calls:g}",
            _seconds(row),
            f"{row.score:.4f} [{row.lower:.4f}, {row.upper:.4f}]",
        )
    return table


def lines_of(made: Tradeoff) -> list[str]:
    """A sentence per question and number of candidates."""
    return [f"{QUESTIONS[pair.question]} {pair.first} minus {pair.second}: {_difference(pair)}" for pair in made.pairs]


def _seconds(row: TradeoffRow) -> str:
    return f"{row.seconds:.3f} ({row.seconds_low:.3f} to {row.seconds_high:.3f})" if row.timed else ""


def _difference(pair: Pair) -> str:
    text = f"{pair.difference:+.4f} [{pair.lower:+.4f}, {pair.upper:+.4f}], {pair.calls_first:g} and "
    text += f"{pair.calls_second:g} calls"
    if pair.seconds_first > 0 and pair.seconds_second > 0:  # not NaN
        text += f", {pair.seconds_first / pair.seconds_second:.2f} of its seconds"
    return text
