"""Survivors are right whatever else a denoiser is given: adapters, layers to skip, residuals, attention arguments."""

from __future__ import annotations

import functools
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from diffusers import DiffusionPipeline
from diffusers.models.embeddings import ImageProjection
from tiny_pipelines import CALL, PIPELINES
from torch import Tensor, nn

from probe_lab.backbones.families import family_of
from probe_lab.capture import Capture
from probe_lab.probes import Probe, ProbeSpec
from probe_lab.selection import ProbeSelect

STEPS, STEP = 4, 2
Tiny = Callable[[str], DiffusionPipeline]


def options_of(name: str, **changes: Any) -> dict[str, Any]:
    options = {"num_inference_steps": STEPS, "height": 96, "width": 96, "output_type": "latent"}
    return options | CALL[name].options | CALL[name].guided | changes


def generators(count: int) -> list[torch.Generator]:
    return [torch.Generator().manual_seed(seed) for seed in range(count)]


def probe_of(pipe: DiffusionPipeline) -> Probe:
    with torch.random.fork_rng():
        torch.manual_seed(0)
        spec = ProbeSpec(
            "linear", {"x0": (4, 12, 12)}, ("score",), STEP, STEPS, backbone=f"{family_of(pipe).name}:tiny"
        )  # type: ignore[arg-type]
        return Probe(spec).eval()


def apart(pipe: DiffusionPipeline, count: int, keep: int, options: dict[str, Any]) -> float:
    """The largest difference of a survivor from the image without selection."""
    found = ProbeSelect(pipe, probe_of(pipe), candidates=count, keep=keep)(
        "a red circle", generator=generators(count), **options
    )
    whole = pipe("a red circle", num_images_per_prompt=count, generator=generators(count), **options).images
    return float((found.images - whole[list(found.kept[0])]).abs().max())


@pytest.mark.parametrize("layers", [[0], [0, 1], [0, 1, 2]])
@pytest.mark.parametrize("count", [2, 3])
def test_layers_to_skip_are_no_images(tiny: Tiny, layers: list[int], count: int) -> None:
    skipped = {"skip_guidance_layers": layers, "skip_layer_guidance_start": 0.0, "skip_layer_guidance_stop": 1.0}
    assert apart(tiny("sd3"), count, 1, options_of("sd3", **skipped)) < 1e-4


def adapter_of(unet: nn.Module) -> dict[str, Any]:
    """Random weights of an IP-Adapter, as published ones are laid out."""
    widths, text = unet.config.block_out_channels, unet.config.cross_attention_dim
    state: dict[str, Tensor] = {}
    for place, name in enumerate(name for name in unet.attn_processors if "attn2" in name):
        part, index = name.split(".")[:2]
        sides = {"mid_block": (widths[-1],) * 9, "up_blocks": widths[::-1], "down_blocks": widths}
        for side in "kv":
            state[f"{2 * place + 1}.to_{side}_ip.weight"] = torch.randn(
                sides[part][0 if part == "mid_block" else int(index)], text
            )
    projection = {
        name.replace("image_embeds.", "proj."): torch.randn_like(weight)
        for name, weight in ImageProjection(16, text, 4).state_dict().items()
    }
    return {"image_proj": projection, "ip_adapter": state}


@pytest.mark.parametrize("adapters", [1, 2])
@pytest.mark.parametrize("guidance", [3.0, 1.0])
def test_embeddings_of_image_adapters_are_the_survivors(tmp_path: Path, adapters: int, guidance: float) -> None:
    pipe = PIPELINES["sd"](tmp_path)
    with torch.random.fork_rng():
        torch.manual_seed(1)
        pipe.unet._load_ip_adapter_weights([adapter_of(pipe.unet) for _ in range(adapters)])
        halves = 2 if guidance > 1 else 1
        images = [torch.randn(halves, 1, 16) for _ in range(adapters)]
    # Regions, one mask for each adapter: as many rows as nothing else has.
    masks = {"ip_adapter_masks": [torch.ones(1, 1, 96, 96) for _ in range(adapters)]}
    options = options_of("sd", guidance_scale=guidance, ip_adapter_image_embeds=images, cross_attention_kwargs=masks)
    for keep in (1, 2):
        assert apart(pipe, 3, keep, options) < 1e-4


def residuals_of(rows: int) -> dict[str, Any]:
    """What a ControlNet beside the pipeline gives to a UNet: tuples of tensors, other ones for each row."""
    widths, sides = (8, 8, 8, 16, 16, 16), (12, 12, 6, 6, 3, 3)
    strength = torch.arange(rows).view(-1, 1, 1, 1) / rows
    residuals = tuple(strength.expand(-1, w, s, s) for w, s in zip(widths, sides, strict=True))
    return {"down_block_additional_residuals": residuals, "mid_block_additional_residual": residuals[-1]}


@pytest.mark.parametrize("keep", [1, 2])
def test_tuples_of_residuals_are_narrowed(tiny: Tiny, keep: int) -> None:
    """Given by a hook of the user's on the denoiser, for all rows of the pipeline's batch."""
    pipe = tiny("sd")
    handle = pipe.unet.register_forward_pre_hook(
        lambda module, args, kwargs: (args, kwargs | residuals_of(len(args[0]))), with_kwargs=True
    )
    try:
        assert apart(pipe, 3, keep, options_of("sd")) < 1e-4
    finally:
        handle.remove()


def test_a_tensor_as_long_as_there_are_candidates_is_not_taken_for_rows(tiny: Tiny) -> None:
    """With guidance a batch has twice as many rows; a vector with one entry per candidate is the user's own."""
    pipe, seen = tiny("sd"), []
    plain = pipe.unet.forward

    @functools.wraps(plain)
    def forward(*args: Any, **kwargs: Any) -> Any:
        seen.append(kwargs["cross_attention_kwargs"]["weights"].tolist())
        return plain(*args, **kwargs)

    pipe.unet.forward = forward
    try:
        ProbeSelect(pipe, probe_of(pipe), candidates=3)(
            "a red circle",
            generator=generators(3),
            **options_of("sd", cross_attention_kwargs={"weights": torch.arange(3.0)}),
        )
    finally:
        del pipe.unet.forward
    assert seen == [[0, 1, 2]] * STEPS


@pytest.mark.parametrize("name", ["sd", "sd3"])
def test_a_lookahead_of_some_is_that_of_all(tiny: Tiny, name: str) -> None:
    """With what a pipeline gives to its denoiser in lists and dictionaries."""
    pipe = tiny(name)
    options = options_of(name)
    if name == "sd3":
        options |= {"skip_guidance_layers": [0, 1], "skip_layer_guidance_start": 0.0, "skip_layer_guidance_stop": 1.0}
    with Capture(pipe, ["lookahead"], [3]) as whole:
        pipe("a red circle", num_images_per_prompt=2, generator=generators(2), **options)
    with Capture(pipe, ["lookahead"], [3]) as seen:
        found = ProbeSelect(pipe, probe_of(pipe), candidates=2)("a red circle", generator=generators(2), **options)
    (kept,) = found.kept[0]
    torch.testing.assert_close(seen[3, "", "lookahead"][kept], whole[3, "", "lookahead"][kept], atol=1e-4, rtol=0)
    assert seen[3, "", "lookahead"][1 - kept].isnan().all()
