"""What tables say of finished cells, and which of them are one setting."""

from __future__ import annotations

from collections.abc import Hashable, Sequence

from probe_lab.config.keys import key_of
from probe_lab.probes.kinds import recorded
from probe_lab.runs import FinishedCell
from probe_lab.runs.configs import differing, joined
from probe_lab.sweep.normalise import answers_of_loss

SHOWN = {
    "probe.model": "model",
    "probe.step": "step",
    "probe.taps": "taps",
    "probe.loss": "loss",
    "trainer.seed": "seed",
}
"""What every table says of a cell, in this order: its key and the name of its column."""
SEED = "seed"
EXPERIMENT = "experiment"

SeedCells = tuple[FinishedCell, ...]
"""Cells that differ in nothing but their training seed, in the order of their names."""


def shown(cell: FinishedCell) -> dict[str, Hashable]:
    """Model, step, taps (joined by "+"), loss (None where none can be chosen) and seed."""
    loss = cell.content["loss"] if recorded(cell.model).chooses_loss else None
    return {"model": cell.model, "step": cell.step, "taps": cell.taps, "loss": loss, "seed": cell.seed}


def value_of(cell: FinishedCell, key: str) -> Hashable:
    """The value of a dotted key, as a table shows it; of a baseline no loss, see ``answers_of_loss``."""
    if key == "name":
        return cell.experiment
    if key == "probe.loss" and not answers_of_loss(cell.model, names_model=False):
        return None
    return shown(cell)[SHOWN[key]] if key in SHOWN else joined(cell.config.get(key))


def settings(cells: Sequence[FinishedCell]) -> list[SeedCells]:
    """Cells with their other training seeds, each experiment for itself, in the order of the first of each."""
    keys = differing([cell.config for cell in cells])
    found: dict[tuple[Hashable, ...], list[FinishedCell]] = {}
    for cell in cells:
        apart = [value for key, value in shown(cell).items() if key != SEED]
        apart += [cell.experiment, *(cell.config.get(key) for key in keys), cell.evaluators]
        found.setdefault(tuple(apart), []).append(cell)
    return [tuple(cells) for cells in found.values()]


def keys_named(names: Sequence[str], cells: Sequence[FinishedCell]) -> dict[str, str]:
    """The dotted keys that ``names`` mean, with the columns that show them. ConfigError for what is no key."""
    swept = differing([cell.config for cell in cells])
    keys = [key_of(name, swept) for name in names]
    return {key: (SHOWN | {"name": EXPERIMENT}).get(key, key) for key in keys}
