"""What there is to log: cells, failures, reports and ends of sweeps, each one line of JSON where it has to wait."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from typing import Literal

from probe_lab.json_text import read_json

Status = Literal["RUNNING", "FINISHED", "FAILED", "KILLED"]
"""How a run stands, in MLflow's words."""
Kind = Literal["cell", "failure", "report", "end"]


@dataclass(frozen=True)
class CellRun:
    """One cell as a tracked run: its name, which is also its folder in the runs folder, and its tags."""

    name: str
    tags: Mapping[str, str]


@dataclass(frozen=True)
class Entry:
    """One thing to log, by reference.

    ``name`` is that of a finished ``cell`` or of one that met a ``failure``, the folder of a ``report``, or the
    status of a sweep's ``end``. Values are read from a cell's files when they are sent.
    """

    kind: Kind
    name: str
    tags: Mapping[str, str] = field(default_factory=dict)
    error: str = ""

    @property
    def subject(self) -> str:
        """Of several entries with one subject, the last one counts."""
        return f"cell {self.name}" if self.kind in ("cell", "failure") else self.kind

    def to_line(self) -> str:
        return json.dumps(asdict(self))

    @staticmethod
    def from_line(line: str) -> Entry:
        """ValueError, KeyError or TypeError for a line that is none."""
        content = read_json(line)
        return Entry(content["kind"], content["name"], content["tags"], content["error"])
