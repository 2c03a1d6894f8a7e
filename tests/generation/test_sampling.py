"""Stopping after the last captured step, filled batches, and offloaded pipelines."""

from __future__ import annotations

import copy
from collections.abc import Callable
from dataclasses import replace

import accelerate
import pandas as pd
import pytest
import torch
from diffusers import DiffusionPipeline, StableDiffusionPipeline
from tiny_pipelines import PIPELINES
from tiny_pipelines import run as run_family

from probe_lab.capture import Capture
from probe_lab.config import Sampling
from probe_lab.generation.sampling import ROWS, filled, sample_images, sample_tensors, stopped_after

SAMPLING = Sampling(steps=4, guidance=3.0, height=16, width=24)
TAPS = ["up_blocks.1.attentions.0/attention", "mid_block/activation", "latent", "x0"]
SAMPLES = pd.DataFrame({"prompt": ["a red circle", "a blue square", "a blue square"], "seed": [1, 2, 3]})


@pytest.fixture
def pipe(random_pipe: StableDiffusionPipeline) -> StableDiffusionPipeline:
    """One that a test may change."""
    return copy.deepcopy(random_pipe)


def tensors_of(capture: Capture) -> dict[str, torch.Tensor]:
    return {f"{step}/{tap}": tensor for (step, tap), tensor in capture.items()}


def full_run(pipe: StableDiffusionPipeline) -> dict[str, torch.Tensor]:
    with Capture(pipe, TAPS, [1, 2]) as capture:
        assert len(sample_images(SAMPLING, pipe, SAMPLES)) == len(SAMPLES)
    return tensors_of(capture)


def assert_same(found: dict[str, torch.Tensor], expected: dict[str, torch.Tensor]) -> None:
    assert found.keys() == expected.keys()
    assert all(torch.equal(found[key], expected[key]) for key in expected)


def test_a_stopped_run_leaves_the_tensors_of_a_full_one(pipe: StableDiffusionPipeline) -> None:
    expected = full_run(pipe)
    calls: list[str] = []
    pipe.unet.register_forward_hook(lambda *_: calls.append("denoiser"))
    pipe.vae.decoder.register_forward_hook(lambda *_: calls.append("decoder"))
    with Capture(pipe, TAPS, [1, 2]) as capture:
        sample_tensors(SAMPLING, pipe, SAMPLES, last=2)
    assert calls == ["denoiser"] * 2
    assert len(expected) == 2 * len(TAPS)
    assert_same(tensors_of(capture), expected)


def test_stopping_leaves_nothing_behind(pipe: StableDiffusionPipeline) -> None:
    before = [image.tobytes() for image in sample_images(SAMPLING, pipe, SAMPLES)]
    sample_tensors(SAMPLING, pipe, SAMPLES, last=1)
    assert "step" not in vars(pipe.scheduler)
    with Capture(pipe, ["latent"], [1]):
        of_the_capture = vars(pipe.scheduler)["step"]
        sample_tensors(SAMPLING, pipe, SAMPLES, last=1)
        assert vars(pipe.scheduler)["step"] is of_the_capture
    assert "step" not in vars(pipe.scheduler)
    assert torch.is_grad_enabled()
    assert [image.tobytes() for image in sample_images(SAMPLING, pipe, SAMPLES)] == before


def test_other_errors_go_through_and_leave_nothing_behind(pipe: StableDiffusionPipeline) -> None:
    with pytest.raises(ValueError, match="divisible by 8"):
        sample_tensors(replace(SAMPLING, height=17), pipe, SAMPLES, last=1)
    assert "step" not in vars(pipe.scheduler)


def test_only_the_cpu_fills_batches() -> None:
    on_cpu = filled(Sampling(device="cpu"), SAMPLES)
    assert on_cpu["seed"].tolist() == [1, 2] + [3] * (ROWS - 2)
    assert len(filled(Sampling(), pd.concat([SAMPLES] * 6))) == 2 * ROWS
    for device in ("cuda", "cuda:1"):
        assert filled(Sampling(device=device), SAMPLES)["seed"].tolist() == [1, 2, 3]


@pytest.mark.parametrize("offload", ["model", "sequential"])
def test_a_capture_sees_an_offloaded_pipeline(pipe: StableDiffusionPipeline, offload: str) -> None:
    # The real hooks, with the CPU in the place of an accelerator: they replace forwards and move weights all the same.
    expected = full_run(pipe)
    if offload == "model":
        pipe.enable_model_cpu_offload(device="cpu")
    else:
        accelerate.cpu_offload(pipe.unet, "cpu")  # what enable_sequential_cpu_offload does to every part
        assert next(pipe.unet.parameters()).device.type == "meta"
    assert hasattr(pipe.unet, "_hf_hook")
    assert_same(full_run(pipe), expected)
    with Capture(pipe, TAPS, [1, 2]) as capture:
        sample_tensors(SAMPLING, pipe, SAMPLES, last=2)
    assert_same(tensors_of(capture), expected)


def test_a_stopped_run_gives_the_models_of_an_offload_back(pipe: StableDiffusionPipeline) -> None:
    pipe.enable_model_cpu_offload(device="cpu")
    used = pipe._all_hooks[0]
    sample_tensors(SAMPLING, pipe, SAMPLES, last=1)
    # diffusers frees models by removing the hooks and placing new ones.
    assert pipe._all_hooks
    assert pipe._all_hooks[0] is not used


@pytest.mark.parametrize("name", PIPELINES)
def test_the_pipeline_of_every_family_can_be_stopped(tiny_pipe: Callable[[str], DiffusionPipeline], name: str) -> None:
    pipe = tiny_pipe(name)
    denoiser = pipe.components.get("transformer") or pipe.unet
    calls: list[int] = []
    hook = denoiser.register_forward_hook(lambda *_: calls.append(1))
    whole = run_family(pipe, name, ["a red circle"], num_inference_steps=3)
    each_step = len(calls) // 3
    calls.clear()
    with stopped_after(pipe, 2):
        run_family(pipe, name, ["a red circle"], num_inference_steps=3)
    hook.remove()
    assert len(calls) == 2 * each_step > 0
    assert torch.equal(run_family(pipe, name, ["a red circle"], num_inference_steps=3), whole)
