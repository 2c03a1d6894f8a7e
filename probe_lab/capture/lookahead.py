"""Where a sample is going: the clean latent that the denoiser predicts after one large step.

The x₀ prediction of an early step is a blurred mean of what may come. One more denoiser call, from the noisy latent
that a single DDIM step to a later place of the schedule leads to, gives a far better picture, at the price of that
call; the half with the prompt is enough.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from probe_lab.backbones.schedulers import DiffusersScheduler, Moment, clipped, is_unscaled, moment_of, scales, x0_at
from probe_lab.backbones.token_grid import Arguments
from probe_lab.capture.batch_rows import batch_of, copied, input_of, taken


def step_ahead(step: int, steps: int) -> int:
    """The 1-based step that is looked at from ``step`` of ``steps``: half of the way to the last one."""
    return step + (steps - step + 1) // 2


class Lookahead:
    """Asks a denoiser once more, as the pipeline did in a step: ``arguments`` are those of its call with the prompt,
    for ``rows`` images.

    The denoiser's own hooks are passed by, so whoever counts or reads its calls does not see this one; the scheduler
    is only read. Nothing random is drawn.
    """

    def __init__(self, denoiser: nn.Module, scheduler: DiffusersScheduler, arguments: Arguments, rows: int) -> None:
        self._denoiser, self._scheduler = denoiser, scheduler
        self._arguments = copied(arguments)  # some denoisers write into the containers that they are given
        self._input = input_of(arguments)
        first = batch_of(arguments) - rows
        self._rows = torch.arange(first, first + rows, device="cpu")

    def __call__(
        self, model_output: Tensor, timestep: Tensor | float, sample: Tensor, kept: Tensor | None = None
    ) -> Tensor:
        """The clean latent that is predicted there, in the shape and dtype of ``sample``.

        The arguments are what the scheduler is given at the step, guidance included; at the last step there is nothing
        ahead, and it is the x₀ prediction itself. Must be called before the scheduler's own step. ``kept``, int64, are
        the rows of the denoiser's call that ``model_output`` and ``sample`` have; None: all.

        Raises:
            CaptureError: another scheduler or prediction type than ``predicted_x0`` knows.
        """
        here = moment_of(self._scheduler, timestep)
        clean = x0_at(self._scheduler, model_output, here, sample)
        index = step_ahead(here.index + 1, len(self._scheduler.timesteps)) - 1
        if index == here.index:
            return clipped(self._scheduler, clean)
        there = Moment(index, self._scheduler.timesteps[index])
        ahead = self._jump(sample, clean, here, there)
        return clipped(self._scheduler, x0_at(self._scheduler, self._ask(ahead, here, there, kept), there, ahead))

    def _jump(self, sample: Tensor, clean: Tensor, here: Moment, there: Moment) -> Tensor:
        """The DDIM step (η = 0): the same x₀, as the scheduler clips it, and ε, as much of each as there is later."""
        exact = sample.double()
        signal, noise = scales(self._scheduler, here, exact)
        epsilon = (exact - signal * clean.double()) / noise
        signal, noise = scales(self._scheduler, there, exact)
        return (signal * clipped(self._scheduler, clean).double() + noise * epsilon).to(sample.dtype)

    def _ask(self, ahead: Tensor, here: Moment, there: Moment, kept: Tensor | None) -> Tensor:
        """What the denoiser answers for the rows with the prompt, as the scheduler takes it."""
        arguments = taken(self._arguments, self._rows if kept is None else self._rows[kept])
        given = arguments[self._input]
        asked = ahead
        if is_unscaled(self._scheduler):
            asked = ahead / (scales(self._scheduler, there, ahead)[1] ** 2 + 1).sqrt()
        changed: dict[str, Any] = {
            self._input: asked.to(given.dtype),
            "timestep": _moved(arguments["timestep"], here, there),
        }
        output = self._denoiser.forward(**arguments | changed)
        answer: Tensor = output[0] if isinstance(output, tuple) else output.sample
        # A learned variance is behind the channels; other families' extra tokens are behind the image's.
        return answer[:, : ahead.shape[1]]


def _moved(given: Any, here: Moment, there: Moment) -> Any:
    """The timestep in the pipeline's own units: as the scheduler counts, or a share of that."""
    if isinstance(given, Tensor):
        return (given.double() / float(here.timestep) * float(there.timestep)).to(given.dtype)
    return type(given)(given / float(here.timestep) * float(there.timestep))
