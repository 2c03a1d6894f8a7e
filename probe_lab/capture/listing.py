"""Every tap of a backbone, with what it weighs: what ``probe-lab taps`` prints."""

from __future__ import annotations

import math
from dataclasses import dataclass

from rich.table import Table

from probe_lab.capture.backbones import family_of
from probe_lab.capture.capture import Capture
from probe_lab.capture.pipelines import load_pipeline
from probe_lab.capture.plan import ELEMENT_BYTES
from probe_lab.capture.prompts import sample_table
from probe_lab.capture.sampling import stopped_after
from probe_lab.capture.taps import Tap
from probe_lab.config import Experiment


@dataclass(frozen=True)
class Listed:
    """A tap, its shape per image, the bytes of that in the cache, and whether the papers read it."""

    tap: Tap
    shape: tuple[int, ...]
    bytes: int
    in_paper: bool


def list_taps(experiment: Experiment) -> list[Listed]:
    """All taps of the experiment's backbone, measured on the first step of one image.

    Raises:
        CaptureError: the backbone cannot be loaded.
    """
    pipe = load_pipeline(experiment.backbone, experiment.sampling)
    family = family_of(pipe)
    wanted = experiment.capture
    prompt = sample_table(experiment)["prompt"].iloc[0]
    with (
        Capture(pipe, family.taps(pipe), [1], tokens=wanted.tokens, size=wanted.size) as capture,
        stopped_after(pipe, 1),
    ):
        pipe(**family.call_options(experiment.sampling, [prompt]))
    paper = family.paper_taps(pipe)
    element = ELEMENT_BYTES[experiment.cache.dtype]
    shapes = {tap: tuple(tensor.shape[1:]) for (_, tap), tensor in capture.items()}
    return [Listed(tap, shapes[tap], math.prod(shapes[tap]) * element, tap in paper) for tap in capture.taps]


def taps_table(listed: list[Listed], title: str) -> Table:
    """A line per tap, in the order of the denoiser's modules; kB are of one image and step."""
    table = Table(title=title, title_justify="left")
    table.add_column("tap", overflow="fold")
    for column in ("shape", "kB", "paper"):
        table.add_column(column, justify="right", no_wrap=True)
    for entry in listed:
        shape = "×".join(map(str, entry.shape))
        table.add_row(str(entry.tap), shape, f"{entry.bytes / 1e3:,.1f}", "yes" if entry.in_paper else "")
    return table
