"""x₀ predictions against the definition: noise a known picture, hand the scheduler the true target, get it back."""

from __future__ import annotations

import pytest
import torch
from diffusers import (
    DDIMScheduler,
    DDPMScheduler,
    DPMSolverMultistepScheduler,
    EDMEulerScheduler,
    EulerAncestralDiscreteScheduler,
    EulerDiscreteScheduler,
    FlowMatchEulerDiscreteScheduler,
    FlowMatchHeunDiscreteScheduler,
    UniPCMultistepScheduler,
)

from probe_lab.backbones.schedulers import predicted_x0
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


FLOWS = [
    FlowMatchEulerDiscreteScheduler(shift=3.0),
    FlowMatchHeunDiscreteScheduler(),
    UniPCMultistepScheduler(prediction_type="flow_prediction", use_flow_sigmas=True, flow_shift=3.0),
    DPMSolverMultistepScheduler(prediction_type="flow_prediction", use_flow_sigmas=True),
]


@pytest.mark.parametrize("scheduler", FLOWS, ids=lambda scheduler: type(scheduler).__name__)
def test_a_perfect_flow_gives_back_the_clean_latent(scheduler: FlowMatchEulerDiscreteScheduler) -> None:
    scheduler.set_timesteps(7)
    clean, noise = torch.randn(2, 2, 4, 8, 8, generator=torch.Generator().manual_seed(0)).unbind()
    for index in (0, 3, 6):
        sigma = scheduler.sigmas[index]
        sample = (1 - sigma) * clean + sigma * noise
        x0 = predicted_x0(scheduler, noise - clean, scheduler.timesteps[index], sample)
        torch.testing.assert_close(x0, clean, atol=1e-5, rtol=0)


@pytest.mark.parametrize("kind", [DPMSolverMultistepScheduler, UniPCMultistepScheduler])
def test_karras_sigmas_are_read_from_the_scheduler(kind: type) -> None:
    scheduler = kind(use_karras_sigmas=True)
    scheduler.set_timesteps(8)
    clean, noise = torch.randn(2, 2, 4, 8, 8, generator=torch.Generator().manual_seed(0)).unbind()
    sigma = scheduler.sigmas[3]
    sample = (clean + sigma * noise) / (1 + sigma**2).sqrt()
    torch.testing.assert_close(predicted_x0(scheduler, noise, scheduler.timesteps[3], sample), clean, atol=1e-3, rtol=0)


def test_an_unknown_scheduler_is_refused() -> None:
    scheduler = EDMEulerScheduler()
    scheduler.set_timesteps(4)
    latent = torch.zeros(1, 4, 8, 8)
    with pytest.raises(CaptureError, match="x0 is not known for the scheduler EDMEulerScheduler"):
        predicted_x0(scheduler, latent, scheduler.timesteps[0], latent)
