"""What a selection is made with: the probes to ask, the schedule, and by what the candidates are ranked."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from probe_lab.config import CaptureConfig, Experiment
from probe_lab.errors import SelectError
from probe_lab.probes import Probe, load_probe
from probe_lab.probes.checkpoint import DESCRIPTION
from probe_lab.select.budget import Judged
from probe_lab.select.cells import at_other_steps, best_cell, check_origin, named_cell, notes_of, trained_with
from probe_lab.select.planned import plan_for
from probe_lab.select.ranking import By, check_by
from probe_lab.select.words import read_by


@dataclass(frozen=True)
class Setup:
    """``cells`` are the folders of the ``probes`` that are asked, ``capture`` says how their caches were read.

    ``schedule`` is None for one cut where the probe was trained; ``judged`` says how a budget found it.
    """

    cells: tuple[Path, ...]
    probes: tuple[Probe, ...]
    by: By
    capture: CaptureConfig
    schedule: Sequence[Mapping[str, int]] | None = None
    judged: Judged | None = None
    notes: Sequence[str] = field(default_factory=list)

    @property
    def steps(self) -> list[int]:
        """After which candidates are chosen."""
        cuts = self.schedule or [{"step": self.probes[0].spec.step}]
        return sorted({cut["step"] for cut in cuts})

    @property
    def shown(self) -> list[str]:
        """The evaluators that decide."""
        if self.by == "pareto":
            return list(self.probes[0].spec.evaluators)
        return [self.by] if isinstance(self.by, str) else list(self.by)

    @property
    def described(self) -> dict[str, Any]:
        """For the record."""
        probes = []
        for cell, probe in zip(self.cells, self.probes, strict=True):
            content = json.loads((cell / DESCRIPTION).read_bytes())
            known = {key: content[key] for key in ("weights_sha256", "code_version")}
            place = {"cell": cell.name, "folder": str(cell), "step": probe.spec.step, "of": probe.spec.total_steps}
            probes.append({**place, "evaluators": list(probe.spec.evaluators), "taps": list(probe.spec.taps), **known})
        judged = None
        if self.judged is not None:
            judged = {"calls_per_prompt": self.judged.calls, "validation_score": self.judged.score}
        schedule = None if self.schedule is None else [dict(cut) for cut in self.schedule]
        by = self.by if isinstance(self.by, str) else dict(self.by)
        return {"probes": probes, "by": by, "schedule": schedule, "planned": judged, "notes": list(self.notes)}


def setup_of(experiment: Experiment, wanted: Sequence[str]) -> Setup:
    """The setup of ``experiment.select`` with the cells that ``wanted`` names, or the best one.

    Raises:
        SelectError: no such cell, one of another backbone or resolution, an evaluator that it does not predict, or a
            schedule, budget or acceptance that there are no probes for.
        ReportError: no cell is finished.
    """
    asked = experiment.select
    by = read_by(asked.by)
    first = by if isinstance(by, str) and by != "pareto" else experiment.probe_evaluators[0]
    cells = [named_cell(experiment.runs_folder, name) for name in wanted] or [best_cell(experiment, first)]
    probes = [load_probe(cell) for cell in cells]
    by = by or probes[0].spec.evaluators[0]
    for probe in probes:
        check_by(by, probe)
    several = bool(asked.schedule or asked.budget)
    if len(cells) > 1 and not several:
        raise SelectError(f"there are {len(cells)} probes and one cut: give a --schedule or a --budget, or one probe")
    if asked.accept and not several:
        raise SelectError(
            f"accept={asked.accept} ends a choice before the last cut, and there is one cut: give a --schedule or a "
            "--budget"
        )
    there = list(zip((probe.spec.step for probe in probes), cells, strict=True))
    if several and len(cells) == 1:
        there = sorted(at_other_steps(cells[0]).items())
    schedule: Sequence[Mapping[str, int]] | None = asked.schedule or None
    judged = None
    if asked.budget:
        judged = plan_for(
            dict(there),
            by,
            candidates=asked.candidates,
            keep=asked.keep,
            steps=experiment.sampling.steps,
            budget=asked.budget,
        )
        schedule = judged.schedule
    used = [cell for step, cell in there if schedule is None or any(cut["step"] == step for cut in schedule)]
    chosen = tuple(used or cells)  # a schedule without any probe is refused where it is read
    capture, notes = _origins(chosen, experiment)
    return Setup(chosen, tuple(map(load_probe, chosen)), by, capture, schedule, judged, notes)


def _origins(cells: Sequence[Path], experiment: Experiment) -> tuple[CaptureConfig, list[str]]:
    """How the probes' arrays were captured, and what is sampled in another way now."""
    found = {cell: trained for cell in cells if (trained := trained_with(cell)) is not None}
    for cell, trained in found.items():
        check_origin(cell, trained, experiment)
    captures = [trained.capture for trained in found.values()] or [experiment.capture]
    return captures[0], notes_of(list(found), list(found.values()), experiment)
