"""How long cells will take: by the rate of those that were trained before, else by a rough constant."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from statistics import median
from typing import Any

import yaml

from probe_lab.cells import METRICS, read_metrics
from probe_lab.config.yaml_text import read_yaml
from probe_lab.errors import ReportError
from probe_lab.probes.kinds import kind_of, recorded
from probe_lab.sweep.grid import Cell

_EARLIER = 20
"""So many cells of earlier sweeps tell the rate, where none of this one has been trained."""


@dataclass(frozen=True)
class Rate:
    """Seconds per sample and epoch. ``by_taps`` are of a model and its taps, ``by_model`` of a model; where neither is
    known, ``factor`` times the constant. ``basis`` says where that comes from."""

    by_taps: Mapping[tuple[str, str], float] = field(default_factory=dict)
    by_model: Mapping[str, float] = field(default_factory=dict)
    factor: float = 1.0
    basis: str = ""

    def seconds(self, cell: Cell, samples: int) -> float:
        """What training a cell on a cache of so many samples will take one worker."""
        probe = cell.experiment.probe
        rate = self.by_taps.get((probe.model, "+".join(probe.taps)))
        if rate is None:
            rate = self.by_model.get(probe.model, self.factor * kind_of(probe.model).seconds)
        return rate * samples * epochs_of(cell)


def epochs_of(cell: Cell) -> int:
    """How often a cell's training sees its samples."""
    probe = cell.experiment.probe
    kind = kind_of(probe.model)
    epochs = cell.experiment.trainer.max_epochs if kind.by_gradient else 1
    return epochs * (probe.shuffles if kind.shuffled else 1)


def rate_of(found: Mapping[str, Mapping[str, Any]], samples: Mapping[str, int], runs_folder: Path) -> Rate:
    """The rate of finished cells, ``found`` by name with their metrics and ``samples``; else of the latest others in
    ``runs_folder``; else a constant."""
    told = f"the {len(found)} finished cells" if len(found) > 1 else "the one finished cell"
    measured = [(metrics, samples[name]) for name, metrics in found.items()]
    if not measured:
        measured = _earlier(runs_folder)
        told = f"{len(measured)} cell{'s' if len(measured) > 1 else ''} trained earlier in {runs_folder}"
    if not measured:
        rough = f"{kind_of('cnn').seconds * 1e3:g} ms per sample and epoch of a cnn"
        return Rate(basis=f"a rough constant ({rough}): nothing is trained yet in {runs_folder}")
    return _summed_up(measured, f"the rate of {told}")


def _summed_up(measured: Sequence[tuple[Mapping[str, Any], int]], basis: str) -> Rate:
    by_taps: dict[tuple[str, str], list[float]] = {}
    by_model: dict[str, list[float]] = {}
    factors = []
    for metrics, samples in measured:
        model, taps = metrics["model"], "+".join(metrics["taps"])
        epochs = max(len(metrics["history"]), 1) * int(metrics.get("shuffles", 1))
        rate = metrics["seconds"] / max(samples * epochs, 1)
        by_taps.setdefault((model, taps), []).append(rate)
        by_model.setdefault(model, []).append(rate)
        factors.append(rate / recorded(model).seconds)
    return Rate(
        {key: median(rates) for key, rates in by_taps.items()},
        {key: median(rates) for key, rates in by_model.items()},
        median(factors),
        basis,
    )


def _earlier(runs_folder: Path) -> list[tuple[Mapping[str, Any], int]]:
    """Metrics and samples of the latest cells of a runs folder, whatever they were trained for."""
    files = sorted(runs_folder.glob(f"*/{METRICS}"), key=lambda path: path.stat().st_mtime, reverse=True)
    found: list[tuple[Mapping[str, Any], int]] = []
    for file in files[:_EARLIER]:
        try:
            found.append((read_metrics(file.parent), _asked_for(file.parent)))
        except (OSError, ReportError, yaml.YAMLError, LookupError, TypeError, ValueError):
            continue  # being written, or damaged: an estimate does without
    return found


def _asked_for(cell_folder: Path) -> int:
    """How many samples the configuration of a cell asks for."""
    prompts = read_yaml((cell_folder / "config.yaml").read_bytes())["prompts"]
    return int(prompts["count"]) * int(prompts["seeds"])
