"""What a generation will take, measured on one batch before it starts."""

from __future__ import annotations

import math
import os
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import pandas as pd
from diffusers import DiffusionPipeline
from rich.table import Table

from probe_lab.backbones.truncation import token_limits, truncation_note
from probe_lab.cache import require_space
from probe_lab.cache.faults import faults_remedy, faults_text
from probe_lab.capture.text_embeddings import encode_prompts
from probe_lab.config import Experiment, Sampling
from probe_lab.errors import CaptureError
from probe_lab.generation.fill import Drawn, Png, capture_of, draw, ids_of
from probe_lab.generation.sampling import ROWS, rows_of_call, sample_tensors
from probe_lab.terminal_tables import TapLines

ELEMENT_BYTES = {"float16": 2, "bfloat16": 2, "float32": 4}


@dataclass(frozen=True)
class Plan:
    """Images, bytes and seconds of a generation.

    ``shapes`` maps a tap to its [C, H, W] per image; ``image_bytes`` is 0 where no images are kept; ``text_bytes`` are
    of all prompts. ``seconds`` pass on the clock while ``units`` of ``hardware`` (cores, or cards) work side by side.
    ``note`` is what a reader should know besides.
    """

    images: int
    steps: tuple[int, ...]
    shapes: dict[str, tuple[int, ...]]
    element_bytes: int
    image_bytes: int
    seconds: float
    units: int = 1
    hardware: Literal["CPU", "GPU"] = "CPU"
    text_bytes: int = 0
    note: str = ""

    def tap_bytes(self, tap: str) -> int:
        """Bytes of one (step, tap) over all images."""
        return math.prod(self.shapes[tap]) * self.element_bytes * self.images

    @property
    def total_bytes(self) -> int:
        """Bytes of the whole cache, images and text included."""
        tensors = len(self.steps) * sum(map(self.tap_bytes, self.shapes))
        return tensors + self.image_bytes * self.images + self.text_bytes

    @property
    def hours(self) -> float:
        """Core-hours or card-hours, whatever runs side by side."""
        return self.seconds * self.units / 3600

    def require_space(self, folder: Path, share: float = 1.0) -> None:
        """Raise ``CacheError`` when the disk below ``folder`` cannot hold this share of the plan."""
        require_space(folder, int(self.total_bytes * share))


def make_plan(
    experiment: Experiment, pipe: DiffusionPipeline, samples: pd.DataFrame, workers: int, shard: int | None = None
) -> tuple[Plan, Drawn]:
    """Draw one batch: shapes are read off, the time is scaled up to all images over ``workers`` processes.

    It is the first batch of ``shard``, and comes with the plan to be stored; without a shard, as few samples as tell
    the time, and nothing comes with it.

    Raises:
        CaptureError: a tap or a step that the backbone or the schedule lacks, or settings that the pipeline refuses.
    """
    if not experiment.capture.taps:
        raise CaptureError("'capture.taps' is empty: name at least one, x0 for instance")
    sampling = experiment.sampling
    if shard is not None:
        batch = samples[samples["shard"] == shard].iloc[: sampling.batch_size]
    else:  # on the CPU, time goes with the rows: few tell it as well. A GPU's goes with the batches
        batch = samples.iloc[: min(sampling.batch_size, ROWS) if sampling.on_cpu else sampling.batch_size]
    with capture_of(experiment, pipe) as capture, _refusals_told(pipe):
        sample_tensors(sampling, pipe, batch.iloc[:1], last=1)  # first calls allocate and choose kernels
        began = time.perf_counter()
        drawn = draw(experiment, pipe, capture, batch)
        seconds = time.perf_counter() - began
    prompts = samples.drop_duplicates("prompt_id")["prompt"].tolist()
    plan = Plan(
        images=len(samples),
        steps=tuple(sorted(set(experiment.capture.steps))),
        shapes={str(tap): tuple(tensor.shape[1:]) for (_, tap), tensor in drawn.captured.items()},
        element_bytes=ELEMENT_BYTES[experiment.cache.dtype],
        image_bytes=max((len(image.data) for image in drawn.images), default=0),
        seconds=seconds / rows_of_call(sampling, len(batch)) * rows_of_calls(sampling, samples) / workers,
        units=(os.cpu_count() or 1) if sampling.on_cpu else workers,
        hardware="CPU" if sampling.on_cpu else "GPU",
        text_bytes=len(prompts) * _text_bytes(experiment, pipe, prompts[0]),
        note="\n".join(filter(None, (truncation_note(token_limits(pipe, sampling), prompts), _faults(drawn.images)))),
    )
    return plan, {} if shard is None else {ids_of(batch): drawn}


def rows_of_calls(sampling: Sampling, samples: pd.DataFrame) -> int:
    """Rows of all pipeline calls for these samples: the last batch of a shard is a short one, and on the CPU each is
    filled up."""
    batches = samples.groupby("shard").cumcount() // sampling.batch_size
    counts = samples.groupby([samples["shard"], batches]).size()
    return sum(rows_of_call(sampling, count) for count in counts.tolist())


def _faults(drawn: Sequence[Png]) -> str:
    """A note on images of the batch that are no pictures. CaptureError where all are NaN: so will the rest be."""
    faults = [each.fault for each in drawn if each.fault is not None]
    if not faults:
        return ""
    if faults.count("not_finite") == len(drawn):
        raise CaptureError(
            f"all {len(drawn)} images that were drawn to plan this decode to NaN or infinity: "
            f"{faults_remedy(faults)}, or repair the autoencoder of the backbone"
        )
    return (
        f"{len(faults)} of {len(drawn)} images that were drawn to plan this are no pictures ({faults_text(faults)}): "
        f"{faults_remedy(faults)}"
    )


def _text_bytes(experiment: Experiment, pipe: DiffusionPipeline, prompt: str) -> int:
    text = encode_prompts(pipe, experiment.sampling, [prompt], length=experiment.capture.tokens)
    return sum(tensor.nbytes for tensor in text.values())


@contextmanager
def _refusals_told(pipe: DiffusionPipeline) -> Iterator[None]:
    """A pipeline says in a call what it does not take: raised as CaptureError."""
    try:
        yield
    except (ValueError, AssertionError) as error:
        reason = next(iter(str(error).strip().splitlines()), type(error).__name__)
        raise CaptureError(
            f"the {type(pipe).__name__} does not run with these sampling settings ({reason}): change the one it names"
        ) from error


def plan_table(plan: Plan) -> Table:
    """The plan as a terminal table: a line per tap, then images and the total."""
    steps = ", ".join(map(str, plan.steps))
    table = Table(title=f"{plan.images} images, tensors of steps {steps}", title_justify="left")
    table.add_column("tap", overflow="fold")
    for column in ("shape", "per (step, tap)", "all steps"):
        table.add_column(column, justify="right", no_wrap=True)
    for tap, shape in plan.shapes.items():
        size = plan.tap_bytes(tap)
        table.add_row(TapLines(tap), "×".join(map(str, shape)), size_text(size), size_text(size * len(plan.steps)))
    table.add_row("images (PNG)", "", "", size_text(plan.image_bytes * plan.images) if plan.image_bytes else "none")
    table.add_row("text embeddings", "", "", size_text(plan.text_bytes))
    table.add_section()
    table.add_row("total", "", "", size_text(plan.total_bytes))
    table.add_row("time, about", "", "", time_text(plan.seconds))
    table.add_row(f"{plan.hardware}-hours, about", "", "", f"{plan.hours:,.2f}")
    table.caption = plan.note or None
    table.caption_justify = "left"
    return table


def size_text(size: int) -> str:
    """A number of bytes."""
    return f"{size / 1e9:,.1f} GB" if size >= 1e10 else f"{size / 1e6:,.1f} MB"


def time_text(seconds: float) -> str:
    """A time that passes."""
    return f"{seconds / 3600:,.1f} h" if seconds >= 5 * 3600 else f"{seconds / 60:.1f} min"
