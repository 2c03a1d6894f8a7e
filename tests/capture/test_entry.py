"""A pipeline call that is entered in its middle: noise by the scheduler's law, latents and predictions as those of
diffusers' own image-to-image pipelines."""

from __future__ import annotations

import random
from collections.abc import Callable
from typing import Any

import diffusers
import numpy as np
import pandas as pd
import pytest
import torch
from diffusers import DiffusionPipeline
from PIL import Image
from tiny_pipelines import CALL, SIZE
from torch import Tensor

from probe_lab.backbones.families import family_of
from probe_lab.backbones.pipelines import load_pipeline
from probe_lab.backbones.schedulers import UNITS, begin_at, clipped, noised, predicted_x0
from probe_lab.backbones.token_grid import packed_2x2, unpacked_2x2
from probe_lab.capture import Capture
from probe_lab.capture.entry import entered_at
from probe_lab.capture.listen import before_method
from probe_lab.config import Backbone, Sampling
from probe_lab.errors import CaptureError
from probe_lab.labels.renoising import noise_of, renoised_x0
from probe_lab.previews.decoding import decoded
from probe_lab.previews.encoding import encoded, encoded_pictures
from probe_lab.shapes.captions import parse_caption
from probe_lab.shapes.render import render

GetPipe = Callable[[str], DiffusionPipeline]
PROMPTS = ["a red circle", "a blue square above a green cross"]
STEPS = 4
OWN_PATH = {
    "sd": "StableDiffusionImg2ImgPipeline",
    "sdxl": "StableDiffusionXLImg2ImgPipeline",
    "sd3.5": "StableDiffusion3Img2ImgPipeline",
    "flux-dev": "FluxImg2ImgPipeline",
}


def picture(seed: int, size: tuple[int, int] = SIZE) -> Image.Image:
    pixels = torch.randint(256, (*size, 3), generator=torch.Generator().manual_seed(seed), dtype=torch.uint8)
    return Image.fromarray(pixels.numpy())


@pytest.mark.parametrize("name", UNITS)
@pytest.mark.parametrize("step", [1, 4, 6])
def test_noise_is_that_of_the_step(name: str, step: int) -> None:
    diffusers.utils.logging.set_verbosity_error()
    scheduler: Any = getattr(diffusers, name)()
    scheduler.set_timesteps(6)
    timestep = scheduler.timesteps[step - 1]
    if UNITS[name] == "alphas":
        variance = 1 - torch.cumprod(1 - scheduler.betas.double(), 0)[int(timestep)].item()
        signal, deviation = (1 - variance) ** 0.5, variance**0.5
    else:
        sigma = float(scheduler.sigmas[step - 1])
        norm = (1 + sigma**2) ** 0.5
        signal, deviation = {"sigmas": (1 / norm, sigma / norm), "unscaled": (1, sigma), "flow": (1 - sigma, sigma)}[
            UNITS[name]
        ]
    clean, noise = torch.randn(2, 3, 4, 5, 5, generator=torch.Generator().manual_seed(0)).unbind()
    begin_at(scheduler, step)
    assert scheduler.timesteps[0] == timestep
    torch.testing.assert_close(
        noised(scheduler, clean, noise), signal * clean + deviation * noise, rtol=1e-4, atol=1e-5
    )


def test_packing_undoes_unpacking() -> None:
    latent = torch.arange(2 * 4 * 6 * 10.0).view(2, 4, 6, 10)
    assert packed_2x2(latent).shape == (2, 15, 16)
    assert torch.equal(unpacked_2x2(packed_2x2(latent), (3, 5)), latent)


@pytest.mark.parametrize("name", OWN_PATH)
def test_it_is_the_image_to_image_path_of_diffusers(tiny_pipe: GetPipe, name: str) -> None:
    """At half the schedule, its first step is given the same latents for the same generators, and predicts the same."""
    pipe = tiny_pipe(name)
    images, seeds = [picture(0), picture(1)], [3, 4]
    if name == "sd":
        pipe.unet.register_to_config(sample_size=64)  # which that pipeline wants to know
    other = getattr(diffusers, OWN_PATH[name])(**pipe.components)
    told: list[Tensor] = []

    def note(output: Tensor, timestep: Tensor, sample: Tensor, *args: Any, **kwargs: Any) -> None:
        if not told:
            told.append(clipped(other.scheduler, predicted_x0(other.scheduler, output, timestep, sample)))

    call = CALL[name]
    options = {**call.options, **call.guided, "height": SIZE[0], "width": SIZE[1]}
    if name in ("sd", "sdxl"):  # they take the size of the picture
        options = {key: value for key, value in options.items() if key not in ("height", "width")}
    undo = before_method(other.scheduler, "step", note)
    try:
        generators = [torch.Generator().manual_seed(seed) for seed in seeds]
        other(
            prompt=PROMPTS,
            image=images,
            strength=0.5,
            num_inference_steps=STEPS,
            generator=generators,
            output_type="latent",
            **options,
        )
    finally:
        undo()
        pipe.unet.register_to_config(sample_size=None) if name == "sd" else None
    sampling = Sampling(
        steps=STEPS,
        guidance=call.guided["guidance_scale"],
        height=SIZE[0],
        width=SIZE[1],
        max_sequence_length=call.options.get("max_sequence_length", 0),
    )
    x0 = renoised_x0(sampling, pipe, pd.DataFrame({"prompt": PROMPTS}), images, seeds, 3)
    grid = (SIZE[0] // pipe.vae_scale_factor // 2, SIZE[1] // pipe.vae_scale_factor // 2)
    torch.testing.assert_close(x0, family_of(pipe).unpack(told[0], grid), rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("name", ["flux2-klein", "qwen-image", "sana", "pixart"])
def test_other_families_begin_with_the_picture(tiny_pipe: GetPipe, name: str) -> None:
    pipe = tiny_pipe(name)
    call = CALL[name]
    with Capture(pipe, ["x0"], [STEPS]) as capture:
        size = {"height": SIZE[0], "width": SIZE[1]}
        options = {**call.options, **call.guided, **size, "num_inference_steps": STEPS, "output_type": "latent"}
        pipe(prompt=PROMPTS[0], **options)
    clean = capture[STEPS, "", "x0"]
    noise = torch.randn(clean.shape, generator=torch.Generator().manual_seed(0))
    with Capture(pipe, ["x0", "latent"], [1]) as capture, entered_at(pipe, 2, clean, noise) as entry:
        pipe(prompt=PROMPTS[0], **options)
    assert entry.sample is not None
    assert torch.equal(capture[1, "", "latent"], entry.sample)
    assert capture[1, "", "x0"].shape == clean.shape
    with pytest.raises(CaptureError, match="step 9 is beyond the schedule"), entered_at(pipe, 9, clean, noise):
        pipe(prompt=PROMPTS[0], **options)
    with (
        pytest.raises(CaptureError, match="give pictures of the size"),
        entered_at(pipe, 2, clean[:, :, :-2], noise[:, :, :-2]),
    ):
        pipe(prompt=PROMPTS[0], **options)


@pytest.mark.parametrize("name", ["sd", "sd3.5", "flux-dev", "flux2-klein", "qwen-image", "sana"])
def test_encoding_has_the_units_that_decoding_undoes(tiny_pipe: GetPipe, name: str) -> None:
    """Random autoencoders bring no picture back, so they are made to encode what is decoded next."""
    vae = tiny_pipe(name).vae
    pixels = torch.stack([torch.from_numpy(np.array(picture(0))).float() / 127.5 - 1]).permute(0, 3, 1, 2)
    own = vae.encode(pixels[:, :, None] if "z_dim" in vae.config else pixels)
    plain = own.latent_dist.mode() if hasattr(own, "latent_dist") else own.latent

    class Mode:
        """The distribution without its width."""

        class latent_dist:
            sample = staticmethod(lambda generators: plain)
            mode = staticmethod(lambda: plain)

        latent = plain

    whole = vae.encode
    vae.encode = lambda given: own if not hasattr(own, "latent_dist") else Mode
    try:
        latent = encoded(vae, pixels, [torch.Generator()])
    finally:
        vae.encode = whole
    with torch.no_grad():
        straight = vae.decode(plain).sample
    straight = straight[:, :, 0] if "z_dim" in vae.config else straight
    torch.testing.assert_close(decoded(vae, latent), straight, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("name", ["tiny-sd", "tiny-sd3"])
def test_little_noise_leaves_the_picture_and_much_leaves_the_prompt(name: str) -> None:
    sampling = Sampling(steps=20, guidance=2.0, scheduler="default")
    pipe = load_pipeline(Backbone(name=name), sampling)
    prompt = "a red circle"
    image = Image.fromarray(render(parse_caption(prompt), random.Random(0)))
    clean = encoded_pictures(pipe, [image], [torch.Generator().manual_seed(5)])

    def apart(step: int) -> float:
        x0 = renoised_x0(sampling, pipe, pd.DataFrame({"prompt": [prompt], "seed": [0]}), [image], [5], step)
        assert x0.shape == clean.shape
        return float((x0 - clean).norm() / clean.norm())

    assert apart(20) < 0.15 < 0.3 < apart(1)


def test_noise_is_drawn_by_prompt_sample_and_number_alone() -> None:
    places = [(sample // 4, sample, number) for sample in range(40) for number in range(3)]
    drawn = {place: noise_of(0, *place, [4, 2]) for place in places}
    assert {noise.step for noise in drawn.values()} == {2, 4}
    assert len({(prompt, number, noise.step) for (prompt, _, number), noise in drawn.items()}) == 10 * 3
    assert len({noise.seed for noise in drawn.values()}) == len(drawn)
    assert noise_of(0, 1, 7, 1, [2, 4]) == drawn[1, 7, 1] != noise_of(1, 1, 7, 1, [2, 4])
