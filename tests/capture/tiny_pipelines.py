"""Tiny random pipelines of the real diffusers classes: the families of backbones without their weights.

Each runs a few steps in milliseconds, at sizes that need not be square. How they are built is in ``tiny_models``.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

import tiny_models as models
import torch
from diffusers import DiffusionPipeline
from tiny_text import INSTRUCTION, T5_TOKENS

SIZE = (96, 160)


@dataclass(frozen=True)
class Call:
    """How a family's pipeline is called, and what a test must know of it."""

    guidance: Literal["batch", "calls", "embedded"]
    """How guidance runs: as a [unconditional, conditional] batch, as two calls (conditional first), or not at all."""
    guided: dict[str, Any]
    plain: dict[str, Any]
    attention: tuple[str, ...]
    """Blocks whose attention is read."""
    activation: tuple[str, ...]
    options: dict[str, Any] = field(default_factory=dict)
    packed: bool = False
    """The scheduler sees [n, tokens, channels · 4]."""
    repeat_prompts: bool = False
    """Images per prompt are made by repeating the prompt: for several prompts with several images each, the pipeline
    repeats the masks in another order than the embeddings (as of diffusers 0.42)."""


_BUILDERS: dict[str, Callable[[Path], DiffusionPipeline]] = {
    "sd": models.sd,
    "sd-v": lambda folder: models.sd(folder, "v_prediction"),
    "sdxl": models.sdxl,
    "pixart": models.pixart,
    "sd3": models.sd3,
    "sd3.5": lambda folder: models.sd3(folder, qk_norm="rms_norm", dual_attention_layers=(0, 1)),
    "flux-dev": lambda folder: models.flux(folder, distilled=True),
    "flux-schnell": lambda folder: models.flux(folder, distilled=False),
    "flux2": models.flux2,
    "flux2-klein": models.flux2_klein,
    "qwen-image": models.qwen_image,
    "sana": models.sana,
}


def build(name: str, folder: Path) -> DiffusionPipeline:
    """The pipeline of a family in float32, silent; the same weights each time."""
    with torch.random.fork_rng():
        torch.manual_seed(sorted(_BUILDERS).index(name))
        return models.finished(_BUILDERS[name](folder))


_SCALE: tuple[dict[str, Any], dict[str, Any]] = {"guidance_scale": 3.0}, {"guidance_scale": 1.0}
_TRUE: tuple[dict[str, Any], dict[str, Any]] = (
    {"true_cfg_scale": 3.0, "negative_prompt": "a green cross above a red square"},
    {"true_cfg_scale": 1.0},
)
_JOINT = ("transformer_blocks.0", "transformer_blocks.1")
_STREAMS = (*_JOINT, "single_transformer_blocks.0", "single_transformer_blocks.1")
_UNET = ("down_blocks.1.attentions.0", "mid_block.attentions.0", "up_blocks.1.attentions.0")
_T5 = {"max_sequence_length": T5_TOKENS}
_CHAT = {"text_encoder_out_layers": (1, 2, 3)}

CALL: dict[str, Call] = {
    "sd": Call("batch", *_SCALE, ("down_blocks.0.attentions.0", *_UNET), ("up_blocks.1", _UNET[0])),
    "sd-v": Call("batch", *_SCALE, ("up_blocks.2.attentions.1", *_UNET), ("up_blocks.2", "down_blocks.0.resnets.0")),
    "sdxl": Call(
        "batch",
        *_SCALE,
        ("down_blocks.1.attentions.0", "mid_block.attentions.0", "up_blocks.0.attentions.1"),
        ("up_blocks.0", "up_blocks.1"),
    ),
    "pixart": Call("batch", *_SCALE, _JOINT, _JOINT, {**_T5, "clean_caption": False, "use_resolution_binning": False}),
    "sd3": Call("batch", *_SCALE, (*_JOINT, "transformer_blocks.2"), (*_JOINT, "transformer_blocks.2"), _T5),
    "sd3.5": Call("batch", *_SCALE, (*_JOINT, "transformer_blocks.2"), (*_JOINT, "transformer_blocks.2"), _T5),
    "flux-dev": Call("embedded", *_SCALE, _STREAMS, _STREAMS, _T5, packed=True),
    "flux-schnell": Call("calls", *_TRUE, _STREAMS, _STREAMS, _T5, packed=True),
    "flux2": Call("embedded", *_SCALE, _STREAMS, _STREAMS, {**_CHAT, "max_sequence_length": 96}, packed=True),
    "flux2-klein": Call("calls", *_SCALE, _STREAMS, _STREAMS, {**_CHAT, "max_sequence_length": 24}, packed=True),
    "qwen-image": Call("calls", *_TRUE, _JOINT, _JOINT, packed=True, repeat_prompts=True),
    "sana": Call(
        "batch",
        *_SCALE,
        _JOINT,
        _JOINT,
        {
            "max_sequence_length": T5_TOKENS,
            "use_resolution_binning": False,
            "complex_human_instruction": INSTRUCTION,
        },
        repeat_prompts=True,
    ),
}

PIPELINES: dict[str, Callable[[Path], DiffusionPipeline]] = {
    name: lambda folder, name=name: build(name, folder) for name in _BUILDERS
}


def run(
    pipe: DiffusionPipeline,
    name: str,
    prompts: list[str],
    *,
    each: int = 1,
    guided: bool = True,
    size: tuple[int, int] = SIZE,
    seeds: list[int] | None = None,
    **changes: Any,
) -> Any:
    """``len(prompts) * each`` images (latents unless ``output_type`` says otherwise), row i from seed i."""
    call = CALL[name]
    rows = len(prompts) * each
    if call.repeat_prompts:
        prompts, each = [prompt for prompt in prompts for _ in range(each)], 1
    options = {
        "prompt": prompts,
        "num_images_per_prompt": each,
        "num_inference_steps": 3,
        "height": size[0],
        "width": size[1],
        "generator": [torch.Generator().manual_seed(seed) for seed in seeds or range(rows)],
        "output_type": "latent",
        **call.options,
        **(call.guided if guided else call.plain),
        **changes,
    }
    if isinstance(options.get("negative_prompt"), str):
        options["negative_prompt"] = [options["negative_prompt"]] * len(prompts)
    return pipe(**options).images
