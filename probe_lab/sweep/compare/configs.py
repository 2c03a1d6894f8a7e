"""What the cells of a runs folder were trained with: thousands of small YAML files, read quickly."""

from __future__ import annotations

import dataclasses
import re
from collections.abc import Hashable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import yaml

from probe_lab.cells import CONFIG
from probe_lab.config import Experiment
from probe_lab.config.yaml_text import read_yaml
from probe_lab.errors import ReportError
from probe_lab.sweep.identity import changes_no_result

Flat = Mapping[str, Hashable]
"""Dotted keys and plain values; a list is a tuple."""

_SECTION = re.compile(r"^(?=[^\s#-])", re.MULTILINE)
_COLUMNS = {"probe.model", "probe.step", "probe.taps", "probe.loss", "trainer.seed", "evaluators", "probe.evaluators"}
"""Keys that have a column of their own under a shorter name; which evaluators a cell predicts its columns show."""
_OF_SCORES = ("scoring.dtype", "scoring.models.")
"""No sweep is over them, and yet they say which scores a cell predicts."""


def read_configs(folders: Iterable[Path]) -> list[Flat]:
    """The flat config of each cell folder; a key that came after the cell was trained has its default, and an empty
    ``cache.name`` that of the experiment.

    A block mapping is the union of its top-level sections, and the cells of a sweep share nearly all of them: each
    distinct section is parsed once. ReportError for a file that is missing or no YAML.
    """
    default = dict(flat(dataclasses.asdict(Experiment())))
    known: dict[str, list[tuple[str, Hashable]]] = {}
    found = [default | dict(_entries(folder / CONFIG, known)) for folder in folders]
    return [config | {"cache.name": config["cache.name"] or config["name"]} for config in found]


def _entries(path: Path, known: dict[str, list[tuple[str, Hashable]]]) -> list[tuple[str, Hashable]]:
    found: list[tuple[str, Hashable]] = []
    try:
        for section in _SECTION.split(path.read_text(encoding="utf-8")):
            if section not in known:
                known[section] = flat(read_yaml(section) or {})
            found += known[section]
    except (OSError, ValueError, AttributeError, TypeError, yaml.YAMLError) as error:
        raise ReportError(
            f"{path} cannot be read ({type(error).__name__}): delete its folder and sweep again, which trains it"
        ) from error
    return found


def flat(content: Mapping[str, Any], prefix: str = "") -> list[tuple[str, Hashable]]:
    """Dotted keys of nested mappings."""
    found: list[tuple[str, Hashable]] = []
    for key, value in content.items():
        if isinstance(value, Mapping):
            found += flat(value, f"{prefix}{key}.")
        else:
            found.append((f"{prefix}{key}", tuple(value) if isinstance(value, list) else value))
    return found


def joined(value: Hashable) -> Hashable:
    """The parts of a list with "+" between them, as tables show it; other values as they are."""
    return "+".join(map(str, value)) if isinstance(value, tuple) else value


def differing(configs: Sequence[Flat]) -> list[str]:
    """Keys that do not have one value everywhere, without those that change no result or are elsewhere in a table."""
    keys = dict.fromkeys(key for config in configs for key in config)
    candidates = [key for key in keys if not _is_elsewhere(key)]
    return [key for key in candidates if len({config.get(key) for config in configs}) > 1]


def _is_elsewhere(key: str) -> bool:
    return key in _COLUMNS or (changes_no_result(key) and not key.startswith(_OF_SCORES))
