"""x₀ predictions against the definition: noise a known picture, hand the scheduler the true target, get it back."""

from __future__ import annotations

import pytest
import torch
from diffusers import (
    DDIMScheduler,
    DDPMScheduler,
    DPMSolverMultistepScheduler,
    EulerAncestralDiscreteScheduler,
    EulerDiscreteScheduler,
    FlowMatchHeunDiscreteScheduler,
    UniPCMultistepScheduler,
)

from probe_lab.capture.x0 import predicted_x0
from probe_lab.errors import CaptureError

SCHEDULERS = [
    DDIMScheduler,
    DDPMScheduler,
    DPMSolverMultistepScheduler,
    UniPCMultistepScheduler,
    EulerDiscreteScheduler,
    EulerAncestralDiscreteScheduler,
]


# diffusers' own Euler schedulers refuse to step with a "sample" prediction.
CASES = [
    (scheduler, prediction)
    for scheduler in SCHEDULERS
    for prediction in ("epsilon", "v_prediction", "sample")
    if not (prediction == "sample" and scheduler.__name__.startswith("Euler"))
]


@pytest.mark.parametrize(("scheduler_class", "prediction"), CASES)
def test_a_perfect_denoiser_gives_back_the_clean_latent(scheduler_class: type, prediction: str) -> None:
    scheduler = scheduler_class(prediction_type=prediction)
    scheduler.set_timesteps(10)
    generator = torch.Generator().manual_seed(0)
    clean, noise = torch.randn(2, 2, 4, 8, 8, generator=generator).unbind()
    for index in (0, 4, 9):
        timestep = scheduler.timesteps[index]
        if scheduler_class.__name__.startswith("Euler"):
            sigma = scheduler.sigmas[index]
            sample = clean + sigma * noise
            signal = 1 / (1 + sigma**2).sqrt()
            scale = sigma * signal
        else:
            alpha = scheduler.alphas_cumprod[int(timestep)]
            signal, scale = alpha.sqrt(), (1 - alpha).sqrt()
            sample = signal * clean + scale * noise
        truth = {"epsilon": noise, "v_prediction": signal * noise - scale * clean, "sample": clean}[prediction]
        torch.testing.assert_close(predicted_x0(scheduler, truth, timestep, sample), clean, atol=2e-3, rtol=0)


def test_an_unknown_scheduler_is_refused() -> None:
    scheduler = FlowMatchHeunDiscreteScheduler()
    scheduler.set_timesteps(4)
    latent = torch.zeros(1, 4, 8, 8)
    with pytest.raises(CaptureError, match="x0 is not known for the scheduler FlowMatchHeunDiscreteScheduler"):
        predicted_x0(scheduler, latent, scheduler.timesteps[0], latent)
