"""Which tokens are real, where several encoders share the positions, and where the text changes during the call."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from diffusers import DiffusionPipeline
from tiny_pipelines import CALL
from torch import Tensor

from probe_lab.backbones.truncation import token_limits
from probe_lab.capture import Capture
from probe_lab.config import Sampling

GetPipe = Callable[[str], DiffusionPipeline]
SHORT, LONG = "a red circle", "a blue square left of a green cross above a red circle"
CLIP = 24
STEPS = 3


def captured(pipe: DiffusionPipeline, name: str, tap: str, steps: list[int], **options: Any) -> Capture:
    call = {"num_inference_steps": STEPS, "height": 64, "width": 64, "output_type": "latent", **CALL[name].options}
    with Capture(pipe, [f"{tap}/attention"], steps) as capture:
        pipe(generator=torch.Generator().manual_seed(0), **call, **options)
    return capture


def real(*texts: str) -> int:
    return max(len(text.split()) for text in texts) + 2


@pytest.mark.parametrize(("name", "tap"), [("sdxl", "mid_block.attentions.0"), ("sd3", "transformer_blocks.0")])
@pytest.mark.parametrize("texts", [(SHORT, LONG), (LONG, SHORT)])
def test_a_position_is_real_if_either_encoder_has_a_token_there(
    tiny_pipe: GetPipe, name: str, tap: str, texts: tuple[str, str]
) -> None:
    first, second = texts
    capture = captured(tiny_pipe(name), name, tap, [1], prompt=[SHORT, first], prompt_2=[SHORT, second])
    assert capture.token_mask is not None
    assert capture.token_mask[:, :CLIP].sum(1).tolist() == [real(SHORT), real(LONG)]
    maps = capture[1, tap, "attention"].flatten(2).amax(2) > 0
    assert torch.equal(maps, capture.token_mask)


def test_the_third_prompt_of_sd3_is_that_of_its_t5(tiny_pipe: GetPipe) -> None:
    capture = captured(tiny_pipe("sd3"), "sd3", "transformer_blocks.0", [1], prompt=SHORT, prompt_3=LONG)
    assert capture.token_mask is not None
    assert int(capture.token_mask[0, :CLIP].sum()) == real(SHORT)
    assert int(capture.token_mask[0, CLIP:].sum()) == real(LONG) - 1  # T5 has no token for the beginning


def test_flux_reads_the_tokens_of_its_second_prompt(tiny_pipe: GetPipe) -> None:
    pipe = tiny_pipe("flux-schnell")
    capture = captured(pipe, "flux-schnell", "transformer_blocks.0", [1], prompt=SHORT, prompt_2=LONG)
    assert capture.token_mask is not None
    assert int(capture.token_mask.sum()) == real(LONG) - 1


def test_sdxl_with_its_second_encoder_alone(tiny_pipe: GetPipe) -> None:
    """As its refiner is."""
    pipe = tiny_pipe("sdxl")
    parts = pipe.text_encoder, pipe.tokenizer, pipe.text_encoder_2
    width = pipe.text_encoder_2.config.hidden_size
    pad = pipe.unet.register_forward_pre_hook(
        lambda module, args, kwargs: (
            args,
            {**kwargs, "encoder_hidden_states": torch.nn.functional.pad(kwargs["encoder_hidden_states"], (width, 0))},
        ),
        with_kwargs=True,
    )
    pipe.text_encoder, pipe.tokenizer = None, None
    try:
        capture = captured(pipe, "sdxl", "mid_block.attentions.0", [1], prompt=[SHORT, LONG])
        assert [limit for _, limit in token_limits(pipe, Sampling())] == [CLIP]
    finally:
        pipe.text_encoder, pipe.tokenizer, pipe.text_encoder_2 = parts
        pad.remove()
    assert capture.token_mask is not None
    assert capture.token_mask.sum(1).tolist() == [real(SHORT), real(LONG)]


def replacing(text: Tensor, *, in_place: bool = False) -> Callable[..., dict[str, Any]]:
    """A callback that goes on with another text after the first step."""

    def callback(pipe: DiffusionPipeline, step: int, timestep: Tensor, tensors: dict[str, Any]) -> dict[str, Any]:
        if step == 0 and in_place:
            tensors["prompt_embeds"].copy_(text)
        elif step == 0:
            tensors["prompt_embeds"] = text
        return tensors

    return callback


@pytest.mark.parametrize("in_place", [False, True])
def test_text_that_is_replaced_during_the_call_has_no_mask_of_the_former(tiny_pipe: GetPipe, in_place: bool) -> None:
    pipe, tap = tiny_pipe("sd"), "up_blocks.1.attentions.0"
    other = torch.cat(pipe.encode_prompt(LONG, "cpu", 1, True)[::-1])
    options = {"callback_on_step_end_tensor_inputs": ["latents", "prompt_embeds"], "guidance_scale": 3.0}
    both = captured(
        pipe, "sd", tap, [1, 2], prompt=SHORT, callback_on_step_end=replacing(other, in_place=in_place), **options
    )
    assert both.token_mask is None
    before, after = (both[step, tap, "attention"][0].flatten(1).amax(1) for step in (1, 2))
    assert int((before > 0).sum()) == real(SHORT)
    assert bool((after > 0).all())


def test_text_without_its_unconditional_half_is_the_same_text(tiny_pipe: GetPipe) -> None:
    """Guidance that ends during the call."""
    pipe, tap = tiny_pipe("sd"), "up_blocks.1.attentions.0"

    def unguided(pipe: DiffusionPipeline, step: int, timestep: Tensor, tensors: dict[str, Any]) -> dict[str, Any]:
        if step == 0:
            tensors["prompt_embeds"] = tensors["prompt_embeds"].chunk(2)[1]
            pipe._guidance_scale = 0.0
        return tensors

    options = {"callback_on_step_end_tensor_inputs": ["latents", "prompt_embeds"], "guidance_scale": 3.0}
    capture = captured(pipe, "sd", tap, [3], prompt=[SHORT, LONG], callback_on_step_end=unguided, **options)
    assert capture.token_mask is not None
    assert capture.token_mask.sum(1).tolist() == [real(SHORT), real(LONG)]
    assert torch.equal(capture[3, tap, "attention"].flatten(2).amax(2) > 0, capture.token_mask)
