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

from probe_lab.config.yaml_text import read_yaml
from probe_lab.runs import CONFIG, METRICS, PREDICTIONS, FinishedCell
from probe_lab.runs.files import finished_at
from probe_lab.tracking.ledger import digest_of

_FILES = (CONFIG, METRICS, PREDICTIONS)
_FILE_BYTES = 5_000_000
PARAM_LENGTH, TAG_LENGTH, NAME_LENGTH = 6000, 5000, 250
"""What MLflow's stores take at most, in characters of values and of names."""
_DIGEST_LENGTH = 12


@dataclass(frozen=True)
class CellValues:
    """What the run of a finished cell shows. ``metrics`` are (name, value, step); times in milliseconds since 1970,
    ``end`` that of ``metrics.json``, so that logging a cell again says the same."""

    params: Mapping[str, str]
    metrics: tuple[tuple[str, float, int], ...]
    tags: Mapping[str, str]
    files: tuple[Path, ...]
    digest: str
    start: int
    end: int


def read_cell(folder: Path) -> CellValues:
    """The values of a finished cell. ReportError, OSError, ValueError, KeyError or TypeError when its files are damaged
    or another cell's."""
    cell = FinishedCell.read(folder)
    cell.require(*_FILES)
    config = read_yaml(cell.config_text) or {}
    end = (finished_at(folder) or 0) // 1_000_000
    files = (folder / name for name in _FILES)
    return CellValues(
        params={allowed(key): str(value)[:PARAM_LENGTH] for key, value in _flat(config)},
        metrics=_beside_folders((allowed(name), value, step) for name, value, step in _metrics(cell)),
        tags={**place_tags(config), **_stopped(cell.content)},
        files=tuple(file for file in files if file.exists() and file.stat().st_size <= _FILE_BYTES),
        digest=digest_of(folder),
        start=end - int(cell.seconds * 1000),
        end=end,
    )


def place_tags(config: Mapping[str, Any]) -> dict[str, str]:
    """Tags for what a cell reads: its backbone and its cache."""
    if not {"backbone", "cache"} <= set(config):
        return {}
    backbone, cache = config["backbone"], config["cache"]
    label = backbone["name"] or f"{backbone['family']}:{backbone['path']}"
    return {"backbone": label, "cache": cache["name"] or config["name"]}


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


def _metrics(cell: FinishedCell) -> Iterator[tuple[str, float, int]]:
    """The history per epoch, then final metrics ("val/..." on the validation split)."""
    for row in cell.history:
        for key, value in row.items():
            if key != "epoch" and _is_number(value):
                yield key, float(value), int(row["epoch"])
    for entry in cell.content["metrics"]:
        name = f"{entry['evaluator']}/{entry['metric']}"
        if entry["split"] != "test":
            name = f"{entry['split']}/{name}"
        for key, suffix in {"estimate": "", "lower": "_lower", "upper": "_upper"}.items():
            if _is_number(entry.get(key)):
                yield name + suffix, float(entry[key]), 0
    if _is_number(cell.content.get("seconds")):
        yield "seconds", cell.seconds, 0


def _is_number(value: object) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)


def _flat(content: Mapping[str, Any], prefix: str = "") -> Iterator[tuple[str, Any]]:
    """Dotted keys and values of a config, without the sweep (each cell states its own point)."""
    for key, value in content.items():
        if isinstance(value, Mapping):
            yield from _flat(value, f"{prefix}{key}.")
        elif prefix + key != "sweep":
            yield prefix + key, value
