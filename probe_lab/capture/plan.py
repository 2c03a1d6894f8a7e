"""What a generation will take, measured on one small batch before it starts."""

from __future__ import annotations

import math
import time
from dataclasses import dataclass
from pathlib import Path

import pandas as pd
from diffusers import DiffusionPipeline
from rich.table import Table

from probe_lab.cache import require_space
from probe_lab.capture.capture import Capture
from probe_lab.capture.sampling import png, sample_images
from probe_lab.config import Experiment
from probe_lab.errors import CaptureError

ELEMENT_BYTES = {"float16": 2, "bfloat16": 2, "float32": 4}


@dataclass(frozen=True)
class Plan:
    """Images, bytes and seconds of a generation. ``shapes`` maps a tap to its [C, H, W] per image."""

    images: int
    steps: tuple[int, ...]
    shapes: dict[str, tuple[int, ...]]
    element_bytes: int
    image_bytes: int
    seconds: float

    def tap_bytes(self, tap: str) -> int:
        """Bytes of one (step, tap) over all images."""
        return math.prod(self.shapes[tap]) * self.element_bytes * self.images

    @property
    def total_bytes(self) -> int:
        """Bytes of the whole cache, images included."""
        return len(self.steps) * sum(map(self.tap_bytes, self.shapes)) + self.image_bytes * self.images

    def require_space(self, folder: Path, share: float = 1.0) -> None:
        """Raise ``CacheError`` when the disk below ``folder`` cannot hold this share of the plan."""
        require_space(folder, int(self.total_bytes * share))


def make_plan(experiment: Experiment, pipe: DiffusionPipeline, samples: pd.DataFrame, workers: int) -> Plan:
    """Run one small batch: shapes are read off, the time is scaled up to all images over ``workers`` processes.

    Raises:
        CaptureError: a tap or a step that the backbone or the schedule lacks.
    """
    if not experiment.capture.taps:
        raise CaptureError("'capture.taps' is empty: name at least one, x0 for instance")
    batch = samples.iloc[: experiment.sampling.batch_size]
    with Capture(pipe, experiment.capture.taps, experiment.capture.steps) as capture:
        sample_images(experiment.sampling, pipe, batch.iloc[:1])  # warm-up: first calls allocate and choose kernels
        began = time.perf_counter()
        drawn = sample_images(experiment.sampling, pipe, batch)
        seconds = time.perf_counter() - began
        shapes = {str(tap): tuple(tensor.shape[1:]) for (_, tap), tensor in capture.items()}
    silent = [tap for tap in experiment.capture.taps if tap not in shapes]
    if silent:
        raise CaptureError(f"the tap '{silent[0]}' was never reached: its module does not run in this pipeline")
    return Plan(
        images=len(samples),
        steps=tuple(sorted(set(experiment.capture.steps))),
        shapes=shapes,
        element_bytes=ELEMENT_BYTES[experiment.cache.dtype],
        image_bytes=max(len(png(image)) for image in drawn),
        seconds=seconds / len(batch) * len(samples) / workers,
    )


def plan_table(plan: Plan) -> Table:
    """The plan as a terminal table: a line per tap, then images and the total."""
    steps = ", ".join(map(str, plan.steps))
    table = Table(title=f"{plan.images} images, tensors of steps {steps}", title_justify="left")
    for column in ("tap", "shape", "per (step, tap)", "all steps"):
        table.add_column(column, justify="left" if column == "tap" else "right")
    for tap, shape in plan.shapes.items():
        size = plan.tap_bytes(tap)
        table.add_row(tap, "×".join(map(str, shape)), _megabytes(size), _megabytes(size * len(plan.steps)))
    table.add_row("images (PNG)", "", "", _megabytes(plan.image_bytes * plan.images))
    table.add_section()
    table.add_row("total", "", "", _megabytes(plan.total_bytes))
    table.add_row("time, about", "", "", f"{plan.seconds / 60:.1f} min")
    return table


def _megabytes(size: int) -> str:
    return f"{size / 1e6:,.1f} MB"
