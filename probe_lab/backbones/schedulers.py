"""The clean latent that a denoiser predicts at a step, from what the scheduler is given there."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Literal, Protocol, cast

import diffusers
import torch
from torch import Tensor

from probe_lab.errors import CaptureError

Units = Literal["alphas", "sigmas", "unscaled", "flow"]
"""How a scheduler keeps ``sample = signal·x₀ + noise·ε``:

- ``alphas``: signal² + noise² = 1, by timestep;
- ``sigmas``: the same, by σ = noise / signal; with ``use_flow_sigmas`` as ``flow``;
- ``unscaled``: signal 1, noise σ, and the pipeline divides by √(1 + σ²) before the denoiser sees the sample;
- ``flow``: signal 1 − σ, noise σ, and the model predicts the velocity ε − x₀.
"""

UNITS: Mapping[str, Units] = {
    "DDIMParallelScheduler": "alphas",
    "DDIMScheduler": "alphas",
    "DDPMParallelScheduler": "alphas",
    "DDPMScheduler": "alphas",
    "LCMScheduler": "alphas",
    "PNDMScheduler": "alphas",
    "TCDScheduler": "alphas",
    "DEISMultistepScheduler": "sigmas",
    "DPMSolverMultistepScheduler": "sigmas",
    "DPMSolverSinglestepScheduler": "sigmas",
    "UniPCMultistepScheduler": "sigmas",
    "EulerAncestralDiscreteScheduler": "unscaled",
    "EulerDiscreteScheduler": "unscaled",
    "HeunDiscreteScheduler": "unscaled",
    "LMSDiscreteScheduler": "unscaled",
    "FlowMatchEulerDiscreteScheduler": "flow",
    "FlowMatchHeunDiscreteScheduler": "flow",
    "FlowMatchLCMScheduler": "flow",
}
"""The schedulers of diffusers whose x₀ is known."""

_CLIPPING = ("DDIM", "DDPM", "LCM", "Heun")
_THRESHOLDING = ("DDIM", "DDPM", "LCM", "DEIS", "DPMSolver", "UniPC")
"""Which of them clip, or threshold, what is predicted. The configuration alone does not tell: it keeps what another
scheduler, whose settings this one continues, was configured with."""

_DECISIVE = ("step", "scale_model_input", "convert_model_output", "_sigma_to_alpha_sigma_t", "_threshold_sample")
"""Methods that decide what a sample is and what is predicted of it."""

_KINDS = {"original_sample": "sample"}
"""Other names of prediction types."""


class DiffusersScheduler(Protocol):
    """What is read of a diffusers scheduler."""

    config: dict[str, object]
    timesteps: Tensor


@dataclass(frozen=True)
class Moment:
    """A place of the schedule: its 0-based index, and the timestep that the scheduler has there."""

    index: int
    timestep: Tensor | float | int


def name_of(scheduler: object) -> str:
    """The diffusers class that a scheduler is of, where it steps as that does; else the full name of its own class.

    A subclass that only prepares another schedule is still one of diffusers; one with a step of its own is not.
    """
    kind = type(scheduler)
    for base in kind.__mro__:
        if base.__name__.endswith("Scheduler") and getattr(diffusers, base.__name__, None) is base:
            if all(getattr(kind, name, None) is getattr(base, name, None) for name in _DECISIVE):
                return base.__name__
            break
    return kind.__name__ if kind.__module__.startswith("diffusers.") else f"{kind.__module__}.{kind.__qualname__}"


def moment_of(scheduler: DiffusersScheduler, timestep: Tensor | float | int) -> Moment:
    """The step that the scheduler is about to make. Must be asked before that moves its index on."""
    state = vars(scheduler)
    index = state.get("_step_index")
    if index is None:  # before the first step the scheduler has not looked it up
        index = state.get("_begin_index")
    if index is None and hasattr(scheduler, "index_for_timestep"):
        sought = timestep.to(scheduler.timesteps.device) if isinstance(timestep, Tensor) else timestep
        index = int(scheduler.index_for_timestep(sought))
    if index is None:
        index = int((scheduler.timesteps == float(timestep)).nonzero()[0])
    return Moment(index, timestep)


def predicted_x0(
    scheduler: DiffusersScheduler, model_output: Tensor, timestep: Tensor | float | int, sample: Tensor
) -> Tensor:
    """x₀ prediction of the denoiser, before the scheduler clips it, in the shape and dtype of ``sample``.

    The schedulers of ``UNITS`` are known, with the prediction types ``epsilon``, ``v_prediction``, ``sample`` and flow.
    Must be called before the scheduler's own step moves its index on.

    Raises:
        CaptureError: another scheduler or prediction type.
    """
    return x0_at(scheduler, model_output, moment_of(scheduler, timestep), sample)


def clipped(scheduler: DiffusersScheduler, clean: Tensor) -> Tensor:
    """What the scheduler makes of an x₀ prediction: its ``pred_original_sample``, after ``thresholding`` or
    ``clip_sample`` where it is configured with them."""
    config, name = scheduler.config, name_of(scheduler)
    of_noise = name.startswith("UniPC") and not config.get("predict_x0", True)  # it predicts no x₀
    if config.get("thresholding") and name.startswith(_THRESHOLDING) and not of_noise:
        threshold: Callable[[Tensor], Tensor] = getattr(scheduler, "_threshold_sample")  # noqa: B009
        return threshold(clean)
    if config.get("clip_sample") and name.startswith(_CLIPPING):
        bound = float(cast(float, config.get("clip_sample_range", 1.0)))
        return clean.clamp(-bound, bound)
    return clean


def x0_at(scheduler: DiffusersScheduler, model_output: Tensor, moment: Moment, sample: Tensor) -> Tensor:
    """As ``predicted_x0`` at any moment of the schedule, whatever the scheduler is about to do."""
    exact = torch.float64 if sample.dtype == torch.float64 else torch.float32
    clean = _clean(scheduler, model_output.to(exact), moment, sample.to(exact))
    return clean.to(sample.dtype)


def _clean(scheduler: DiffusersScheduler, model_output: Tensor, moment: Moment, sample: Tensor) -> Tensor:
    signal, noise = scales(scheduler, moment, sample)
    model_output = model_output[:, : sample.shape[1]]  # behind it may be a learned variance
    if is_flow(scheduler):
        return sample - noise * model_output
    kind = str(scheduler.config.get("prediction_type", "epsilon"))
    kind = _KINDS.get(kind, kind)
    if kind == "sample":
        return model_output
    if kind == "epsilon":
        return (sample - noise * model_output) / signal
    if kind == "v_prediction":
        if is_unscaled(scheduler):  # in units in which signal² + noise² = 1
            norm = (signal**2 + noise**2).sqrt()
            signal, noise, sample = signal / norm, noise / norm, sample / norm
        return signal * sample - noise * model_output
    raise CaptureError(f"x0 is not known for the prediction type '{kind}': use epsilon, v_prediction, sample or flow")


def begin_at(scheduler: DiffusersScheduler, step: int) -> None:
    """Leave out what is before ``step`` (1-based) of the schedule that was just set.

    CaptureError for a step that it does not have.
    """
    steps = len(scheduler.timesteps)
    if step > steps:
        raise CaptureError(f"step {step} is beyond the schedule, which has {steps} steps")
    scheduler.timesteps = scheduler.timesteps[step - 1 :]
    if UNITS.get(name_of(scheduler)) != "alphas":  # those know the noise by timestep
        state = vars(scheduler)
        state["sigmas"] = state["sigmas"][step - 1 :]
    if hasattr(scheduler, "set_begin_index"):  # timesteps need not be unique
        scheduler.set_begin_index(0)


def noised(scheduler: DiffusersScheduler, clean: Tensor, noise: Tensor) -> Tensor:
    """The sample at the first step of the schedule, by the scheduler's own method: clean latents [n, …] with as much of
    ``noise``, standard normal, as there is then."""
    method: Callable[..., Tensor] | None = getattr(scheduler, "scale_noise", None)
    timesteps = scheduler.timesteps[:1].expand(len(clean))
    if method is not None:  # of flows
        return method(clean, timesteps, noise)
    add_noise: Callable[..., Tensor] = getattr(scheduler, "add_noise")  # noqa: B009
    return add_noise(clean, noise, timesteps)


def is_flow(scheduler: DiffusersScheduler) -> bool:
    """Whether the scheduler belongs to a flow-matching model."""
    kind = scheduler.config.get("prediction_type")
    return type(scheduler).__name__.startswith("FlowMatch") or kind == "flow_prediction"


def is_unscaled(scheduler: DiffusersScheduler) -> bool:
    """Whether samples are x₀ + σ·ε, which the pipeline divides by √(1 + σ²) before the denoiser sees them."""
    return UNITS.get(name_of(scheduler)) == "unscaled"


def scales(scheduler: DiffusersScheduler, moment: Moment, sample: Tensor) -> tuple[Tensor, Tensor]:
    """(signal, noise) with ``sample = signal·x₀ + noise·ε``, scalars in the dtype and on the device of ``sample``.

    Raises:
        CaptureError: a scheduler of which they are not known.
    """
    name = name_of(scheduler)
    units = UNITS.get(name)
    if units is None or scheduler.config.get("invert_sigmas"):
        how = f"{name} with invert_sigmas" if units else name
        raise CaptureError(
            f"x0 is not known for the scheduler {how}: use DDIM, DPM++, UniPC, Euler or a flow, or drop the tap 'x0'"
        )
    if units == "alphas":
        alpha = vars(scheduler)["alphas_cumprod"][int(moment.timestep)].to(sample)
        return alpha.sqrt(), (1 - alpha).sqrt()
    sigma: Tensor = vars(scheduler)["sigmas"][moment.index].to(sample)
    if units == "unscaled":
        return torch.ones_like(sigma), sigma
    if units == "flow" or is_flow(scheduler) or scheduler.config.get("use_flow_sigmas"):
        return 1 - sigma, sigma
    signal = (1 + sigma**2).rsqrt()
    return signal, sigma * signal
