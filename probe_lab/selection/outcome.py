"""What a selection says when it is done: its cost, the kept images, and what selecting was worth."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import mean
from typing import Any

from rich.table import Table

from probe_lab.cache.faults import FAULT_WORDS
from probe_lab.console import literal
from probe_lab.selection.candidates import PromptCandidates
from probe_lab.selection.contact_sheet import labels_of, order_note, score_text, unscaled_of
from probe_lab.selection.live_view import shortened

SAME_WITHIN = 8
"""Grey levels of 255: what half precision makes of another order of additions."""


@dataclass(frozen=True)
class Summary:
    """A table of the kept candidates and lines of text; ``out`` is where the files are."""

    table: Table
    lines: tuple[str, ...]
    out: Path


def kept_table(rows: Sequence[PromptCandidates], evaluators: Sequence[str]) -> Table:
    """A row per kept image, in it a line per evaluator."""
    labels = labels_of(evaluators)
    scored = any(one.true for row in rows for one in row.kept)
    table = Table(box=None, pad_edge=False)
    table.add_column("prompt", overflow="fold")
    for heading in ("candidate", "seed"):
        table.add_column(heading, justify="right", no_wrap=True)
    unscaled = unscaled_of(rows, evaluators)
    heading = "predicted order" if unscaled else "predicted"
    table.add_column("predicted → true" if scored and not unscaled else heading, no_wrap=True)
    for row in rows:
        for one in row.kept:
            numbers = [f"{score_text(one, name)}  {label}".strip() for name, label in labels.items()]
            table.add_row(literal(shortened(row.prompt, 36)), str(one.number), str(one.seed), "\n".join(numbers))
    return table


def worth(rows: Sequence[PromptCandidates], evaluator: str) -> dict[str, float] | None:
    """Mean true score of the kept candidates, of all, of the best possible ones, and the selection gain between the
    two last (0 random, 1 oracle), of those that are pictures of their prompt; None where not all are scored."""
    if not all(evaluator in one.true for row in rows for one in row.candidates if one.fault is None):
        return None
    kept, everything, best = [], [], []
    for row in rows:
        chosen = [one.true[evaluator] for one in row.kept if one.fault is None]
        if not chosen:  # nothing that is kept of this prompt is a picture
            continue
        scores = [one.true[evaluator] for one in row.candidates if one.fault is None]
        kept.append(mean(chosen))
        everything.append(mean(scores))
        best.append(mean(sorted(scores, reverse=True)[: len(chosen)]))
    if not kept:
        return None
    found = {"kept": mean(kept), "all": mean(everything), "best": mean(best)}
    room = found["best"] - found["all"]
    return found | ({"selection_gain": (found["kept"] - found["all"]) / room} if room > 0 else {})


def fault_lines(rows: Sequence[PromptCandidates]) -> list[str]:
    """A sentence for each candidate that is no choice."""
    return [
        f"candidate {one.number} of {shortened(row.prompt)} ({'kept' if one.place is not None else 'pruned'}) is "
        f"{FAULT_WORDS[one.fault]}"
        for row in rows
        for one in row.candidates
        if one.fault is not None
    ]


def _sameness(apart: int) -> str:
    """Of kept images and the same ones without selection, which batches of another size make differ a little."""
    if apart > SAME_WITHIN:
        return f"the kept images are NOT those without selection: they differ by up to {apart} of 255 grey levels"
    return f"the kept images are the same{f' within {apart} of 255 grey levels' if apart else ''}"


def lines_of(content: dict[str, Any]) -> list[str]:
    """Sentences on cost and worth, from the record."""
    calls, of, seconds = content["denoiser_calls"], content["denoiser_calls_of_all"], content["seconds"]
    text = f"{calls} denoiser calls of {of} for all candidates ({calls / of:.0%}), {seconds['select']:.1f} s"
    if seconds["all"]:
        share = seconds["select"] / seconds["all"]
        text += f"; all of them took {seconds['all']:.1f} s, so selection {share:.2f} of that"
        text += f"; {_sameness(content['largest_difference'])}"
    unscaled = dict.fromkeys(name for probe in content["probes"] for name in probe.get("unscaled", ()))
    lines = [text, *filter(None, [order_note(list(unscaled))])]
    for name, found in content["worth"].items():
        gain = f", selection gain {found['selection_gain']:.2f}" if "selection_gain" in found else ""
        lines.append(
            f"true {name}, mean: kept {found['kept']:.3f}, all {found['all']:.3f}, best {found['best']:.3f}{gain}"
        )
    return lines
