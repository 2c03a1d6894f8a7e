"""What a selection is made with: the probes to ask, the schedule, and by what the candidates are ranked."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from probe_lab.config import CaptureConfig, Experiment
from probe_lab.data.scalars import LATENTS
from probe_lab.errors import SelectError
from probe_lab.json_text import read_json
from probe_lab.probes import Probe, load_probe, preview_probe
from probe_lab.runs.files import DESCRIPTION
from probe_lab.selection.budget import Judged
from probe_lab.selection.budget_schedule import plan_for
from probe_lab.selection.ranking import By, check_by
from probe_lab.selection.schedule import step_in
from probe_lab.selection.short_forms import read_by
from probe_lab.selection.trained_cells import (
    at_other_steps,
    best_cell,
    check_capture,
    check_origin,
    named_cell,
    notes_of,
    trained_with,
)


@dataclass(frozen=True)
class Asked:
    """A probe that a selection asks, and the folder of its cell; None for a preview, which nobody trained."""

    probe: Probe
    cell: Path | None = None

    @classmethod
    def of(cls, cell: Path) -> Asked:
        return cls(load_probe(cell), cell)

    @property
    def name(self) -> str:
        return self.cell.name if self.cell else "+".join(self.probe.spec.scalars)

    @property
    def given(self) -> Probe | Path:
        """As ``ProbeSelect`` takes it."""
        return self.cell or self.probe

    @property
    def described(self) -> dict[str, Any]:
        """For the record."""
        spec = self.probe.spec
        place = {"cell": self.name, "folder": str(self.cell or ""), "step": spec.step, "of": spec.total_steps}
        found = {**place, "evaluators": list(spec.evaluators), "taps": list(spec.taps), "scalars": list(spec.scalars)}
        found["unscaled"] = list(self.probe.unscaled)
        if self.cell is None:
            return found
        content = read_json((self.cell / DESCRIPTION).read_bytes())
        return found | {key: content[key] for key in ("weights_sha256", "code_version")}


@dataclass(frozen=True)
class Setup:
    """``asked`` are the probes, ``capture`` says how their caches were read.

    ``schedule`` is None for one cut where the probe was trained; ``judged`` says how a budget found it.
    """

    asked: tuple[Asked, ...]
    by: By
    capture: CaptureConfig
    schedule: Sequence[Mapping[str, int]] | None = None
    judged: Judged | None = None
    notes: Sequence[str] = field(default_factory=list)

    @property
    def steps(self) -> list[int]:
        """After which candidates are chosen."""
        cuts = self.schedule or [{"step": self.asked[0].probe.spec.step}]
        return sorted({cut["step"] for cut in cuts})

    @property
    def shown(self) -> list[str]:
        """The evaluators that decide."""
        if self.by == "pareto":
            return list(self.asked[0].probe.spec.evaluators)
        return [self.by] if isinstance(self.by, str) else list(self.by)

    @property
    def unscaled(self) -> frozenset[str]:
        """Evaluators of which a probe knows the order alone."""
        return frozenset(name for each in self.asked for name in each.probe.unscaled)

    @property
    def described(self) -> dict[str, Any]:
        """For the record."""
        judged = None
        if self.judged is not None:
            judged = {"calls_per_prompt": self.judged.calls, "validation_score": self.judged.score}
        schedule = None if self.schedule is None else [dict(cut) for cut in self.schedule]
        return {
            "probes": [each.described for each in self.asked],
            "by": self.by if isinstance(self.by, str) else dict(self.by),
            "schedule": schedule,
            "planned": judged,
            "notes": list(self.notes),
        }


def setup_of(experiment: Experiment, wanted: Sequence[str]) -> Setup:
    """The setup of ``experiment.select`` with the cells that ``wanted`` names, or the best one. A name may also be
    "shipped", or a preview, ``preview:<evaluator>`` or ``lookahead:<evaluator>``, at ``probe.step``.

    Raises:
        SelectError: no such cell, one of another backbone or resolution, an evaluator that it does not predict, or a
            schedule or budget that there are no probes for.
        ReportError: no cell is finished.
    """
    select = experiment.select
    by = read_by(select.by)
    first = by if isinstance(by, str) and by != "pareto" else experiment.probe_evaluators[0]
    asked = [_named(experiment, name) for name in wanted] or [Asked.of(best_cell(experiment, first))]
    by = by or asked[0].probe.spec.evaluators[0]
    for each in asked:
        check_by(by, each.probe)
    several = bool(select.schedule or select.budget)
    if len(asked) > 1 and not several:
        raise SelectError(f"there are {len(asked)} probes and one cut: give a --schedule or a --budget, or one probe")
    there = asked
    if several and len(asked) == 1:
        there = _at_other_steps(experiment, asked[0])
    schedule: Sequence[Mapping[str, int]] | None = select.schedule or None
    judged = None
    if select.budget:
        judged = _planned(experiment, there, by)
        schedule = judged.schedule
    cuts, steps = {cut["step"] for cut in schedule or ()}, experiment.sampling.steps
    used = [each for each in there if schedule is None or step_in(each.probe.spec, steps) in cuts]
    chosen = tuple(used or asked)  # a schedule without any probe is refused where it is read
    capture, notes = _origins([each.cell for each in chosen if each.cell], experiment)
    return Setup(chosen, by, capture, schedule, judged, notes)


def _named(experiment: Experiment, name: str) -> Asked:
    if name.partition(":")[0] not in LATENTS:
        return Asked.of(named_cell(experiment, name))
    return _preview(experiment, (name,), experiment.probe.step)


def _preview(experiment: Experiment, scalars: tuple[str, ...], step: int) -> Asked:
    label, steps = experiment.backbone.label, experiment.sampling.steps
    return Asked(preview_probe(*scalars, step=step, total_steps=steps, backbone=label))


def _at_other_steps(experiment: Experiment, asked: Asked) -> list[Asked]:
    """The same probe at every step where there is one; a preview is there at every cut."""
    if asked.cell is not None:
        return [Asked.of(cell) for _, cell in sorted(at_other_steps(asked.cell).items())]
    steps = sorted({cut["step"] for cut in experiment.select.schedule})
    return [_preview(experiment, asked.probe.spec.scalars, step) for step in steps] or [asked]


def _planned(experiment: Experiment, there: Sequence[Asked], by: By) -> Judged:
    select, steps = experiment.select, experiment.sampling.steps
    at = [(step_in(each.probe.spec, steps), each.cell) for each in there]
    cells = {step: cell for step, cell in at if step and cell is not None}
    if any(step and cell is None for step, cell in at):
        raise SelectError(
            f"budget={select.budget} is planned from what trained cells predicted of their validation prompts, and "
            "a preview is none: give a --schedule"
        )
    if len(cells) < sum(bool(step) for step, _ in at):
        raise SelectError(
            f"budget={select.budget} is planned with one probe for each step, and two of these read the same step: "
            "name one of them, or give a --schedule"
        )
    return plan_for(
        cells,
        by,
        candidates=select.candidates,
        keep=select.keep,
        steps=steps,
        budget=select.budget,
    )


def _origins(cells: Sequence[Path], experiment: Experiment) -> tuple[CaptureConfig, list[str]]:
    """How the probes' arrays were captured, and what is sampled in another way now."""
    found = {cell: trained for cell in cells if (trained := trained_with(cell)) is not None}
    for cell, trained in found.items():
        check_origin(cell, trained, experiment)
    captures = [trained.capture for trained in found.values()] or [experiment.capture]
    for cell, capture in zip(found, captures, strict=False):
        check_capture(cell, capture, captures[0], f"the probe {next(iter(found)).name}")
    return captures[0], notes_of(list(found), list(found.values()), experiment)
