"""The numbers behind "Quality over compute": every way and N, and paired differences with who is ahead."""

from __future__ import annotations

import math
from collections.abc import Sequence

from probe_lab.report.analysis.results import Value
from probe_lab.report.layout.style import DASH, evaluator_label
from probe_lab.report.layout.table_forms import Field, Table
from probe_lab.tradeoff import BASES, PLANS, QUESTIONS, WAYS, Pair, Tradeoff, TradeoffRow, Way
from probe_lab.tradeoff.terminal_summary import AHEAD, APART, BEHIND, verdict

_BOUNDS: tuple[Way, ...] = ("random", "best_of_n", "oracle")


def share(found: Tradeoff, row: TradeoffRow) -> float | None:
    """How far the row's score is on the way from a random seed (0) to the best of the same N (1).

    None where one of the two was not measured, or where they are the same.
    """
    random = next((other.score for other in found.rows if other.way == "random"), None)
    # What the oracle picks is the best of the same N.
    best = next(
        (
            other.score
            for way in ("best_of_n", "oracle")
            for other in found.rows
            if other.way == way and other.candidates == row.candidates
        ),
        None,
    )
    if random is None or best is None or best == random:
        return None
    return (row.score - random) / (best - random)


def lead(found: Tradeoff) -> str:
    """What every way reaches at the largest N that all were measured at, and at which share of the calls of best of
    N; "" where there is no such N."""
    rows = [row for row in found.rows if row.way not in (*_BOUNDS, *PLANS)]
    whole = {row.candidates: row.calls for row in found.rows if row.way == "best_of_n"}
    ways = {_line(row) for row in rows}
    shared = [n for n in whole if n > 1 and {_line(row) for row in rows if row.candidates == n} == ways]
    if not ways or not shared:
        return ""
    count = max(shared)
    parts = []
    for row in sorted((row for row in rows if row.candidates == count), key=lambda row: list(WAYS).index(row.way)):
        reached = share(found, row)
        if reached is not None:
            name = WAYS[row.way].label + (f" ({row.steps})" if row.way == "fewer_steps" else "")
            cost = f"{row.calls / whole[count]:.0%} of the calls"
            parts.append(f"{name} {reached:.0%} for {cost}".replace("-", "−").replace("%", "\u00a0%"))
    if not parts:
        return ""
    return (
        f"Of what there is to gain between a random seed and the best of {count}, which takes "
        f"{whole[count]:g} denoiser calls, is gained by: {'; '.join(parts)}."
    )


def _line(row: TradeoffRow) -> tuple[Way, int]:
    """Rows of one line of the figure: a way, in as many steps."""
    return row.way, row.steps


def thinning_table(found: Tradeoff) -> Table | None:
    """How the share that the cascade's probe leaves was chosen; None where it was given."""
    thinning = found.about.thinning
    if thinning is None or not thinning.tried:
        return None
    chosen = round(thinning.share * thinning.seeds)
    return Table(
        "tradeoff_thinning",
        "How many candidates the probe leaves to the lookahead",
        f"Chosen on {thinning.prompts} validation prompts of {thinning.seeds} seeds: mean true "
        f"{evaluator_label(found.about.evaluator)} of the kept where the probe leaves so many, how far that is below "
        "the best number, and the standard error of this difference over prompts. The smallest number within one "
        "standard error is taken, in proportion for other N.",
        ("left", "score", "below the best", "standard error", "chosen"),
        tuple(
            (left.number, left.score, left.below, left.error, "yes" if left.number == chosen else "")
            for left in thinning.tried
        ),
    )


def ways_table(ways: Sequence[Way]) -> Table:
    """What each of ``ways`` does."""
    rows = tuple((WAYS[way].label, WAYS[way].sentence) for way in ways)
    return Table("tradeoff_ways", "What the ways do", "", ("way", "what it does"), rows)


def rows_table(found: Tradeoff) -> Table:
    """Every way and N, in the order of the ways."""
    about = found.about
    rows = sorted(found.rows, key=lambda row: (list(WAYS).index(row.way), row.candidates, row.calls))
    probes = f" Probes: {', '.join(about.cells)}." if about.cells else ""
    return Table(
        "tradeoff",
        "Ways of selecting",
        f"Mean true {evaluator_label(about.evaluator)} of the kept image over {about.prompts} test prompts of "
        f"{about.seeds} seeds each, with the 95 % interval over prompts; {about.backbone}, "
        f"{about.sampling}. Cuts: step:kept. Calls: of the denoiser per prompt, counted for each image. Seconds: "
        f"wall-clock per prompt, median of the timed rounds with the lowest and highest, on {about.machine}. Share: "
        f"0 = a random seed, 1 = the best of the same N. GFLOPs: billions of floating-point operations per "
        f"prompt.{probes}",
        ("way", "N", "kept", "steps", "cuts", "calls", "seconds", "GFLOPs", "score", "share"),
        tuple(_row(found, row) for row in rows),
        long=True,
    )


def _row(found: Tradeoff, row: TradeoffRow) -> tuple[Field, ...]:
    seconds = Value(row.seconds, row.seconds_low, row.seconds_high)
    score = Value(row.score, row.lower, row.upper)
    cuts = row.schedule.replace(",", ", ") or DASH
    name = WAYS[row.way].label
    costs = _calls(row.calls), seconds, None if math.isnan(row.flops) else row.flops / 1e9
    return name, row.candidates, row.keep, row.steps, cuts, *costs, score, share(found, row)


def pairs_table(found: Tradeoff) -> Table:
    """The paired differences, question by question, with who is ahead."""
    order, bases = list(QUESTIONS), list(BASES)
    pairs = sorted(found.pairs, key=lambda pair: (order.index(pair.question), bases.index(pair.basis), pair.candidates))
    return Table(
        "tradeoff_pairs",
        "Paired differences between ways",
        f"Mean true {evaluator_label(found.about.evaluator)} of the first minus that of the second, over the same "
        f"{found.about.prompts} test prompts, with the paired 95 % interval over prompts. With as many denoiser calls "
        "or seconds, the second has as many candidates as these pay for; a number between two whole ones is a lottery "
        "between both. Plans are compared with a rival's plan for the same budget of calls. N is that of the first. p: "
        "of no difference, by Holm over all rows of the same question and the same resource; below 0.05 one is ahead. "
        "Two that are not told apart need not be equal. A lookahead counts as a whole call, though it is half of one "
        "under guidance: at the same calls, lookaheads are a little short.",
        (
            "question", "at equal", "first", "second", "N", "difference", "p (Holm)", "ahead",
            "calls first", "calls second", "seconds first", "seconds second",
        ),
        tuple(_pair(pair) for pair in pairs),
        long=True,
    )  # fmt: skip


def _pair(pair: Pair) -> tuple[Field, ...]:
    difference = Value(pair.difference, pair.lower, pair.upper)
    costs = _calls(pair.calls_first), _calls(pair.calls_second), pair.seconds_first, pair.seconds_second
    question = QUESTIONS[pair.question]
    compared = question, pair.basis, pair.first, pair.second, pair.candidates
    return *compared, difference, pair.p, ahead(pair), *costs


def ahead(pair: Pair) -> str:
    """ "the first" or "the second" where Holm's p is below 0.05."""
    return {AHEAD: "the first", BEHIND: "the second", APART: APART}[verdict(pair)]


def _calls(calls: float) -> int | float:
    """A whole number where it is one; a lottery between two numbers makes others."""
    return int(calls) if float(calls).is_integer() else calls
