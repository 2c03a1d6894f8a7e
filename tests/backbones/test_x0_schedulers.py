"""x₀ is each scheduler's own ``pred_original_sample``, with all that it can be configured with; others are refused."""

from __future__ import annotations

import functools
import itertools
from collections.abc import Callable, Iterator
from typing import Any

import diffusers
import pytest
import torch
from diffusers import DiffusionPipeline
from torch import Tensor

from probe_lab.backbones.schedulers import UNITS, clipped, name_of, predicted_x0
from probe_lab.capture import Capture
from probe_lab.errors import CaptureError

KINDS = ("epsilon", "v_prediction", "sample")
CLIPS: tuple[dict[str, Any], ...] = (
    {"clip_sample": False},
    {"clip_sample": True, "clip_sample_range": 0.7},
    {"clip_sample": False, "thresholding": True},
)
SCHEDULES: tuple[dict[str, Any], ...] = (
    {},
    {"timestep_spacing": "trailing", "rescale_betas_zero_snr": True},
    {"use_karras_sigmas": True},
    {"use_exponential_sigmas": True},
    {"use_beta_sigmas": True},
    {"use_flow_sigmas": True},
)


def configurations(kind: type) -> Iterator[dict[str, Any]]:
    """Settings, among them some that this scheduler does not know: they are kept in its configuration all the same."""
    name = kind.__name__
    for prediction, clip, schedule in itertools.product(KINDS, CLIPS, SCHEDULES):
        if prediction == "sample" and name.startswith(("EulerAncestral", "PNDM")):
            continue  # not implemented there
        if schedule.get("rescale_betas_zero_snr") and prediction == "epsilon" and UNITS[name] == "alphas":
            continue  # divides by zero
        yield {"prediction_type": prediction, "beta_schedule": "scaled_linear", **clip, **schedule}


def own_prediction(scheduler: Any, index: int, output: Tensor, timestep: Tensor, sample: Tensor) -> Tensor | None:
    """What the scheduler itself says in its step; of those that do not return it, what they convert the output to."""
    if UNITS[name_of(scheduler)] != "sigmas":
        result = scheduler.step(output, timestep, sample, return_dict=True)
        return result.get("pred_original_sample", result.get("denoised"))
    told: list[Tensor] = []
    convert = scheduler.convert_model_output

    def noted(*args: Any, **kwargs: Any) -> Tensor:
        told.append(convert(*args, **kwargs))
        return told[-1]

    scheduler.convert_model_output = noted
    scheduler.step(output, timestep, sample)
    del scheduler.convert_model_output
    if type(scheduler).__name__.startswith("DEIS"):  # which converts to the noise
        signal, noise = scheduler._sigma_to_alpha_sigma_t(scheduler.sigmas[index])
        return (sample - noise * told[0]) / signal
    return told[0]


@pytest.mark.parametrize("name", [name for name, units in UNITS.items() if units != "flow"])
def test_it_is_the_schedulers_own(name: str) -> None:
    diffusers.utils.logging.set_verbosity_error()
    kind = getattr(diffusers, name)
    compared = 0
    for settings in configurations(kind):
        scheduler = kind.from_config(settings)
        scheduler.set_timesteps(5)
        generator = torch.Generator().manual_seed(0)
        sample = 2 * torch.randn(2, 4, 4, 4, generator=generator)
        for index, timestep in enumerate(scheduler.timesteps[:3]):
            scheduler.scale_model_input(sample, timestep)
            output = torch.randn(2, 4, 4, 4, generator=generator)
            found = clipped(scheduler, predicted_x0(scheduler, output, timestep, sample))
            own = own_prediction(scheduler, index, output, timestep, sample)
            if own is not None:
                # LCM gives a mean with the sample, whose weight is next to nothing so early.
                torch.testing.assert_close(found, own, atol=2e-4, rtol=1e-3, msg=f"{name} with {settings}")
                compared += 1
    assert compared or name in ("PNDMScheduler", "TCDScheduler")  # they tell nobody


@pytest.mark.parametrize("name", ["PNDMScheduler", "TCDScheduler", "FlowMatchLCMScheduler"])
def test_those_that_do_not_tell_theirs_get_back_what_was_noised(name: str) -> None:
    scheduler = getattr(diffusers, name)()
    scheduler.set_timesteps(6)
    clean, noise = torch.randn(2, 2, 4, 4, 4, generator=torch.Generator().manual_seed(0)).unbind()
    timestep = scheduler.timesteps[0]
    sigma = scheduler.sigmas[0] if UNITS[name] == "flow" else (1 - scheduler.alphas_cumprod[int(timestep)]).sqrt()
    signal = 1 - sigma if UNITS[name] == "flow" else (1 - sigma**2).sqrt()
    target = noise - clean if UNITS[name] == "flow" else noise
    found = predicted_x0(scheduler, target, timestep, signal * clean + sigma * noise)
    torch.testing.assert_close(found, clean, atol=2e-3, rtol=0)


def test_a_sample_that_was_moved_on_is_read_where_the_scheduler_is() -> None:
    """Timesteps need not be unique, and a schedule may be begun in its middle."""
    scheduler = diffusers.EulerDiscreteScheduler()
    scheduler.set_timesteps(6)
    scheduler.set_begin_index(3)
    clean, noise = torch.randn(2, 1, 4, 4, 4, generator=torch.Generator().manual_seed(0)).unbind()
    sample = clean + scheduler.sigmas[3] * noise
    found = predicted_x0(scheduler, noise, scheduler.timesteps[3], sample)
    torch.testing.assert_close(found, clean, atol=1e-5, rtol=0)


class OwnStep(diffusers.DDIMScheduler):
    """Called like a known one would not help it."""

    def step(self, *args: Any, **kwargs: Any) -> Any:
        return super().step(*args, **kwargs)


OwnName = type("DDIMScheduler", (OwnStep,), {})


class OtherSchedule(diffusers.DDIMScheduler):
    def set_timesteps(self, *args: Any, **kwargs: Any) -> None:
        super().set_timesteps(*args, **kwargs)


REFUSED = [
    diffusers.KDPM2DiscreteScheduler,
    diffusers.KDPM2AncestralDiscreteScheduler,
    diffusers.DDIMInverseScheduler,
    diffusers.DPMSolverMultistepInverseScheduler,
    diffusers.UnCLIPScheduler,
    diffusers.SASolverScheduler,
    diffusers.EDMDPMSolverMultistepScheduler,
    OwnStep,
    OwnName,
    functools.partial(diffusers.FlowMatchEulerDiscreteScheduler, invert_sigmas=True),
]


@pytest.mark.parametrize("make", REFUSED, ids=str)
def test_others_are_refused(make: Callable[[], Any]) -> None:
    scheduler = make()
    scheduler.set_timesteps(4)
    latent = torch.zeros(1, 4, 4, 4)
    with pytest.raises(CaptureError, match="x0 is not known for the scheduler") as caught:
        predicted_x0(scheduler, latent, scheduler.timesteps[0], latent)
    assert "\n" not in str(caught.value)


def test_a_subclass_is_known_by_what_it_does() -> None:
    assert name_of(OtherSchedule()) == "DDIMScheduler"
    assert name_of(OwnStep()).endswith("test_x0_schedulers.OwnStep")


def test_a_capture_gives_what_the_scheduler_clips(tiny_pipe: Callable[[str], DiffusionPipeline]) -> None:
    pipe = tiny_pipe("sd")
    own = pipe.scheduler
    try:
        for settings in ({"clip_sample": True}, {"thresholding": True}, {}):
            pipe.scheduler = diffusers.DDIMScheduler.from_config(own.config, **settings)
            told: list[Tensor] = []
            step = pipe.scheduler.step

            @functools.wraps(step)
            def noted(*args: Any, step: Any = step, told: list[Tensor] = told, **kwargs: Any) -> Any:
                result = step(*args, **{**kwargs, "return_dict": True})
                told.append(result.pred_original_sample)
                return (result.prev_sample,)

            pipe.scheduler.step = noted
            with Capture(pipe, ["x0", "lookahead"], [1, 2]) as capture:
                pipe("a red circle", num_inference_steps=2, height=64, width=64, output_type="latent")
            for index in (1, 2):
                torch.testing.assert_close(capture[index, "", "x0"], told[index - 1], atol=1e-4, rtol=1e-4)
            assert capture[1, "", "lookahead"].abs().max() <= 1 or not settings
    finally:
        pipe.scheduler = own
