"""Images, or only tensors, of (prompt, seed) samples from a stock pipeline."""

from __future__ import annotations

import contextlib
import io
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import pandas as pd
import torch
from diffusers import DiffusionPipeline
from PIL import Image

from probe_lab.backbones.families import family_of
from probe_lab.cache.faults import Fault
from probe_lab.capture.call import PipelineCall
from probe_lab.capture.listen import after_method
from probe_lab.capture.no_pictures import decodes_watched
from probe_lab.config import Sampling

ROWS = 16
"""On the CPU, a batch is filled up to a multiple of this many rows.

For few rows the CPU's matrix kernels are others, which round differently. From 16 rows on, a row's result no longer
depends on how many there are, so that an image is the same, to the bit, whatever the batch size. GPU kernels make no
such promise, and their memory is short: there a batch stays as it is.
"""


def sample_images(sampling: Sampling, pipe: DiffusionPipeline, samples: pd.DataFrame) -> list[Image.Image]:
    """The images of some samples; each has its own generator, so it does not depend on the others in the batch.

    A ``Capture`` around the pipeline sees ``len(samples)`` rows, on the CPU rounded up to a multiple of ``ROWS``.
    """
    return [drawn.image for drawn in sample_pictures(sampling, pipe, samples)]


@dataclass(frozen=True)
class SampledImage:
    """An image of a pipeline, and why it is no picture of its prompt, where it is none."""

    image: Image.Image
    fault: Fault | None = None


def sample_pictures(sampling: Sampling, pipe: DiffusionPipeline, samples: pd.DataFrame) -> list[SampledImage]:
    """``sample_images`` with what is wrong with some of them."""
    with decodes_watched(pipe) as decodes:
        output = pipe(**_arguments(sampling, pipe, samples))
    faults = decodes.faults(output)
    return [SampledImage(image, faults.get(row)) for row, image in enumerate(output.images[: len(samples)])]


def sample_tensors(sampling: Sampling, pipe: DiffusionPipeline, samples: pd.DataFrame, last: int) -> None:
    """Run as ``sample_images`` does, but only to step ``last`` (1-based): all that a ``Capture`` around it needs."""
    with stopped_after(pipe, last):
        pipe(**_arguments(sampling, pipe, samples))


def png(image: Image.Image) -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, format="PNG")
    return buffer.getvalue()


def rows_of_call(sampling: Sampling, count: int) -> int:
    """Rows of a pipeline call for so many samples."""
    return count + (-count % ROWS if sampling.on_cpu else 0)


def filled(sampling: Sampling, samples: pd.DataFrame) -> pd.DataFrame:
    """The samples, on the CPU followed by copies of the last one up to a multiple of ``ROWS``."""
    missing = rows_of_call(sampling, len(samples)) - len(samples)
    return samples.iloc[[*range(len(samples)), *[-1] * missing]]


def _arguments(sampling: Sampling, pipe: DiffusionPipeline, samples: pd.DataFrame) -> dict[str, object]:
    rows = filled(sampling, samples)
    # Noise is drawn on the CPU whatever the device: the same seed gives the same image everywhere.
    generators = [torch.Generator().manual_seed(seed) for seed in rows["seed"].tolist()]
    options = family_of(pipe).call_options(sampling, rows["prompt"].tolist())
    return {**options, "generator": generators}


class _Stop(Exception):
    """Leaves a pipeline call in the middle: not every pipeline can be told to end early."""


@contextlib.contextmanager
def stopped_after(pipe: DiffusionPipeline, last: int) -> Iterator[None]:
    """The pipeline call inside ends when its scheduler has made ``last`` steps."""
    call = PipelineCall(pipe, family_of(pipe))

    def stop(*args: Any, **kwargs: Any) -> None:
        if call.is_own and call.step == last:
            raise _Stop

    with contextlib.ExitStack() as stack:
        # What the end of the call would have done: the models of an offload go back.
        stack.callback(pipe.maybe_free_model_hooks)
        call.watch(stack)
        # A capture has kept what it wants of the step by then.
        stack.callback(after_method(pipe.scheduler, "step", stop))
        stack.enter_context(contextlib.suppress(_Stop))
        yield
