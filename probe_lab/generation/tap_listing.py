"""Every tap of a backbone, with what it weighs: what ``probe-lab taps`` prints."""

from __future__ import annotations

import math
from dataclasses import dataclass

from diffusers import DiffusionPipeline
from rich.table import Table

from probe_lab.backbones.architectures import Weightless, absent
from probe_lab.backbones.families import family_of, located
from probe_lab.backbones.pipelines import load_pipeline
from probe_lab.capture.capture import Capture
from probe_lab.config import Experiment
from probe_lab.generation.dry_plan import shapes_of
from probe_lab.generation.measured_plan import ELEMENT_BYTES
from probe_lab.generation.prompts import sample_table
from probe_lab.generation.sampling import stopped_after
from probe_lab.taps import Tap
from probe_lab.terminal_tables import TapLines


@dataclass(frozen=True)
class ListedTap:
    """A tap, its shape per image, the bytes of that in the cache, and whether the papers read it."""

    tap: Tap
    shape: tuple[int, ...]
    bytes: int
    in_paper: bool


def list_taps(experiment: Experiment) -> list[ListedTap]:
    """All taps of the experiment's backbone, measured on the first step of one image; of a published model without its
    weights, computed from its architecture.

    Raises:
        CaptureError: the backbone is not here and not published, or cannot be loaded.
    """
    architecture = absent(experiment.backbone)
    if architecture is None:
        pipe = load_pipeline(experiment.backbone, experiment.sampling)
        family, shapes = family_of(pipe), _measured(pipe, experiment)
    else:
        family, _ = located(experiment.backbone)
        model = Weightless(architecture, family)
        pipe = model.pipe
        shapes = shapes_of(model, experiment, family.taps(pipe))
    paper = {str(tap) for tap in family.paper_taps(pipe)}
    element = ELEMENT_BYTES[experiment.cache.dtype]
    return [ListedTap(Tap.parse(tap), shape, math.prod(shape) * element, tap in paper) for tap, shape in shapes.items()]


def _measured(pipe: DiffusionPipeline, experiment: Experiment) -> dict[str, tuple[int, ...]]:
    """[C, H, W] by tap."""
    family, wanted = family_of(pipe), experiment.capture
    prompt = sample_table(experiment)["prompt"].iloc[0]
    with (
        Capture(pipe, family.taps(pipe), [1], tokens=wanted.tokens, size=wanted.size) as capture,
        stopped_after(pipe, 1),
    ):
        pipe(**family.call_options(experiment.sampling, [prompt]))
    shapes = {tap: tuple(tensor.shape[1:]) for (_, tap), tensor in capture.items()}
    return {str(tap): shapes[tap] for tap in capture.taps}


def computed_note(experiment: Experiment) -> str:
    """That shapes were computed, where they were; empty where they were measured."""
    if absent(experiment.backbone) is None:
        return ""
    return "Computed from the published architecture, not measured: the weights are not on this machine."


def taps_table(listed: list[ListedTap], title: str, note: str = "") -> Table:
    """A line per tap, in the order of the denoiser's modules; kB are of one image and step."""
    table = Table(title=title, title_justify="left", caption=note or None, caption_justify="left")
    table.add_column("tap", overflow="fold")
    for column in ("shape", "kB", "paper"):
        table.add_column(column, justify="right", no_wrap=True)
    for entry in listed:
        shape = "×".join(map(str, entry.shape))
        table.add_row(TapLines(str(entry.tap)), shape, f"{entry.bytes / 1e3:,.1f}", "yes" if entry.in_paper else "")
    return table
