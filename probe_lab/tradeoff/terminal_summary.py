"""What a measured trade-off says in a terminal."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path

from rich.table import Table

from probe_lab.console import literal
from probe_lab.runs.table import RESULTS
from probe_lab.terminal_tables import FittingTable, natural_width
from probe_lab.tradeoff.records import Pair, Tradeoff, TradeoffRow, way_name
from probe_lab.tradeoff.way_names import BASES, IN_ANY_STEPS, QUESTIONS, WAYS, Basis, Question

AHEAD, BEHIND, APART = "ahead", "behind", "not told apart"


def rows_table(made: Tradeoff) -> FittingTable:
    """A line per way and number of candidates; in narrow terminals, ranges and intervals stand below their numbers."""
    wide = _table(made, narrow=False)
    return FittingTable(((natural_width(wide), wide),), _table(made, narrow=True))


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
        planned = f" for {row.budget}" if row.budget else ""
        sampled = f", {row.steps}" if row.way in IN_ANY_STEPS else ""
        table.add_row(
            WAYS[row.way].label + planned + sampled,
            str(row.candidates),
            row.schedule.replace(",", ",\n" if narrow else ","),
            f"{row.calls:g}",
            _seconds(row, between),
            f"{row.score:.4f}{between}[{row.lower:.4f}, {row.upper:.4f}]",
        )
    return table


def lines_of(made: Tradeoff) -> list[str]:
    """How the cascade's share was chosen, and a sentence per question, basis and two ways: at which N the first is
    ahead, and at which it is behind; of plans, for how many calls."""
    lines = [] if made.about.thinning is None else [_chosen(made)]
    alike: dict[tuple[Question, Basis, str, str], list[Pair]] = {}
    for pair in made.pairs:
        alike.setdefault((pair.question, pair.basis, way_name(pair.first), way_name(pair.second)), []).append(pair)
    for (question, basis, first, second), pairs in alike.items():
        text = f"{QUESTIONS[question]} {first} minus {second}, with {BASES[basis]}"
        lines.append(f"{text}: {'; '.join(_verdicts(pairs))}.")
    return lines


def verdict(pair: Pair) -> str:
    """ "ahead" or "behind", of the first of the two, where Holm's p is below 0.05."""
    if not pair.p < 0.05:
        return APART
    return AHEAD if pair.difference > 0 else BEHIND


def _chosen(made: Tradeoff) -> str:
    thinning = made.about.thinning
    assert thinning is not None
    if not thinning.tried:
        return f"The probe leaves {thinning.share:.0%} of the candidates to the lookahead, as tradeoff.thin says."
    return (
        f"The probe leaves {thinning.share:.0%} of the candidates to the lookahead: the smallest share that "
        f"{thinning.prompts} validation prompts do not tell apart from the best."
    )


def _verdicts(pairs: Sequence[Pair]) -> Iterator[str]:
    for word in (AHEAD, BEHIND, APART):
        of_word = [pair for pair in pairs if verdict(pair) == word]
        if of_word:
            lowest, highest = (choose(pair.difference for pair in of_word) for choose in (min, max))
            planned = any(pair.budget for pair in of_word)
            numbers = ", ".join(str(pair.budget if planned else pair.candidates) for pair in of_word)
            where = f"{numbers} calls" if planned else f"N = {numbers}"
            between = f"{lowest:+.4f}" if lowest == highest else f"{lowest:+.4f} to {highest:+.4f}"
            yield f"{word} at {where} ({between})"


def _seconds(row: TradeoffRow, between: str) -> str:
    return f"{row.seconds:.3f}{between}({row.seconds_low:.3f} to {row.seconds_high:.3f})" if row.timed else ""


def where_it_is(experiment: str, runs: Path) -> str:
    """The files of a measured trade-off, and the command that draws it, which wants the cells of a sweep beside it."""
    first = "" if (runs / RESULTS).exists() else f"after `probe-lab sweep {experiment}`, "
    return f"{first}`probe-lab report {experiment}` draws it; files: {runs}/tradeoff*.parquet"
