"""The preview of a clean latent is the picture that the pipeline itself would make of it."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from diffusers import DiffusionPipeline
from tiny_pipelines import run

from probe_lab.capture import Capture
from probe_lab.previews.decoding import decoded

GetPipe = Callable[[str], DiffusionPipeline]
PROMPTS = ["a red circle", "a blue square"]


@pytest.mark.parametrize("name", ["sd3", "flux-dev", "flux2-klein", "qwen-image"])
def test_a_decoded_latent_is_the_pipelines_image(tiny_pipe: GetPipe, name: str) -> None:
    """The last step of a flow ends at σ 0, so there the predicted x0 is the finished latent."""
    pipe = tiny_pipe(name)
    with Capture(pipe, ["x0"], [3]) as capture:
        images = torch.from_numpy(run(pipe, name, PROMPTS, num_inference_steps=3, output_type="np"))
    pixels = decoded(pipe.vae, capture[3, "", "x0"])
    torch.testing.assert_close((pixels / 2 + 0.5).clamp(0, 1).permute(0, 2, 3, 1), images, atol=1e-4, rtol=0)


def test_an_autoencoder_with_moments_and_a_factor_decodes_as_its_pipeline_does(tiny_pipe: GetPipe) -> None:
    """As Playground's for SDXL; DDIM's last step ends at ᾱ 1, so there too the predicted x0 is the finished latent."""
    pipe = tiny_pipe("sdxl")
    plain = dict(pipe.vae.config)
    pipe.vae.register_to_config(latents_mean=[0.1, -0.2, 0.3, 0.4], latents_std=[0.5, 1.5, 2.0, 0.8])
    try:
        with Capture(pipe, ["x0"], [3]) as capture:
            images = torch.from_numpy(run(pipe, "sdxl", PROMPTS, num_inference_steps=3, output_type="np"))
        pixels = decoded(pipe.vae, capture[3, "", "x0"])
    finally:
        pipe.vae.register_to_config(**{key: plain[key] for key in ("latents_mean", "latents_std")})
    torch.testing.assert_close((pixels / 2 + 0.5).clamp(0, 1).permute(0, 2, 3, 1), images, atol=1e-4, rtol=0)
