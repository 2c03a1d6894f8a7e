"""Which trained cells a selection asks: those that are named, or the best one; and their like at other steps."""

from __future__ import annotations

import math
from collections.abc import Hashable, Mapping, Sequence
from pathlib import Path

from probe_lab.capture.text_embeddings import ENCODER
from probe_lab.config import CaptureConfig, Experiment, load_experiment
from probe_lab.errors import SelectError, nearest
from probe_lab.probes import load_probe
from probe_lab.probes.kinds import recorded
from probe_lab.probes.shipped import SHIPPED, shipped_probe
from probe_lab.runs import CONFIG, DESCRIPTION, FinishedCell, Measure, Runs, is_finished
from probe_lab.runs.configs import differing
from probe_lab.runs.files import require_file

CHOSEN_BY = "selection_gain"
CellsByStep = Mapping[int, Sequence[FinishedCell]]
"""Step -> cells: they differ in nothing but their step, or in what changes no result."""


def named_cell(experiment: Experiment, wanted: str) -> Path:
    """The folder of a trained probe: ``wanted`` is "shipped", that folder, or the part of a name that only one cell of
    the experiment has.

    Raises:
        SelectError: several cells have it, or the one that has it keeps no probe.
        ReportError: no cell has it.
        ProbeError: none is shipped for the backbone.
    """
    runs_folder = experiment.runs_folder
    if wanted == SHIPPED:
        return shipped_probe(experiment.backbone.label)
    if (Path(wanted) / DESCRIPTION).is_file():
        return Path(wanted)
    folders = Runs(runs_folder).called(wanted)
    if len(folders) > 1:
        raise SelectError(
            f"'{wanted}' names {len(folders)} cells in {runs_folder}, {folders[0].name} and {folders[1].name} among "
            "them: name more of one, such as the digits at its end"
        )
    if not (folders[0] / DESCRIPTION).is_file():
        raise SelectError(
            f"{folders[0].name} keeps no probe, its model needs none: name a cell that does, a cnn for instance"
        )
    return folders[0]


def best_cell(experiment: Experiment, evaluator: str, *, previews: bool = True) -> Path:
    """The probe at ``probe.step`` whose selection gain of ``evaluator`` is the highest on the validation split; without
    ``previews`` of those that read none.

    With ``select.schedule``, of those that were also trained at all of its steps; with ``select.budget``, of those that
    were also trained at other steps, where there are any.

    Raises:
        SelectError: there is none of this backbone, or none that predicts the evaluator.
        ReportError: no cell is finished.
    """
    folder, step = experiment.runs_folder, experiment.probe.step
    cells = [cell for cell in _with_probe(folder) if not recorded(cell.model).is_baseline and _has_text(cell)]
    cells = [cell for cell in cells if previews or not cell.config.get("probe.scalars")]
    found = [cell for cell in cells if _backbone(cell) == experiment.backbone.label]
    if not found:
        raise SelectError(
            f"no probe in {folder} was trained on {experiment.backbone.label}: "
            f"run `probe-lab sweep {experiment.name}`, or name a cell with --probe"
        )
    groups = _groups(found)
    here = [(cell, group) for group in groups for cell in group.get(step, ())]
    if not here:
        raise SelectError(f"no probe in {folder} was trained at probe.step={step}: set it to one of {_steps(groups)}")
    suited = [cell for cell, group in here if _suits(group, experiment)] or (
        [cell for cell, _ in here] if experiment.select.budget else []
    )
    if not suited:
        wanted = ", ".join(str(cut.get("step")) for cut in experiment.select.schedule)
        raise SelectError(
            f"no probe in {folder} was trained at step {step} and at all steps of the schedule ({wanted}): there are "
            f"some at {_steps([group for _, group in here])}"
        )
    measure = Measure("val", evaluator, CHOSEN_BY)
    gains = {cell.folder: cell.number(measure, "estimate") for cell in suited}
    ranked = {folder: gain for folder, gain in gains.items() if not math.isnan(gain)}
    if not ranked:
        known = dict.fromkeys(name for cell in suited for name in cell.evaluators)
        raise SelectError(
            f"no probe in {folder} at step {step} was validated by the selection gain of '{evaluator}': "
            f"{nearest(evaluator, known)}; or name a cell with --probe"
        )
    return max(ranked, key=lambda folder: ranked[folder])


def _suits(group: CellsByStep, experiment: Experiment) -> bool:
    if experiment.select.budget:
        return len(group) > 1
    return {cut.get("step") for cut in experiment.select.schedule} <= set(group)


def at_other_steps(cell: Path) -> dict[int, Path]:
    """Step -> cell, of the finished cells beside this one that differ from it in nothing but the step, itself among
    them."""
    if not is_finished(cell):  # a probe alone
        return {load_probe(cell).spec.step: cell}
    groups = _groups(_with_probe(cell.parent))
    own = next(group for group in groups if any(cell.name == one.name for cells in group.values() for one in cells))
    return {
        step: next((one.folder for one in cells if one.name == cell.name), cells[0].folder)
        for step, cells in own.items()
    }


def _with_probe(folder: Path) -> list[FinishedCell]:
    """The finished cells that keep a probe."""
    return [cell for cell in Runs(folder).cells() if cell.keeps_probe]


def _groups(cells: Sequence[FinishedCell]) -> list[CellsByStep]:
    """Cells that differ in nothing but their step, by their step."""
    keys = differing([cell.config for cell in cells])
    found: dict[tuple[Hashable, ...], dict[int, list[FinishedCell]]] = {}
    for cell in cells:
        stated = [cell.model, cell.taps, cell.content["loss"], cell.seed]
        group = found.setdefault((*stated, *(cell.config.get(key) for key in keys), cell.evaluators), {})
        group.setdefault(cell.step, []).append(cell)
    return [dict(sorted(group.items())) for group in found.values()]


def _steps(groups: Sequence[CellsByStep]) -> str:
    return ", ".join(map(str, sorted({step for group in groups for step in group})))


def _has_text(cell: FinishedCell) -> bool:
    """Whether a selection can give it the text that it reads: the backbone's own."""
    return cell.config.get("probe.text") == "none" or cell.config.get("text.encoder", ENCODER) == ENCODER


def _backbone(cell: FinishedCell) -> str:
    name, family, path = (cell.config.get(f"backbone.{key}") for key in ("name", "family", "path"))
    return str(name or f"{family}:{path}")


def trained_with(cell: Path) -> Experiment | None:
    """The experiment of a cell; None where there is a probe alone. ReportError when it is another cell's."""
    require_file(cell, CONFIG)
    return load_experiment(cell / CONFIG, stored=True) if (cell / CONFIG).is_file() else None


def check_origin(cell: Path, trained: Experiment, experiment: Experiment) -> None:
    """SelectError for a probe of another backbone or resolution than the experiment's."""
    if trained.backbone.label != experiment.backbone.label:
        raise SelectError(
            f"the probe {cell.name} was trained on {trained.backbone.label} and the backbone is "
            f"{experiment.backbone.label}: name a cell that was trained on it, or set backbone"
        )
    one, other = trained.sampling, experiment.sampling
    if (one.height, one.width) != (other.height, other.width):
        raise SelectError(
            f"the probe {cell.name} was trained on images of {one.height}×{one.width} and sampling asks for "
            f"{other.height}×{other.width}: set sampling.height and sampling.width, or train a probe at this resolution"
        )


def check_capture(cell: Path, capture: CaptureConfig, other: CaptureConfig, whose: str) -> None:
    """SelectError where two captures give a probe other maps of the same call; ``whose`` is the other one."""
    for key in ("normalize", "tokens", "size"):
        own, theirs = getattr(capture, key), getattr(other, key)
        if own != theirs:
            raise SelectError(
                f"the probe {cell.name} was trained with capture.{key}={own} and {whose} has {theirs}: its maps would "
                f"be others, so set capture.{key} as it was, or name another cell"
            )


def check_split(cell: Path, trained: Experiment, experiment: Experiment) -> None:
    """SelectError where prompts that the probe was trained on may be in the experiment's test split."""
    if trained.data.split != experiment.data.split:
        raise SelectError(
            f"the probe {cell.name} was trained with the split {trained.data.split} and the experiment has "
            f"{experiment.data.split}: it would be tested on prompts that it was trained on, so set data.split as it "
            "was"
        )


def notes_of(cells: Sequence[Path], experiments: Sequence[Experiment], experiment: Experiment) -> list[str]:
    """What else is sampled in another way than a probe was trained with: its scores may be off, but they are scores."""
    notes = []
    for cell, trained in zip(cells, experiments, strict=True):
        changed = [
            f"{key} {getattr(trained.sampling, key)}, now {getattr(experiment.sampling, key)}"
            for key in ("scheduler", "guidance", "dtype", "max_sequence_length")
            if getattr(trained.sampling, key) != getattr(experiment.sampling, key)
        ]
        if changed:
            notes.append(f"{cell.name} was trained with another sampling ({'; '.join(changed)}): its scores may be off")
    return notes
