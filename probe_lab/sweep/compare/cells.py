"""The finished cells of a runs folder: what they are, and every number that their files hold."""

from __future__ import annotations

import math
from collections.abc import Collection, Hashable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

from probe_lab.cells import CONFIG, METRICS, read_metrics, require_files
from probe_lab.config.keys import key_of
from probe_lab.errors import ReportError
from probe_lab.probes.kinds import recorded
from probe_lab.sweep.compare.configs import Flat, differing, joined, read_configs
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

Setting = tuple["Finished", ...]
"""Cells that differ in nothing but their training seed, in the order of their names."""


@dataclass(frozen=True)
class Measure:
    """One number of a cell, on one split; ``column`` is its name in MLflow (which writes ":" for "@")."""

    split: str
    evaluator: str
    metric: str

    @property
    def column(self) -> str:
        return f"{'' if self.split == 'test' else f'{self.split}/'}{self.evaluator}/{self.metric}"


@dataclass(frozen=True)
class Finished:
    """A finished cell: its folder, flat config and the content of its ``metrics.json``."""

    folder: Path
    config: Flat
    content: Mapping[str, Any]

    @property
    def name(self) -> str:
        return self.folder.name

    @cached_property
    def shown(self) -> dict[str, Hashable]:
        """Model, step, taps (joined by "+"), loss (None where none can be chosen) and seed."""
        values = {name: self.content[name] for name in SHOWN.values()} | {"taps": "+".join(self.content["taps"])}
        return values if recorded(values["model"]).chooses_loss else values | {"loss": None}

    def value(self, key: str) -> Hashable:
        """The value of a dotted key, as a table shows it; of a baseline no loss, see ``answers_of_loss``."""
        if key == "probe.loss" and not answers_of_loss(self.content["model"], names_model=False):
            return None
        return self.shown[SHOWN[key]] if key in SHOWN else joined(self.config.get(key))

    @cached_property
    def entries(self) -> dict[tuple[str, str, str], Mapping[str, Any]]:
        """The metrics by split, evaluator and name."""
        return {(e["split"], e["evaluator"], e["metric"]): e for e in self.content["metrics"]}

    @cached_property
    def evaluators(self) -> tuple[str, ...]:
        """What the cell predicts, in the order of its file."""
        return tuple(dict.fromkeys(entry["evaluator"] for entry in self.content["metrics"]))

    @property
    def stopped(self) -> str:
        """Who ended the training early, and after how many epochs; empty where nobody did."""
        ended = self.content.get("stopped")
        return f"{ended['by']}, {ended['epochs']} epochs" if ended else ""

    @property
    def reduced(self) -> str:
        """How small its batches became as memory ran out; empty where they are those that were asked for."""
        smaller = self.content.get("reduced")
        return f"{smaller['batch_prompts']} prompts per batch" if smaller else ""

    def number(self, measure: Measure, part: str) -> float:
        """``estimate``, ``lower`` or ``upper``; nan where the cell has none."""
        value = self.entries.get((measure.split, measure.evaluator, measure.metric), {}).get(part)
        return math.nan if value is None else float(value)


def finished_names(runs_folder: Path, cells: Collection[str] | None = None) -> list[str]:
    """Names of the finished cells, of ``cells`` only where given. ReportError when there is none."""
    found = sorted(path.parent.name for path in runs_folder.glob(f"*/{METRICS}"))
    names = [name for name in found if (name in cells if cells is not None else not name.startswith("."))]
    if not names:
        raise ReportError(f"no cell in {runs_folder} is finished: run `probe-lab sweep` or `probe-lab train` first")
    return names


def cells_named(wanted: str, names: Sequence[str], runs_folder: Path) -> list[str]:
    """The cell of that name, else those that begin so, else those that hold it. ReportError when none
    does."""
    whole = [name for name in names if name == wanted]
    found = whole or [name for name in names if name.startswith(wanted)] or [name for name in names if wanted in name]
    if not found:
        raise ReportError(
            f"none of the {len(names)} finished cells in {runs_folder} has '{wanted}' in its name: "
            "`probe-lab compare EXPERIMENT --limit 0` lists them by the digits at their end"
        )
    return found


def read_cells(runs_folder: Path, names: Sequence[str]) -> list[Finished]:
    """These cells from their files, in the order given. ReportError for a damaged one."""
    folders = [runs_folder / name for name in names]
    contents = [read_metrics(folder) for folder in folders]
    for folder, content in zip(folders, contents, strict=True):
        require_files(folder, content, (CONFIG,))
    configs = read_configs(folders)
    return [Finished(*parts) for parts in zip(folders, configs, contents, strict=True)]


def settings(cells: Sequence[Finished]) -> list[Setting]:
    """Cells with their other training seeds, in the order of the first of each."""
    keys = differing([cell.config for cell in cells])
    found: dict[tuple[Hashable, ...], list[Finished]] = {}
    for cell in cells:
        shown = [value for key, value in cell.shown.items() if key != SEED]
        found.setdefault((*shown, *(cell.config.get(key) for key in keys), cell.evaluators), []).append(cell)
    return [tuple(cells) for cells in found.values()]


def keys_named(names: Sequence[str], cells: Sequence[Finished]) -> dict[str, str]:
    """The dotted keys that ``names`` mean, with the columns that show them. ConfigError for what is no key."""
    swept = differing([cell.config for cell in cells])
    keys = [key_of(name, swept) for name in names]
    return {key: SHOWN.get(key, key) for key in keys}
