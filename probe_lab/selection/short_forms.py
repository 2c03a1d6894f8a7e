"""What the command line writes in short for the keys of ``select``: schedules, weights, a budget."""

from __future__ import annotations

import math
import re

from probe_lab.errors import SelectError
from probe_lab.selection.ranking import By

_CUT = re.compile(r"(\d+):(\d+)")


def read_schedule(text: str) -> list[dict[str, int]]:
    """``2:6,5:3,10:1`` (step:keep) as ``ProbeSelect`` takes it. SelectError for anything else."""
    found = [_CUT.fullmatch(part.strip()) for part in text.split(",")]
    cuts = [{"step": int(cut[1]), "keep": int(cut[2])} for cut in found if cut]
    if len(cuts) != len(found):
        raise SelectError(f"the schedule is '{text}': write STEP:KEEP with commas between, 2:6,5:3,10:1 for instance")
    return cuts


def read_by(text: str) -> By | None:
    """An evaluator, ``pareto``, or weights, ``a=0.7,b=0.3``; None for nothing. SelectError for weights that are
    none."""
    if "=" not in text:
        return text.strip() or None
    weights: dict[str, float] = {}
    for part in text.split(","):
        name, _, number = part.partition("=")
        try:
            weights[name.strip()] = float(number)
        except ValueError:
            weights[name.strip()] = math.nan
    if not all(map(math.isfinite, weights.values())):
        raise SelectError(f"the weights are '{text}': write NAME=NUMBER with commas between, a=0.7,b=0.3 for instance")
    return weights


def overrides_of(
    *,
    candidates: int | None = None,
    keep: int | None = None,
    schedule: str | None = None,
    budget: int | None = None,
    by: str | None = None,
) -> list[str]:
    """Options of the command as overrides of ``select``; what was not given stays as the experiment has it.

    A schedule replaces the experiment's budget, and a budget its schedule.
    """
    cuts = None
    if schedule is not None:
        entries = (f"{{step: {cut['step']}, keep: {cut['keep']}}}" for cut in read_schedule(schedule))
        cuts = f"[{', '.join(entries)}]"
    if schedule is None and budget:
        cuts = "[]"
    if budget is None and schedule is not None:
        budget = 0
    given = {"candidates": candidates, "keep": keep, "schedule": cuts, "budget": budget, "by": by}
    return [f"select.{key}={value}" for key, value in given.items() if value is not None]
