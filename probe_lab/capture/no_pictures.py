"""Images of a pipeline call that are no pictures of their prompts: what a safety checker blacked out, and decodes that
are not finite."""

from __future__ import annotations

import threading
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from diffusers import DiffusionPipeline
from torch import Tensor

from probe_lab.cache.faults import Fault
from probe_lab.capture.listen import around_method


class DecodeWatch:
    """Notes of every row that the autoencoder decodes in this thread whether its pixels are finite.

    Without it they would not be told from black ones: a NaN becomes 0 in eight bits. What another thread decodes with a
    shared autoencoder is not of this call.
    """

    def __init__(self) -> None:
        self._thread = threading.get_ident()
        self._finite: list[Tensor] = []
        self._shape = torch.Size()

    def decode(self, decode: Any, latents: Tensor, *args: Any, **kwargs: Any) -> Any:
        """Stands in for the autoencoder's own."""
        pixels = decode(latents, *args, **kwargs)
        if threading.get_ident() != self._thread:
            return pixels
        self._finite.append(finite_rows(pixels[0]))
        self._shape = pixels[0].shape[1:]
        return pixels

    def faults(self, output: Any) -> dict[int, Fault]:
        """Fault by row of the images in a pipeline's ``output``, where there is one. Latents are images too.

        Told from the numbers and from the checker's verdict, never from how dark a picture is.
        """
        images = output[0]
        found: dict[int, Fault] = {row: "flagged" for row, blacked in enumerate(_flagged(output)) if blacked}
        # The last rows: what is decoded earlier in a call are previews.
        finite = torch.cat([torch.ones(len(images), dtype=torch.bool, device="cpu"), *self._finite])[-len(images) :]
        if isinstance(images, Tensor) and images.shape[1:] != self._shape:  # latents, which nobody decoded
            finite = finite_rows(images)
        return found | {row: "not_finite" for row, fine in enumerate(finite.tolist()) if not fine}


@contextmanager
def decodes_watched(pipe: DiffusionPipeline) -> Iterator[DecodeWatch]:
    """For one call of ``pipe`` inside."""
    watch = DecodeWatch()
    undo = around_method(pipe.vae, "decode", watch.decode)
    try:
        yield watch
    finally:
        undo()


def finite_rows(values: Tensor) -> Tensor:
    """Which rows of ``values`` [n, …] hold no NaN and no infinity: bool [n] on the CPU."""
    return torch.isfinite(values).flatten(1).all(1).cpu()


def _flagged(output: Any) -> Sequence[object]:
    """A verdict per image; empty where no checker ran. Pipelines with a checker give it behind the images."""
    verdicts = output[1] if isinstance(output, tuple) and len(output) > 1 else None
    if isinstance(output, Mapping):
        verdicts = output.get("nsfw_content_detected")
    return [] if verdicts is None else list(verdicts)
