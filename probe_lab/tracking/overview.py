"""What the parent run shows: a table of the finished cells as its note, and which of them is best on validation."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass

from probe_lab.markdown_text import verbatim
from probe_lab.runs import FinishedCell, Measure
from probe_lab.tracking.values import TAG_LENGTH

HEADLINE = "srcc_within"


@dataclass(frozen=True)
class ShownValue:
    """An estimate and the ends of its 95 % interval; nan where there is none."""

    estimate: float
    lower: float
    upper: float

    def __str__(self) -> str:
        if math.isnan(self.estimate):
            return "–"
        return f"{self.estimate:.3f}" + ("" if math.isnan(self.lower) else f" [{self.lower:.3f}, {self.upper:.3f}]")


@dataclass(frozen=True)
class OverviewRow:
    """The headline of a finished cell on both splits."""

    val: ShownValue
    test: ShownValue

    @staticmethod
    def of(cell: FinishedCell, evaluator: str) -> OverviewRow:
        measures = (Measure(split, evaluator, HEADLINE) for split in ("val", "test"))
        return OverviewRow(
            *(ShownValue(*(cell.number(m, part) for part in ("estimate", "lower", "upper"))) for m in measures)
        )


def ranked(rows: Mapping[str, OverviewRow]) -> list[str]:
    """The cells that have a value on validation, the best first: test prompts choose nothing."""
    validated = [name for name, row in rows.items() if not math.isnan(row.val.estimate)]
    return sorted(validated, key=lambda name: (-rows[name].val.estimate, name))


def note_of(
    experiment: str, evaluator: str, rows: Mapping[str, OverviewRow], names: Mapping[str, str], failed: int
) -> str:
    """Markdown with one line per cell in the order of ``rows``, ``ranked`` ones first; as many as a tag of MLflow
    holds."""
    lines = [
        f"{len(rows)} cells of {verbatim(experiment)} are finished, {failed} failed. "
        f"Best on validation by {verbatim(evaluator)} first; the test prompts choose nothing.",
        "",
        f"| cell | val {HEADLINE} | test {HEADLINE} |",
        "|---|---|---|",
    ]
    rest = f"\n… `probe-lab compare {experiment} --limit 0` shows them all"
    room = TAG_LENGTH - len(rest) - sum(len(line) + 1 for line in lines)
    for name, row in rows.items():
        line = f"| {verbatim(names.get(name, name))} | {row.val} | {row.test} |"
        room -= len(line) + 1
        if room < 0:
            return "\n".join((*lines, rest))
        lines.append(line)
    return "\n".join(lines)
