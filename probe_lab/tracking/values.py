"""From a cell's files to what a run shows: parameters, metrics, tags, times and attached files."""

from __future__ import annotations

import hashlib
import json
import math
import re
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Any

from probe_lab.runs import CONFIG, METRICS, PREDICTIONS, FinishedCell, Measure
from probe_lab.runs.configs import Flat, joined
from probe_lab.runs.files import finished_at

_FILES = (CONFIG, METRICS, PREDICTIONS)
_FILE_BYTES = 5_000_000
PARAM_LENGTH, TAG_LENGTH, NAME_LENGTH = 6000, 5000, 250
"""What MLflow's stores take at most, in characters of values and of names."""
_DIGEST_LENGTH = 12
_PLACES = {
    "model": "probe.model",
    "step": "probe.step",
    "taps": "probe.taps",
    "loss": "probe.loss",
    "seed": "trainer.seed",
}
"""Short tags of a cell, and the keys that they show."""


@dataclass(frozen=True)
class CellValues:
    """What the run of a finished cell shows. ``metrics`` are (name, value, step); times in milliseconds since 1970,
    ``end`` that of ``metrics.json``, so that logging a cell again says the same."""

    params: Mapping[str, str]
    metrics: tuple[tuple[str, float, int], ...]
    tags: Mapping[str, str]
    files: tuple[Path, ...]
    start: int
    end: int


def read_values(cell: FinishedCell, axes: Mapping[str, Any] | None = None) -> CellValues:
    """The values of a finished cell, whose swept keys have the values ``axes``. ReportError, OSError, ValueError,
    KeyError or TypeError when its files are damaged or another cell's."""
    cell.require(*_FILES)
    end = (finished_at(cell.folder) or 0) // 1_000_000
    files = (cell.folder / name for name in _FILES)
    metrics = (*_history(cell), *((name, value, 0) for name, value in final_metrics(cell).items()))
    return CellValues(
        params={
            allowed(key): str(list(value) if isinstance(value, tuple) else value)[:PARAM_LENGTH]
            for key, value in cell.written.items()
            if key.partition(".")[0] != "sweep"
        },
        metrics=_beside_folders((allowed(name), value, step) for name, value, step in metrics),
        tags={**tags_of(cell.config, axes or {}), **_stopped(cell.content)},
        files=tuple(file for file in files if file.exists() and file.stat().st_size <= _FILE_BYTES),
        start=end - int(cell.seconds * 1000),
        end=end,
    )


def tags_of(config: Flat, axes: Mapping[str, Any]) -> dict[str, str]:
    """Tags of a cell: every swept key, and in few words what it is and what it reads."""
    label = config["backbone.name"] or f"{config['backbone.family']}:{config['backbone.path']}"
    own = {"backbone": label, "cache": config["cache.name"]} | {key: config[where] for key, where in _PLACES.items()}
    values = {**axes, **own}
    return {key: str(joined(tuple(value) if isinstance(value, list) else value)) for key, value in values.items()}


def _stopped(content: Mapping[str, Any]) -> dict[str, str]:
    """A cell that successive halving ended before its last epoch says so."""
    return {"stopped": json.dumps(content["stopped"])} if content.get("stopped") else {}


def allowed(name: str) -> str:
    """A name as MLflow takes it for a metric or parameter: the "@" of labelled evaluators becomes ":", other characters
    that it refuses "_"; the end of one that is too long is replaced by a digest of the whole."""
    plain = re.sub(r"[^\w./: -]", "_", name.replace("@", ":"))
    if len(plain) <= NAME_LENGTH:
        return plain
    digest = hashlib.sha256(plain.encode()).hexdigest()[:_DIGEST_LENGTH]
    return f"{plain[: NAME_LENGTH - _DIGEST_LENGTH - 1]}_{digest}"


def _beside_folders(metrics: Iterable[tuple[str, float, int]]) -> tuple[tuple[str, float, int], ...]:
    """The metrics, where a name that is the beginning of another one with a slash ends in "_": a store that keeps each
    metric in a file could not have a folder of that name too. An evaluator called "seconds" makes one."""
    metrics = tuple(metrics)
    folders = {str(parent) for name, _, _ in metrics for parent in PurePosixPath(name).parents}
    return tuple((f"{name}_" if name in folders else name, value, step) for name, value, step in metrics)


def _history(cell: FinishedCell) -> Iterator[tuple[str, float, int]]:
    """What was measured after each epoch."""
    for row in cell.history:
        for key, value in row.items():
            if key != "epoch" and _is_number(value):
                yield key, float(value), int(row["epoch"])


def final_metrics(cell: FinishedCell) -> dict[str, float]:
    """Estimates and the ends of their intervals ("val/..." on the validation split), and the seconds of the
    training."""
    values: dict[str, float] = {}
    for entry in cell.content["metrics"]:
        name = Measure(entry["split"], entry["evaluator"], entry["metric"]).column
        for key, suffix in {"estimate": "", "lower": "_lower", "upper": "_upper"}.items():
            if _is_number(entry.get(key)):
                values[name + suffix] = float(entry[key])
    if _is_number(cell.content.get("seconds")):
        values["seconds"] = cell.seconds
    return values


def _is_number(value: object) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)
