"""The options of ``sampling``: schedulers that fit, the autoencoder's memory, devices."""

from __future__ import annotations

import copy
from dataclasses import replace

import diffusers
import numpy as np
import pandas as pd
import pytest
import torch
from diffusers import (
    DPMSolverMultistepScheduler,
    FlowMatchEulerDiscreteScheduler,
    StableDiffusionPipeline,
)
from hypothesis import given
from hypothesis import strategies as st

from probe_lab.backbones.pipelines import configure, load_pipeline
from probe_lab.config import Backbone, Sampling, Scheduler
from probe_lab.errors import CaptureError
from probe_lab.generation.sampling import sample_images

SAMPLING = Sampling(steps=4, guidance=3.0, height=16, width=24)
SAMPLES = pd.DataFrame({"prompt": ["a red circle", "a blue square"], "seed": [1, 2]})
NOISE: dict[Scheduler, str] = {
    "ddim": "DDIMScheduler",
    "dpm++": "DPMSolverMultistepScheduler",
    "euler": "EulerDiscreteScheduler",
    "euler-a": "EulerAncestralDiscreteScheduler",
    "lcm": "LCMScheduler",
    "unipc": "UniPCMultistepScheduler",
}
FLOW: tuple[Scheduler, ...] = ("default", "flow-euler", "dpm++", "unipc")


@pytest.fixture
def pipe(random_pipe: StableDiffusionPipeline) -> StableDiffusionPipeline:
    """One that a test may change."""
    return copy.deepcopy(random_pipe)


def pixels(pipe: StableDiffusionPipeline, sampling: Sampling) -> np.ndarray:
    return np.stack([np.asarray(image, np.int16) for image in sample_images(sampling, pipe, SAMPLES)])


@pytest.mark.parametrize("name", NOISE)
def test_schedulers_of_noise_continue_the_backbone_s_settings(pipe: StableDiffusionPipeline, name: Scheduler) -> None:
    sampling = replace(SAMPLING, scheduler=name)
    configure(pipe, sampling)
    assert type(pipe.scheduler).__name__ == NOISE[name]
    assert pipe.scheduler.config.prediction_type == "v_prediction"
    assert np.isfinite(pixels(pipe, sampling)).all()


def test_the_shipped_backbone_draws_with_ddim_as_with_its_own() -> None:
    images = [
        np.stack([np.asarray(image) for image in sample_images(sampling, pipe, SAMPLES)])
        for sampling in (Sampling(steps=2, scheduler="default"), Sampling(steps=2, scheduler="ddim"))
        for pipe in [load_pipeline(Backbone("tiny-sd"), sampling)]
    ]
    assert np.array_equal(*images)


def with_flow(pipe: StableDiffusionPipeline, own: str, shift: float) -> StableDiffusionPipeline:
    if own == "flow-euler":
        pipe.scheduler = FlowMatchEulerDiscreteScheduler(shift=shift)
    else:
        pipe.scheduler = DPMSolverMultistepScheduler(
            prediction_type="flow_prediction", use_flow_sigmas=True, flow_shift=shift
        )
    return pipe


def _flow_scheduler(pipe: StableDiffusionPipeline, own: str, name: Scheduler, shift: float):
    before = pipe.scheduler
    try:
        configure(with_flow(pipe, own, shift), replace(SAMPLING, scheduler=name))
        return pipe.scheduler
    finally:
        pipe.scheduler = before


@given(
    own=st.sampled_from(["flow-euler", "dpm++"]),
    name=st.sampled_from(FLOW),
    shift=st.floats(1, 6),
    steps=st.integers(3, 12),
)
def test_a_flow_scheduler_walks_a_straight_line_to_its_end(
    random_pipe: StableDiffusionPipeline, own: str, name: Scheduler, shift: float, steps: int
) -> None:
    flow = _flow_scheduler(random_pipe, own, name, shift)
    generator = torch.Generator().manual_seed(steps)
    clean, noise = torch.randn(2, 1, 4, 3, 3, generator=generator)
    flow.set_timesteps(steps)
    first = float(flow.sigmas[0])  # some begin just below 1
    sample = first * noise + (1 - first) * clean
    for time in flow.timesteps:
        sample = flow.step(noise - clean, time, sample).prev_sample
    torch.testing.assert_close(sample, clean, atol=1e-3, rtol=0)


@pytest.mark.parametrize("own", ["flow-euler", "dpm++"])
@pytest.mark.parametrize("name", ["ddim", "euler", "euler-a", "lcm"])
def test_a_scheduler_of_noise_is_refused_for_a_flow(pipe: StableDiffusionPipeline, own: str, name: Scheduler) -> None:
    message = (
        rf"sampling\.scheduler={name} does not fit .*predicts a flow .*default or one of dpm\+\+, flow-euler, unipc"
    )
    with pytest.raises(CaptureError, match=message):
        configure(with_flow(pipe, own, 3.0), replace(SAMPLING, scheduler=name))


def test_a_scheduler_of_flows_is_refused_for_noise(pipe: StableDiffusionPipeline) -> None:
    message = r"flow-euler does not fit .*does not predict a flow \(its own scheduler is DDIMScheduler\).*ddim, dpm\+\+"
    with pytest.raises(CaptureError, match=message):
        configure(pipe, replace(SAMPLING, scheduler="flow-euler"))


def test_tiles_and_slices_of_the_autoencoder(pipe: StableDiffusionPipeline) -> None:
    expected = pixels(pipe, SAMPLING)
    configure(pipe, replace(SAMPLING, scheduler="default", vae_slicing=True))
    assert np.abs(pixels(pipe, SAMPLING) - expected).max() <= 1
    assert not pipe.vae.use_tiling
    configure(pipe, replace(SAMPLING, scheduler="default", vae_tiling=True))
    wide = replace(SAMPLING, width=64)  # beyond one tile
    assert pipe.vae.use_tiling
    assert pixels(pipe, wide).shape == (2, 16, 64, 3)


def test_options_that_a_pipeline_lacks_are_refused(pipe: StableDiffusionPipeline) -> None:
    with pytest.raises(CaptureError, match=r"max_sequence_length is 77, and a StableDiffusionPipeline .*leave it at 0"):
        configure(pipe, replace(SAMPLING, max_sequence_length=77))
    del pipe.vae.use_tiling  # as in autoencoders that cannot do it
    with pytest.raises(CaptureError, match=r"sampling\.vae_tiling is true, and the AutoencoderKL .*no tiling"):
        configure(pipe, replace(SAMPLING, vae_tiling=True))


@pytest.mark.parametrize("offload", ["model", "sequential"])
def test_offload_needs_an_accelerator(offload: str) -> None:
    with pytest.raises(CaptureError, match=rf"sampling\.offload={offload} needs an accelerator .*device is cpu"):
        load_pipeline(Backbone("tiny-sd"), Sampling(offload=offload))  # type: ignore[arg-type]


@pytest.mark.skipif(torch.cuda.is_available(), reason="for machines without a card")
@pytest.mark.parametrize("offload", ["none", "model", "sequential"])
def test_a_device_that_is_not_there_is_one_sentence(offload: str) -> None:
    with pytest.raises(CaptureError, match=r"sampling\.device 'cuda' cannot be used: "):
        load_pipeline(Backbone("tiny-sd"), Sampling(device="cuda", offload=offload))  # type: ignore[arg-type]


def test_the_dtype_is_that_of_the_experiment() -> None:
    pipe = load_pipeline(Backbone("tiny-sd"), Sampling(dtype="bfloat16"))
    assert {part.dtype for part in (pipe.unet, pipe.vae, pipe.text_encoder)} == {torch.bfloat16}
    assert diffusers.utils.logging.is_progress_bar_enabled() is False
