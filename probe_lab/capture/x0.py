"""The clean latent that a denoiser predicts at a step, from what the scheduler is given there."""

from __future__ import annotations

from typing import Protocol

import torch
from torch import Tensor

from probe_lab.errors import CaptureError


class Scheduler(Protocol):
    """What is read of a diffusers scheduler."""

    config: dict[str, object]
    timesteps: Tensor


def predicted_x0(scheduler: Scheduler, model_output: Tensor, timestep: Tensor | float | int, sample: Tensor) -> Tensor:
    """x₀ prediction [n, C, h, w], in the dtype of ``sample``.

    Variance-preserving schedulers (DDIM, DDPM, DPM-Solver, UniPC, PNDM …): ``sample = √ᾱ·x₀ + √(1−ᾱ)·ε``.
    Euler-type schedulers, whose sample is not scaled: ``sample = x₀ + σ·ε``. Both for the prediction types
    ``epsilon``, ``v_prediction`` and ``sample``. Must be called before the scheduler's own step moves its index on.

    Raises:
        CaptureError: a scheduler of neither kind.
    """
    kind = scheduler.config.get("prediction_type", "epsilon")
    if kind == "sample":
        return model_output
    signal, noise = _scales(scheduler, timestep, sample)
    if kind == "epsilon":
        return (sample - noise * model_output) / signal
    if kind == "v_prediction":
        # In units in which signal² + noise² = 1, x₀ = signal·sample − noise·v.
        norm = (signal**2 + noise**2).sqrt()
        signal, noise, sample = signal / norm, noise / norm, sample / norm
        return signal * sample - noise * model_output
    raise CaptureError(f"x0 is not known for the prediction type '{kind}': use epsilon, v_prediction or sample")


def _scales(scheduler: Scheduler, timestep: Tensor | float | int, sample: Tensor) -> tuple[Tensor, Tensor]:
    """(signal, noise) with ``sample = signal·x₀ + noise·ε``, as tensors on the device of ``sample``."""
    name = type(scheduler).__name__
    if name.startswith(("Euler", "Heun", "KDPM2", "LMS")) and "sigmas" in vars(scheduler):
        index = int((scheduler.timesteps == torch.as_tensor(timestep).to(scheduler.timesteps)).nonzero()[0])
        sigma = vars(scheduler)["sigmas"][index].to(sample)
        return torch.ones_like(sigma), sigma
    if "alphas_cumprod" in vars(scheduler) and not scheduler.config.get("use_karras_sigmas", False):
        alpha = vars(scheduler)["alphas_cumprod"][int(timestep)].to(sample)
        return alpha.sqrt(), (1 - alpha).sqrt()
    raise CaptureError(f"x0 is not known for the scheduler {name}: use DDIM, DPM++ or Euler, or drop the tap 'x0'")
