"""The pipelines that captures are measured on: the shipped tiny ones, and real structures with random weights.

Text encoders and autoencoders of the random ones are as small as their classes allow: what is measured is the
denoiser, and anything beside it would make a capture look cheaper than it is.
"""

from __future__ import annotations

import tempfile
from collections.abc import Callable
from dataclasses import dataclass
from itertools import islice
from pathlib import Path

import torch
from diffusers import (
    AutoencoderKL,
    DiffusionPipeline,
    EulerDiscreteScheduler,
    FlowMatchEulerDiscreteScheduler,
    FluxPipeline,
    FluxTransformer2DModel,
    StableDiffusionXLPipeline,
    UNet2DConditionModel,
)
from torch import Tensor, nn
from transformers import (
    CLIPTextConfig,
    CLIPTextModel,
    CLIPTextModelWithProjection,
    CLIPTokenizer,
    T5Config,
    T5EncoderModel,
)

from probe_lab.backbones.families import BUILT_IN
from probe_lab.backbones.pipelines import load_pipeline
from probe_lab.config import Backbone, Sampling
from probe_lab.shapes.captions import sample_captions
from tools.tiny_models.tokenizer import build_tokenizer

STEPS, STEP = 25, 5
"""Denoiser calls of a generation, and the one that is captured."""


@dataclass(frozen=True)
class Workload:
    """A pipeline and one call of it: ``images`` pictures of ``side`` pixels, each of its own prompt.

    ``turns`` and ``peer_turns`` are how often it is timed against itself without a capture, and against a peer.
    ``spare``: measured only when it is named.
    """

    name: str
    open: Callable[[], DiffusionPipeline]
    images: int
    side: int
    guidance: float
    turns: int = 15
    peer_turns: int = 5
    gpu: bool = False
    steps: int = STEPS
    spare: bool = False

    @property
    def missing(self) -> str:
        """Why it cannot be run here, or nothing."""
        if self.gpu and not torch.cuda.is_available():
            return "needs a CUDA device"
        if self.name in BUILT_IN and not BUILT_IN[self.name][1].exists():
            return "has no weights in this checkout"
        return ""

    def run(self, pipe: DiffusionPipeline, images: int = 0, steps: int = 0) -> Tensor:
        """The latents of one call. They are not decoded: that time would only make a capture look cheaper."""
        count = images or self.images
        latents = pipe(
            list(islice(sample_captions(0), count)),
            num_inference_steps=steps or self.steps,
            guidance_scale=self.guidance,
            height=self.side,
            width=self.side,
            generator=[torch.Generator().manual_seed(seed) for seed in range(count)],
            output_type="latent",
        ).images
        if self.gpu:
            torch.cuda.synchronize()
        assert isinstance(latents, Tensor)
        return latents


def tiny(name: str) -> DiffusionPipeline:
    return load_pipeline(Backbone(name=name), Sampling(scheduler="default"))


def random_sdxl(
    width: tuple[int, int, int] = (64, 128, 320),
    middle: int = 2,
    deep: int = 5,
    device: str = "cpu",
    dtype: torch.dtype = torch.float32,
) -> DiffusionPipeline:
    """SDXL's UNet, cut to a fifth of its width and half its depth for the CPU: 2 attention levels below a plain one,
    64 channels per head, text of 2048 channels, pooled text and picture size beside the time step."""
    heads = tuple(channels // 64 for channels in width)
    unet = _random(
        lambda: UNet2DConditionModel(
            sample_size=64,
            in_channels=4,
            out_channels=4,
            down_block_types=("DownBlock2D", "CrossAttnDownBlock2D", "CrossAttnDownBlock2D"),
            up_block_types=("CrossAttnUpBlock2D", "CrossAttnUpBlock2D", "UpBlock2D"),
            block_out_channels=width,
            layers_per_block=2,
            transformer_layers_per_block=(1, middle, deep),
            attention_head_dim=heads,  # diffusers' name for the number of heads
            cross_attention_dim=2048,
            use_linear_projection=True,
            addition_embed_type="text_time",
            addition_time_embed_dim=256,
            projection_class_embeddings_input_dim=1280 + 6 * 256,
        ),
        device,
        dtype,
    )
    tokenizer = _tokenizer(77)
    pipe = StableDiffusionXLPipeline(
        vae=_random(lambda: _small_vae(4), device, dtype),
        text_encoder=_random(lambda: CLIPTextModel(_clip(tokenizer, 768)), device, dtype),
        text_encoder_2=_random(lambda: CLIPTextModelWithProjection(_clip(tokenizer, 1280)), device, dtype),
        tokenizer=tokenizer,
        tokenizer_2=tokenizer,
        unet=unet,
        scheduler=EulerDiscreteScheduler(beta_schedule="scaled_linear", beta_start=0.00085, beta_end=0.012),
        add_watermarker=False,
    )
    pipe.set_progress_bar_config(disable=True)
    return pipe


def random_flux(double: int = 19, single: int = 38, heads: int = 24, device: str = "cpu") -> DiffusionPipeline:
    """FLUX.1-dev's transformer: 12 000 M parameters with the default arguments."""
    transformer = _random(
        lambda: FluxTransformer2DModel(
            num_layers=double, num_single_layers=single, num_attention_heads=heads, guidance_embeds=True
        ),
        device,
    )
    clip, long = _tokenizer(77), _tokenizer(512)
    t5 = T5Config(vocab_size=len(long), d_model=4096, d_ff=8, d_kv=8, num_heads=1, num_layers=1)
    pipe = FluxPipeline(
        scheduler=FlowMatchEulerDiscreteScheduler(),
        vae=_random(lambda: _small_vae(16), device),
        text_encoder=_random(lambda: CLIPTextModel(_clip(clip, 768)), device),
        tokenizer=clip,
        text_encoder_2=_random(lambda: T5EncoderModel(t5), device),
        tokenizer_2=long,  # any tokenizer with T5's number of tokens will do for random weights
        transformer=transformer,
    )
    pipe.set_progress_bar_config(disable=True)
    return pipe


def _random(build: Callable[[], nn.Module], device: str, dtype: torch.dtype = torch.float32) -> nn.Module:
    """A module with seeded random weights, made on its device in ``dtype``; bfloat16 on a GPU."""
    torch.manual_seed(0)
    usual = torch.get_default_dtype()
    torch.set_default_dtype(dtype)  # a module that is cast when it is made takes the memory of both
    try:
        with torch.device(device):
            module = build()
    finally:
        torch.set_default_dtype(usual)
    if device != "cpu":
        module.to(device, torch.bfloat16)
    return module.eval().requires_grad_(False)


def _tokenizer(tokens: int) -> CLIPTokenizer:
    with tempfile.TemporaryDirectory(prefix="probe_lab_tokenizer_") as folder:
        tokenizer = build_tokenizer(Path(folder))
    tokenizer.model_max_length = tokens
    return tokenizer


def _clip(tokenizer: CLIPTokenizer, width: int) -> CLIPTextConfig:
    return CLIPTextConfig(
        vocab_size=len(tokenizer),
        hidden_size=width,
        intermediate_size=64,
        projection_dim=width,
        num_hidden_layers=1,
        num_attention_heads=4,
        max_position_embeddings=77,
        bos_token_id=tokenizer.bos_token_id,
        eos_token_id=tokenizer.eos_token_id,
        pad_token_id=tokenizer.pad_token_id,
    )


def _small_vae(channels: int) -> AutoencoderKL:
    """Four levels, so that a latent is an eighth of the picture; it is never run."""
    return AutoencoderKL(
        down_block_types=("DownEncoderBlock2D",) * 4,
        up_block_types=("UpDecoderBlock2D",) * 4,
        block_out_channels=(4,) * 4,
        latent_channels=channels,
        norm_num_groups=4,
    )


WORKLOADS: dict[str, Workload] = {
    workload.name: workload
    for workload in (
        Workload("tiny-sd", lambda: tiny("tiny-sd"), images=32, side=64, guidance=2.0),
        Workload("tiny-sd3", lambda: tiny("tiny-sd3"), images=32, side=64, guidance=2.0),
        Workload("sdxl-cut", random_sdxl, images=1, side=512, guidance=5.0, turns=5, peer_turns=2),
        # SDXL's own size; few steps, as each takes some five times as long.
        Workload(
            "sdxl-cut-128",
            random_sdxl,
            images=1,
            side=1024,
            guidance=5.0,
            turns=1,
            peer_turns=1,
            steps=6,
            spare=True,
        ),
        Workload(
            "sdxl-gpu",
            lambda: random_sdxl((320, 640, 1280), deep=10, device="cuda"),
            images=1,
            side=1024,
            guidance=5.0,
            gpu=True,
        ),
        Workload("flux-gpu", lambda: random_flux(device="cuda"), images=1, side=1024, guidance=3.5, gpu=True),
    )
}
