"""What cells were trained with: thousands of small YAML files, read quickly."""

from __future__ import annotations

import dataclasses
import re
from collections.abc import Hashable, Mapping, Sequence
from functools import cached_property
from pathlib import Path
from typing import Any

import yaml

from probe_lab.config import Experiment
from probe_lab.config.keys import leaf_keys
from probe_lab.config.yaml_text import read_yaml
from probe_lab.errors import ReportError
from probe_lab.runs.files import AGAIN
from probe_lab.runs.identity import changes_no_result

Flat = Mapping[str, Hashable]
"""Dotted keys and plain values; a list is a tuple."""

_SECTION = re.compile(r"^(?=[^\s#-])", re.MULTILINE)
_COLUMNS = {"probe.model", "probe.step", "probe.taps", "probe.loss", "trainer.seed", "evaluators", "probe.evaluators"}
"""Keys that have a column of their own under a shorter name; which evaluators a cell predicts its columns show."""
_SECTIONS = {key.partition(".")[0] for key in leaf_keys() if "." in key}
_OF_SCORES = ("scoring.dtype", "scoring.models.")
"""No sweep is over them, and yet they say which scores a cell predicts."""


class Configs:
    """Reads configurations of cells.

    A block mapping is the union of its top-level sections, and the cells of a sweep share nearly all of them: each
    distinct section is parsed once.
    """

    def __init__(self) -> None:
        self._sections: dict[str, list[tuple[str, Hashable]]] = {}

    @cached_property
    def _default(self) -> dict[str, Hashable]:
        return dict(flat(dataclasses.asdict(Experiment())))

    def complete(self, written: Flat) -> Flat:
        """What a file says, with the defaults of keys that came after it was written, and an empty ``cache.name`` as
        that of the experiment."""
        config = {**self._default, **written}
        return config | {"cache.name": config["cache.name"] or config["name"]}

    def read(self, text: str, path: Path) -> Flat:
        """What the ``text`` in the file ``path`` says.

        Raises:
            ReportError: it is no YAML of an experiment's sections.
        """
        entries: list[tuple[str, Hashable]] = []
        try:
            for section in _SECTION.split(text):
                if section not in self._sections:
                    self._sections[section] = _entries(read_yaml(section) or {})
                entries += self._sections[section]
        except (ValueError, AttributeError, TypeError, yaml.YAMLError) as error:
            reason = " ".join(str(error).split())
            raise ReportError(f"{path} cannot be read ({reason}): {AGAIN}") from error
        return dict(entries)


def _entries(content: Mapping[str, Any]) -> list[tuple[str, Hashable]]:
    """As ``flat``. ValueError where a value stands for a section; ``backbone`` may be its name."""
    for key, value in content.items():
        is_section = isinstance(value, Mapping | None) or (key == "backbone" and isinstance(value, str))
        if key in _SECTIONS and not is_section:
            raise ValueError(f"'{key}' is {value!r:.60} and no section")
    return flat(content)


def flat(content: Mapping[str, Any], prefix: str = "") -> list[tuple[str, Hashable]]:
    """Dotted keys of nested mappings."""
    entries: list[tuple[str, Hashable]] = []
    for key, value in content.items():
        if isinstance(value, Mapping):
            entries += flat(value, f"{prefix}{key}.")
        else:
            entries.append((f"{prefix}{key}", tuple(value) if isinstance(value, list) else value))
    return entries


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
