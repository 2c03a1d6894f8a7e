"""What each way of selecting can be expected to give for a budget, before anything of it was measured.

Scores of the seeds of a prompt are taken to be normal, and what chooses to correlate r with them: the best of N by that
choice lies r · E[max of N normals] standard deviations above a random seed. r is what the selection gain of a report
estimates, 0 for a random choice and 1 for an oracle.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cache
from typing import Literal, get_args

import numpy as np
from scipy import special

from probe_lab.errors import ConfigError, nearest
from probe_lab.selection.budget import calls_of

Priced = Literal["call", "decode", "tiny_decode", "evaluator", "probe"]
"""What has a price: a denoiser call per image (with guidance, both halves), decoding an image, decoding it by a tiny
autoencoder, an evaluator's run on it, and asking the probe about a candidate."""
PRICED: tuple[Priced, ...] = get_args(Priced)
Chooser = Literal["probe", "preview", "tiny_preview", "lookahead"]
"""What chooses at the cut. A lookahead is one more denoiser call."""
CHOOSERS: tuple[Chooser, ...] = get_args(Chooser)
MOST_CANDIDATES = 256
_GRID = np.linspace(-10.0, 10.0, 8001)
_TAKEN: Mapping[str, tuple[Priced, ...]] = {
    "random": (),
    "best_of_n": ("decode", "evaluator"),
    "fewer_steps": ("decode", "evaluator"),
    "probe": ("probe",),
    "preview": ("decode", "evaluator"),
    "tiny_preview": ("tiny_decode", "evaluator"),
    "lookahead": ("call", "decode", "evaluator"),
}
"""What each way takes of every candidate, beside the calls that draw it."""


@dataclass(frozen=True)
class Terms:
    """What there is to choose from, and at what price.

    ``prices`` of the parts are in one unit, seconds, operations or calls; those that are not named cost nothing.
    ``skills`` are the r of each chooser at ``step`` of ``steps``. ``fewer`` maps numbers of sampling steps to what an
    image loses by them, in standard deviations of a prompt's seeds. ``keep`` images of a prompt are finished.

    Raises:
        ConfigError: a price below 0, no price of a call, an r beyond −1 … 1, a cut that is not before the last step.
    """

    prices: Mapping[Priced, float]
    skills: Mapping[Chooser, float]
    step: int
    steps: int
    fewer: Mapping[int, float] = field(default_factory=dict)
    keep: int = 1

    def __post_init__(self) -> None:
        for given, allowed in ((self.prices, PRICED), (self.skills, CHOOSERS)):
            for key in given:
                if key not in allowed:
                    raise ConfigError(f"there is no '{key}' to give a number for: {nearest(key, allowed)}")
        if not self.prices.get("call", 0.0) > 0:
            raise ConfigError("a denoiser call has no price above 0: give one, call=1 to count in calls")
        if any(not 0 <= price < np.inf for price in self.prices.values()):
            raise ConfigError(f"a price of {min(self.prices.values())} is none: give 0 or more")
        if wrong := [f"{way}={skill:g}" for way, skill in self.skills.items() if not -1 <= skill <= 1]:
            raise ConfigError(
                f"{wrong[0]} is no correlation: give −1 to 1, the selection gain of a report for instance"
            )
        if not 1 <= self.step < self.steps or self.keep < 1:
            raise ConfigError(f"a cut at step {self.step} of {self.steps} that keeps {self.keep} saves nothing")

    def price(self, *priced: Priced) -> float:
        return sum(self.prices.get(name, 0.0) for name in priced)

    @property
    def image(self) -> float:
        """The price of one finished image."""
        return self.steps * self.price("call") + self.price("decode")


@dataclass(frozen=True)
class Offer:
    """A way with its ``candidates``: what it costs per prompt, and what it gives, in standard deviations of a prompt's
    seeds above a random one. ``steps`` are those of its finished images."""

    way: str
    candidates: int
    steps: int
    price: float
    gain: float


@cache
def expected_best(candidates: int, keep: int = 1) -> float:
    """The expected mean of the ``keep`` highest of so many independent standard normal numbers."""
    density = np.exp(-(_GRID**2) / 2) / np.sqrt(2 * np.pi)
    among = special.bdtr(keep - 1, candidates - 1, special.ndtr(-_GRID))  # fewer than keep of the others are higher
    return float(np.trapezoid(_GRID * density * among, _GRID) * candidates / keep)


def offer_of(terms: Terms, way: str, candidates: int, steps: int = 0) -> Offer:
    """One way: "random", "best_of_n", "fewer_steps" (with its ``steps``), or a chooser."""
    keep, whole = terms.keep, terms.steps
    best = expected_best(candidates, keep)
    if way == "random":
        return Offer(way, keep, whole, keep * terms.image, 0.0)
    taken = terms.price(*_TAKEN[way])
    if way == "best_of_n":
        return Offer(way, candidates, whole, candidates * (whole * terms.price("call") + taken), best)
    if way == "fewer_steps":
        price = candidates * (steps * terms.price("call") + taken)
        return Offer(way, candidates, steps, price, best - terms.fewer[steps])
    chooser: Chooser = way  # type: ignore[assignment]
    calls = calls_of(((terms.step, keep),), candidates, whole) * terms.price("call")
    price = calls + candidates * taken + keep * terms.price("decode")
    return Offer(way, candidates, whole, price, terms.skills[chooser] * best)


def offers(terms: Terms, budget: float) -> list[Offer]:
    """What each way gives with the most candidates that ``budget`` pays for; ways that it pays for nothing of are left
    out. The first is the best, of equals the cheapest."""
    largest = (_largest(terms, *way, budget) for way in _ways(terms))
    return sorted((offer for offer in largest if offer is not None), key=lambda offer: (-offer.gain, offer.price))


def unpriced(terms: Terms) -> dict[Priced, list[str]]:
    """The parts that have no price, each with the ways that take it of every candidate and look better for that."""
    missing: dict[Priced, list[str]] = {}
    for way in dict.fromkeys(way for way, _ in _ways(terms)):
        for name in _TAKEN[way]:
            if name not in terms.prices:
                missing.setdefault(name, []).append(way)
    return missing


def _ways(terms: Terms) -> Iterator[tuple[str, int]]:
    yield "random", 0
    yield "best_of_n", 0
    yield from (("fewer_steps", steps) for steps in terms.fewer)
    yield from ((chooser, 0) for chooser in CHOOSERS if chooser in terms.skills)


def _largest(terms: Terms, way: str, steps: int, budget: float) -> Offer | None:
    first, second = (offer_of(terms, way, terms.keep + more, steps) for more in (0, 1))
    if way == "random":
        return first if first.price <= budget else None
    per_candidate = second.price - first.price  # all prices are linear in the candidates
    count = terms.keep + int((budget - first.price) / per_candidate + 1e-9)
    count = min(count, MOST_CANDIDATES)
    return offer_of(terms, way, count, steps) if count > terms.keep else None


def needed_skill(terms: Terms, budget: float) -> float | None:
    """The r at which the probe gives as much as the best other way for a budget; None where it buys no second
    candidate."""
    mine = _largest(terms, "probe", 0, budget)
    if mine is None:
        return None
    rivals = [offer.gain for offer in offers(terms, budget) if offer.way != "probe"]
    return max(rivals, default=0.0) / expected_best(mine.candidates, terms.keep)


def budgets(terms: Terms, most: float = 12.0, count: int = 400) -> list[float]:
    """Budgets from one kept image to ``most`` of them, in equal proportions."""
    values: list[float] = (np.geomspace(1.0, most, count) * terms.keep * terms.image).tolist()
    return values


def pays(terms: Terms, way: str = "probe") -> list[tuple[float, float]]:
    """The ranges of budgets, up to twelve images, in which a way gives most of all."""
    ranges: list[tuple[float, float]] = []
    open_at: float | None = None
    last = 0.0
    for budget in budgets(terms):
        ahead = [offer.way for offer in offers(terms, budget)][:1] == [way]
        if ahead and open_at is None:
            open_at = budget
        if not ahead and open_at is not None:
            ranges.append((open_at, last))
            open_at = None
        last = budget
    return ranges if open_at is None else [*ranges, (open_at, last)]


def numbers_of(option: str, given: Sequence[str] | None) -> dict[str, float]:
    """``["call=1", "decode=0.4"]`` of an option of the command line, as a mapping.

    Raises:
        ConfigError: one has no name, or a value that is no finite number.
    """
    numbers: dict[str, float] = {}
    for text in given or ():
        name, _, value = text.partition("=")
        try:
            numbers[name] = float(value)
        except ValueError:
            numbers[name] = np.nan
        if not name or not np.isfinite(numbers[name]):
            raise ConfigError(f"{option} {text} is no NAME=NUMBER: write one, {option} probe=0.4 for instance")
    return numbers


def steps_of(losses: Mapping[str, float]) -> dict[int, float]:
    """The same with numbers of sampling steps for names. ConfigError for what is no such number."""
    if wrong := [name for name in losses if not (name.isascii() and name.isdigit() and int(name) > 0)]:
        raise ConfigError(
            f"--fewer {wrong[0]}={losses[wrong[0]]:g} names no sampling steps: write 10=0.15 for instance"
        )
    return {int(name): loss for name, loss in losses.items()}
