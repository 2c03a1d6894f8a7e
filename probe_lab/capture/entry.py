"""Enter a pipeline call in the middle: at a later step of its schedule, from pictures that are noised as there."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from typing import Any

import torch
from diffusers import DiffusionPipeline
from torch import Tensor

from probe_lab.backbones.families import family_of
from probe_lab.backbones.schedulers import begin_at, noised
from probe_lab.capture.listen import around_method
from probe_lab.errors import CaptureError


@contextmanager
def entered_at(pipe: DiffusionPipeline, step: int, clean: Tensor, noise: Tensor) -> Iterator[Entry]:
    """A call of ``pipe`` inside begins with step ``step`` (1-based) of its schedule, which a ``Capture`` counts as 1.

    Its latents are ``clean``, as the scheduler has clean latents, [n, C, h, w], one for each image of the call, with
    the ``noise`` of that step by the scheduler's own method; everything else is the pipeline's.

    Raises (the call inside):
        CaptureError: the schedule has no such step, or the denoiser is given latents of another shape.
    """
    entry = Entry(pipe, step, clean, noise)
    with ExitStack() as stack:
        stack.callback(around_method(pipe.scheduler, "set_timesteps", entry.set_timesteps))
        stack.callback(around_method(pipe, "prepare_latents", entry.prepare_latents))
        yield entry


class Entry:
    """What becomes of a call that is entered. ``sample``: its latents [n, C, h, w] in their number format, once the
    call has both its schedule and its latents, which come in either order."""

    def __init__(self, pipe: DiffusionPipeline, step: int, clean: Tensor, noise: Tensor) -> None:
        self.sample: Tensor | None = None
        self._pipe, self._step, self._clean, self._noise = pipe, step, clean, noise
        self._latents: Tensor | None = None
        self._is_begun = False

    def set_timesteps(self, original: Callable[..., Any], *args: Any, **kwargs: Any) -> Any:
        result = original(*args, **kwargs)
        begin_at(self._pipe.scheduler, self._step)
        self._is_begun = True
        self._place()
        return result

    def prepare_latents(self, original: Callable[..., Any], *args: Any, **kwargs: Any) -> Any:
        result = original(*args, **kwargs)
        self._latents = result[0] if isinstance(result, tuple) else result  # FLUX gives the positions of tokens too
        self._place()
        return result

    @torch.no_grad()
    def _place(self) -> None:
        if self._latents is None or not self._is_begun:
            return
        sample = noised(self._pipe.scheduler, self._clean, self._noise).to(self._latents)
        packed = family_of(self._pipe).pack(sample)
        if packed.shape != self._latents.shape:
            raise CaptureError(
                f"a {type(self._pipe).__name__} draws from latents of {tuple(self._latents.shape)}, and pictures make "
                f"{tuple(packed.shape)}: give pictures of the size that it draws"
            )
        self._latents.copy_(packed)
        self.sample = sample
