"""What ``probe-lab breakeven`` prints: ways by budget, and where the probe pays."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace

from rich.table import Table

from probe_lab.tradeoff.breakeven import Offer, Terms, needed_skill, offers, pays, unpriced
from probe_lab.tradeoff.way_names import WAYS

MULTIPLES = (1.5, 2.0, 3.0, 5.0, 10.0)
"""Budgets where none are asked for, in finished images."""
_LABELS: Mapping[str, str] = {way: words.label for way, words in WAYS.items()} | {"tiny_preview": "tiny preview"}


def offers_table(terms: Terms, budgets: Sequence[float], unit: str) -> Table:
    """A row per way: its expected gain and N for each budget, that of the best way marked."""
    whole = terms.keep * terms.image
    columns = [offers(terms, budget) for budget in budgets or [multiple * whole for multiple in MULTIPLES]]
    table = Table(
        title="Expected gain over a random seed in standard deviations of a prompt's seeds (N), * the best of a budget",
        title_justify="left",
        box=None,
        pad_edge=False,
    )
    table.add_column(f"budget in {unit}\nin images")
    for budget in budgets or [multiple * whole for multiple in MULTIPLES]:
        table.add_column(f"{budget:,.4g}\n{budget / whole:.3g}", justify="right", no_wrap=True)
    for way, steps in dict.fromkeys((offer.way, offer.steps) for column in columns for offer in column):
        label = f"{_LABELS[way]}, {steps}" if way == "fewer_steps" else _LABELS[way]
        fields = [
            next((_text(offer, column[0]) for offer in column if (offer.way, offer.steps) == (way, steps)), "")
            for column in columns
        ]
        table.add_row(label, *fields)
    return table


def breakeven_lines(terms: Terms, unit: str) -> Iterator[str]:
    """Where the probe gives most of all, what it would have to be where it does not, and what lacks a price."""
    if "probe" in terms.skills:
        ranges = " and ".join(f"from {low:,.4g} to {high:,.4g} {unit}" for low, high in pays(terms))
        where = ranges or "at no budget up to twelve images"
        yield f"The probe (r = {terms.skills['probe']:.2f}) gives most of all {where}."
    rivals = replace(terms, skills={**terms.skills, "probe": 1.0})
    needed = {multiple: needed_skill(rivals, multiple * terms.keep * terms.image) for multiple in MULTIPLES}
    texts = [f"{skill:.2f} for {multiple:g} images" for multiple, skill in needed.items() if skill and skill <= 1]
    if texts:
        yield f"A probe at step {terms.step} of {terms.steps} starts to pay with r = {', '.join(texts)}."
    if missing := unpriced(rivals):
        parts = "; ".join(f"{name} ({', '.join(_LABELS[way] for way in ways)})" for name, ways in missing.items())
        yield f"Not priced: {parts}. These ways look better than they are: give --price {next(iter(missing))}=X."


def _text(offer: Offer, best: Offer) -> str:
    return f"{'* ' if offer == best else ''}{offer.gain:+.2f} ({offer.candidates})"
