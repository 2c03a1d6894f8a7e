"""The clean latent that a denoiser predicts at a step, from what the scheduler is given there."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol

import torch
from torch import Tensor

from probe_lab.errors import CaptureError


class Scheduler(Protocol):
    """What is read of a diffusers scheduler."""

    config: dict[str, object]
    timesteps: Tensor


@dataclass(frozen=True)
class Moment:
    """A place of the schedule: its 0-based index, and the timestep that the scheduler has there."""

    index: int
    timestep: Tensor | float | int


def moment_of(scheduler: Scheduler, timestep: Tensor | float | int) -> Moment:
    """The step that the scheduler is about to make. Must be asked before that moves its index on."""
    index = vars(scheduler).get("_step_index")
    if index is None:  # before the first step the scheduler has not looked it up
        index = int((scheduler.timesteps == torch.as_tensor(timestep).to(scheduler.timesteps)).nonzero()[0])
    return Moment(index, timestep)


def predicted_x0(scheduler: Scheduler, model_output: Tensor, timestep: Tensor | float | int, sample: Tensor) -> Tensor:
    """x₀ prediction, in the shape and dtype of ``sample``.

    Every scheduler that is known has ``sample = signal·x₀ + noise·ε``:

    - variance-preserving (DDIM, DDPM, LCM, PNDM; DPM-Solver, UniPC, DEIS on their σ): signal² + noise² = 1;
    - Euler-type, whose sample is not scaled: signal 1, noise σ;
    - flow matching: signal 1 − σ, noise σ, and the model predicts the velocity ε − x₀.

    The prediction types ``epsilon``, ``v_prediction``, ``sample`` and flow are known. Must be called before the
    scheduler's own step moves its index on.

    Raises:
        CaptureError: another scheduler or prediction type.
    """
    return x0_at(scheduler, model_output, moment_of(scheduler, timestep), sample)


def x0_at(scheduler: Scheduler, model_output: Tensor, moment: Moment, sample: Tensor) -> Tensor:
    """The same at any moment of the schedule, whatever the scheduler is about to do."""
    exact = torch.float64 if sample.dtype == torch.float64 else torch.float32
    clean = _clean(scheduler, model_output.to(exact), moment, sample.to(exact))
    return clean.to(sample.dtype)


def _clean(scheduler: Scheduler, model_output: Tensor, moment: Moment, sample: Tensor) -> Tensor:
    signal, noise = scales(scheduler, moment, sample)
    if is_flow(scheduler):
        return sample - noise * model_output
    kind = scheduler.config.get("prediction_type", "epsilon")
    if kind == "sample":
        return model_output
    if kind == "epsilon":
        return (sample - noise * model_output) / signal
    if kind == "v_prediction":
        # In units in which signal² + noise² = 1, x₀ = signal·sample − noise·v.
        norm = (signal**2 + noise**2).sqrt()
        signal, noise, sample = signal / norm, noise / norm, sample / norm
        return signal * sample - noise * model_output
    raise CaptureError(f"x0 is not known for the prediction type '{kind}': use epsilon, v_prediction, sample or flow")


def is_flow(scheduler: Scheduler) -> bool:
    """Whether the scheduler belongs to a flow-matching model."""
    kind = scheduler.config.get("prediction_type")
    return type(scheduler).__name__.startswith("FlowMatch") or kind == "flow_prediction"


def is_unscaled(scheduler: Scheduler) -> bool:
    """Whether samples are x₀ + σ·ε, which the pipeline divides by √(1 + σ²) before the denoiser sees them."""
    return type(scheduler).__name__.startswith(("Euler", "Heun", "LMS"))


def scales(scheduler: Scheduler, moment: Moment, sample: Tensor) -> tuple[Tensor, Tensor]:
    """(signal, noise) with ``sample = signal·x₀ + noise·ε``, scalars in the dtype and on the device of ``sample``.

    Raises:
        CaptureError: a scheduler of which they are not known.
    """
    name = type(scheduler).__name__
    if is_flow(scheduler):
        sigma = _sigma(scheduler, moment, sample)
        return 1 - sigma, sigma
    if is_unscaled(scheduler):
        sigma = _sigma(scheduler, moment, sample)
        return torch.ones_like(sigma), sigma
    if name.startswith(("DPMSolverMultistep", "DPMSolverSinglestep", "UniPC", "DEIS")):
        sigma = _sigma(scheduler, moment, sample)
        signal = (1 + sigma**2).rsqrt()
        return signal, sigma * signal
    if "alphas_cumprod" in vars(scheduler):
        alpha = vars(scheduler)["alphas_cumprod"][int(moment.timestep)].to(sample)
        return alpha.sqrt(), (1 - alpha).sqrt()
    raise CaptureError(
        f"x0 is not known for the scheduler {name}: use DDIM, DPM++, UniPC, Euler or a flow, or drop the tap 'x0'"
    )


def _sigma(scheduler: Scheduler, moment: Moment, sample: Tensor) -> Tensor:
    """σ of the moment, in the dtype of ``sample``."""
    sigma: Tensor = vars(scheduler)["sigmas"][moment.index].to(sample)
    return sigma
