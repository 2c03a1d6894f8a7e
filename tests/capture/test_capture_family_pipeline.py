"""What a capture must leave alone, and whose rows it keeps, in the pipelines of every family of models."""

from __future__ import annotations

import copy
import inspect
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from diffusers import DiffusionPipeline
from eager import denoiser_of, text_layers
from family_world import EACH, PROMPTS, ROWS, STEP, real_tokens, see, taps_of
from tiny_pipelines import CALL, PIPELINES, run
from torch import nn
from torch.overrides import _get_current_function_mode_stack

from probe_lab.capture import Capture, Tap

GetPipe = Callable[[str], DiffusionPipeline]
every_family = pytest.mark.parametrize("name", PIPELINES)


@every_family
def test_rows_belong_to_their_prompt_and_candidate(tiny_pipe: GetPipe, name: str) -> None:
    pipe, taps = tiny_pipe(name), taps_of(name)
    with Capture(pipe, taps, steps=[STEP]) as capture:
        run(pipe, name, PROMPTS, each=EACH)
    together = dict(capture.items())
    for row in (1, 2, 5):
        with Capture(pipe, taps, steps=[STEP]) as alone:
            run(pipe, name, [PROMPTS[row // EACH]], seeds=[row])
        for key, tensor in alone.items():
            whole = together[key]
            if key[1].kind == "attention":  # Qwen-Image pads no further than to the longest prompt
                tokens = tensor.shape[1]
                assert (whole[row, tokens:] == 0).all()
                whole = whole[:, :tokens]
            # Another batch size rounds differently; another row is another picture.
            torch.testing.assert_close(whole[row : row + 1], tensor, atol=2e-4, rtol=2e-4)
            others = torch.cat([whole[:row], whole[row + 1 :]])
            assert (others - tensor).abs().flatten(1).amax(1).min() > 1e-3
        assert alone.token_mask is not None
        assert torch.equal(alone.token_mask, real_tokens(name, pipe, [PROMPTS[row // EACH]]))


@every_family
def test_images_are_bit_identical_with_and_without(tiny_pipe: GetPipe, name: str) -> None:
    pipe, taps = tiny_pipe(name), taps_of(name)
    options: dict[str, Any] = {"each": 2, "output_type": "np", "size": (64, 96)}
    plain = run(pipe, name, PROMPTS[:2], **options)
    with Capture(pipe, taps, steps=[1, 2, 3]) as capture:
        watched = run(pipe, name, PROMPTS[:2], **options)
    assert len(capture.items()) == 3 * len(taps)
    assert plain.std() > 0.01
    assert np.array_equal(plain, watched)
    assert np.array_equal(plain, run(pipe, name, PROMPTS[:2], **options))


@every_family
def test_other_sizes_fold_as_well(tiny_pipe: GetPipe, name: str) -> None:
    pipe, path = tiny_pipe(name), CALL[name].attention[0]
    for size in [(160, 96), (32, 64)]:
        with Capture(pipe, taps_of(name), steps=[1]) as capture:
            run(pipe, name, PROMPTS[:1], size=size)
        height, width = capture[1, path, "attention"].shape[2:]
        assert height * size[1] == width * size[0]
        assert capture[1, "", "x0"].shape[2:] == (size[0] // 8, size[1] // 8)


@every_family
def test_without_prompts_nothing_is_masked(tiny_pipe: GetPipe, name: str) -> None:
    pipe, path = tiny_pipe(name), CALL[name].attention[0]
    if name in ("pixart", "sana", "qwen-image"):
        pytest.skip("takes the mask beside the embeddings")
    options = {key: value for key, value in CALL[name].options.items() if "text_encoder" in key or "length" in key}
    given = {"prompt_2": None} if "prompt_2" in inspect.signature(pipe.encode_prompt).parameters else {}
    if name.startswith("sd3"):
        given["prompt_3"] = None
    if name in ("sd", "sd-v"):
        given |= {"device": "cpu", "num_images_per_prompt": 1, "do_classifier_free_guidance": False}
    elif name in ("sdxl", "sd3", "sd3.5"):
        given["do_classifier_free_guidance"] = False
    encoded = pipe.encode_prompt(prompt=PROMPTS[:1], **given, **options)
    embeddings: dict[str, Any] = {"prompt": None, "prompt_embeds": encoded[0]}
    if name in ("sdxl", "sd3", "sd3.5"):
        embeddings["pooled_prompt_embeds"] = encoded[2]
    elif name.startswith("flux-"):
        embeddings["pooled_prompt_embeds"] = encoded[1]
    with Capture(pipe, [Tap(path, "attention")], steps=[1]) as capture:
        run(pipe, name, PROMPTS[:1], guided=False, **embeddings)
    assert capture.token_mask is None
    with Capture(pipe, [Tap(path, "attention")], steps=[1]) as masked:
        run(pipe, name, PROMPTS[:1], guided=False)
    assert masked.token_mask is not None
    maps = capture[1, path, "attention"]
    assert (maps > 0).all()
    kept = maps * masked.token_mask[:, :, None, None]
    torch.testing.assert_close(kept, masked[1, path, "attention"], atol=1e-6, rtol=0)


class Boom(Exception):
    pass


def boom(*args: Any, **kwargs: Any) -> Any:
    raise Boom


def interrupt(*args: Any, **kwargs: Any) -> Any:
    raise KeyboardInterrupt


def traces(pipe: DiffusionPipeline) -> dict[str, Any]:
    """All that a capture may have placed anywhere in a pipeline."""
    modules = [
        (part, path, module)
        for part, model in pipe.components.items()
        if isinstance(model, nn.Module)
        for path, module in model.named_modules()
    ]
    kinds = ("_forward_hooks", "_forward_pre_hooks", "_forward_hooks_always_called", "_forward_hooks_with_kwargs")
    return {
        "hooks": {
            (part, path, kind): list(vars(module)[kind])
            for part, path, module in modules
            for kind in kinds
            if vars(module).get(kind)
        },
        "forwards": [(part, path) for part, path, module in modules if "forward" in vars(module)],
        "pipeline": {key for key in vars(pipe) if not key.startswith("_")},
        "scheduler": {key for key in vars(pipe.scheduler) if callable(vars(pipe.scheduler)[key])},
        "modes": list(_get_current_function_mode_stack()),
    }


@pytest.mark.parametrize("where", ["in the loop", "in a layer", "interrupted in a layer"])
@every_family
def test_nothing_is_left_behind_by_an_exception(tiny_pipe: GetPipe, name: str, where: str) -> None:
    pipe, taps, path = tiny_pipe(name), taps_of(name), CALL[name].attention[0]
    with Capture(pipe, taps, steps=[1, STEP]) as before:
        run(pipe, name, PROMPTS[:1], size=(32, 64))
    clean = traces(pipe)  # transformers' own hooks stay in its text encoders
    assert {part for part, *_ in clean["hooks"]} <= {"text_encoder", "text_encoder_2", "text_encoder_3"}
    assert not clean["scheduler"]
    assert not clean["modes"]
    layer = denoiser_of(pipe).get_submodule(text_layers(pipe, path)[0])
    projection = getattr(layer, "to_qkv_mlp_proj", None) or layer.to_k
    undo: Callable[[], None] = lambda: None  # noqa: E731
    options: dict[str, Any] = {}
    if where != "in the loop":
        hook = boom if where == "in a layer" else interrupt
        undo = projection.register_forward_hook(hook).remove
    elif "callback_on_step_end" in inspect.signature(pipe.__call__).parameters:
        options["callback_on_step_end"] = boom
    else:
        # The VAE would come next; a listener on the scheduler has to go, the raising step has to stay.
        step = pipe.scheduler.step
        pipe.scheduler.step = _raising_like(step)
        undo = lambda: delattr(pipe.scheduler, "step")  # noqa: E731
    try:
        with (
            pytest.raises((Boom, KeyboardInterrupt)),
            Capture(pipe, taps, steps=[1, STEP]),
            Capture(pipe, taps[:1], steps=[1], normalize="text"),
        ):
            run(pipe, name, PROMPTS[:1], size=(32, 64), **options)
    finally:
        undo()
    assert traces(pipe) == clean
    with Capture(pipe, taps, steps=[1, STEP]) as after:
        run(pipe, name, PROMPTS[:1], size=(32, 64))
    assert all(torch.equal(tensor, after[key]) for key, tensor in before.items())


def _raising_like(step: Callable[..., Any]) -> Callable[..., Any]:
    def raising(*args: Any, **kwargs: Any) -> Any:
        raise Boom

    raising.__signature__ = inspect.signature(step)  # type: ignore[attr-defined]
    return raising


def test_a_method_that_was_replaced_before_is_replaced_after(tiny_pipe: GetPipe) -> None:
    pipe = tiny_pipe("flux-dev")
    replaced = pipe.scheduler.step.__func__.__get__(pipe.scheduler)
    pipe.scheduler.step = replaced
    try:
        with Capture(pipe, ["x0"], steps=[1]):
            run(pipe, "flux-dev", PROMPTS[:1])
        assert vars(pipe.scheduler).get("step") is replaced
    finally:
        vars(pipe.scheduler).pop("step", None)


@every_family
def test_two_captures_do_not_see_each_other(tiny_pipe: GetPipe, name: str) -> None:
    pipe, (first, second, *_) = tiny_pipe(name), CALL[name].attention
    options: dict[str, Any] = {"size": (64, 96), "each": 2}
    with Capture(pipe, [Tap(first, "attention"), "x0"], steps=[2]) as single:
        run(pipe, name, PROMPTS[:2], **options)
    with (
        Capture(pipe, [Tap(first, "attention"), "x0"], steps=[2]) as outer,
        Capture(pipe, [Tap(first, "attention"), Tap(second, "attention")], steps=[1, 3]) as inner,
    ):
        run(pipe, name, PROMPTS[:2], **options)
    assert [key for key, _ in outer.items()] == [key for key, _ in single.items()]
    assert {step for (step, _), _ in inner.items()} == {1, 3}
    assert {str(tap) for (_, tap), _ in inner.items()} == {f"{first}/attention", f"{second}/attention"}
    assert all(torch.equal(tensor, outer[key]) for key, tensor in single.items())


@every_family
def test_bfloat16(tiny_pipe: GetPipe, name: str) -> None:
    pipe = copy.deepcopy(tiny_pipe(name)).to(torch.bfloat16)
    world = see(pipe, name, guided=True)
    assert denoiser_of(pipe).dtype == torch.bfloat16
    mask = real_tokens(name, pipe, PROMPTS).repeat_interleave(EACH, 0)
    for path in CALL[name].attention:
        maps = world.capture[STEP, path, "attention"]
        assert maps.dtype == torch.float32
        assert maps.isfinite().all()
        expected = world.eager_map(path) * mask[:, :, None]
        assert (maps.flatten(2) - expected).abs().max() < 2e-2 * expected.max()
    for path in CALL[name].activation:
        assert world.capture[STEP, path, "activation"].dtype == torch.bfloat16
    assert len(world.capture[STEP, "", "x0"]) == ROWS
    assert world.capture[STEP, "", "x0"].isfinite().all()
