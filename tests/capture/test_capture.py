"""The capture against independent computations, and against what it must leave alone."""

from __future__ import annotations

import copy
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import numpy as np
import pytest
import torch
from diffusers import StableDiffusionPipeline
from diffusers.models.attention_processor import Attention
from torch import Tensor
from torch.overrides import _get_current_function_mode_stack

from probe_lab.backbones.families import family_of
from probe_lab.capture import Capture, Tap
from probe_lab.errors import CaptureError

PROMPTS = ["a red circle", "a blue square left of a green cross", "a cyan triangle above a red square"]
DOWN = "down_blocks.0.attentions.0"
UP = "up_blocks.1.attentions.1"


def run(pipe: StableDiffusionPipeline, prompts: list[str], *, each: int = 1, **changes: Any) -> np.ndarray:
    options: dict[str, Any] = {"num_inference_steps": 4, "guidance_scale": 3.0, "height": 16, "width": 16} | changes
    rows = len(prompts) * each
    generators = [torch.Generator().manual_seed(row) for row in range(rows)]
    images: np.ndarray = pipe(
        prompts, num_images_per_prompt=each, generator=generators, output_type="np", **options
    ).images
    return images


def cross_attentions(pipe: StableDiffusionPipeline, path: str) -> list[Attention]:
    modules = pipe.unet.get_submodule(path).modules()
    return [module for module in modules if isinstance(module, Attention) and module.is_cross_attention]


@contextmanager
def recorded_projections(pipe: StableDiffusionPipeline, path: str) -> Iterator[list[list[tuple[Tensor, Tensor]]]]:
    """Per cross-attention layer below ``path``, the (query, key) projections of every denoiser call."""
    calls: list[list[tuple[Tensor, Tensor]]] = []
    handles = []
    for layer in cross_attentions(pipe, path):
        queries: list[Tensor] = []
        pairs: list[tuple[Tensor, Tensor]] = []
        calls.append(pairs)
        handles.append(layer.to_q.register_forward_hook(lambda m, a, o, q=queries: q.append(o.double())))
        handles.append(
            layer.to_k.register_forward_hook(lambda m, a, o, q=queries, p=pairs: p.append((q[-1], o.double())))
        )
    yield calls
    for handle in handles:
        handle.remove()


def eager_map(query: Tensor, key: Tensor, heads: int) -> Tensor:
    """[B, Q, d·heads], [B, K, d·heads] -> [B, K, Q] in float64, one head and one row at a time."""
    width = query.shape[-1] // heads
    rows = []
    for row in range(len(query)):
        maps = [
            torch.softmax(
                query[row, :, h * width : (h + 1) * width] @ key[row, :, h * width : (h + 1) * width].T / width**0.5, -1
            )
            for h in range(heads)
        ]
        rows.append(sum(maps) / heads)
    return torch.stack(rows).transpose(1, 2)


@pytest.mark.parametrize(("guidance", "size"), [(3.0, (16, 16)), (1.0, (16, 16)), (3.0, (16, 24))])
@pytest.mark.parametrize("path", [DOWN, UP])
def test_attention_equals_an_independent_computation(
    random_pipe: StableDiffusionPipeline, path: str, guidance: float, size: tuple[int, int]
) -> None:
    height, width = size
    with (
        recorded_projections(random_pipe, path) as calls,
        Capture(random_pipe, [Tap(path, "attention")], steps=[2]) as capture,
    ):
        run(random_pipe, PROMPTS, each=2, guidance_scale=guidance, height=height, width=width)
    maps = capture[2, path, "attention"]
    heads = cross_attentions(random_pipe, path)[0].heads
    expected = torch.stack([eager_map(*layer[1], heads) for layer in calls]).mean(0)
    if guidance > 1:
        expected = expected[len(expected) // 2 :]
    mask = capture.token_mask
    assert mask is not None
    expected = expected * mask[:, :, None]
    assert maps.shape == (6, 24, height // 2, width // 2)
    torch.testing.assert_close(maps.flatten(2).double(), expected, atol=1e-5, rtol=0)


def test_rows_belong_to_their_prompt_and_candidate(random_pipe: StableDiffusionPipeline) -> None:
    # In float64, so that what another batch size rounds differently stays far below the tolerance.
    pipe = copy.deepcopy(random_pipe).to(torch.float64)
    taps = [Tap(DOWN, "attention"), Tap("up_blocks.1", "activation"), Tap("", "x0"), Tap("", "latent")]
    with Capture(pipe, taps, steps=[3]) as capture:
        run(pipe, PROMPTS, each=2)
    together = dict(capture.items())
    for row in range(6):
        with Capture(pipe, taps, steps=[3]) as alone:
            random_pipe(
                PROMPTS[row // 2],
                generator=[torch.Generator().manual_seed(row)],
                num_inference_steps=4,
                guidance_scale=3.0,
                height=16,
                width=16,
            )
        for key, tensor in alone.items():
            torch.testing.assert_close(together[key][row : row + 1], tensor, atol=1e-5, rtol=0)
            others = torch.cat([together[key][:row], together[key][row + 1 :]])
            assert (others - tensor).abs().flatten(1).amax(1).min() > 1e-3


def test_attention_sums_to_one_over_tokens_but_for_the_masked_padding(random_pipe: StableDiffusionPipeline) -> None:
    tap = Tap(DOWN, "attention")
    with Capture(random_pipe, [tap], steps=[1]) as capture:
        run(random_pipe, PROMPTS)
    mask = capture.token_mask
    assert mask is not None
    assert mask.sum(1).tolist() == [len(prompt.split()) + 2 for prompt in PROMPTS]
    maps = capture[1, tap]
    assert (maps[~mask] == 0).all()
    assert ((maps.sum(1) > 0.05) & (maps.sum(1) < 1)).all()
    assert maps.dtype == torch.float32


def test_without_prompts_nothing_is_masked_and_rows_sum_to_one(random_pipe: StableDiffusionPipeline) -> None:
    embeds, negative = random_pipe.encode_prompt(PROMPTS, "cpu", 1, True)
    tap = Tap(DOWN, "attention")
    with Capture(random_pipe, [tap], steps=[1]) as capture:
        random_pipe(
            prompt_embeds=embeds,
            negative_prompt_embeds=negative,
            num_inference_steps=2,
            height=16,
            width=16,
            output_type="latent",
        )
    assert capture.token_mask is None
    torch.testing.assert_close(capture[1, tap].sum(1), torch.ones(3, 8, 8), atol=1e-5, rtol=0)


def test_images_are_bit_identical_with_and_without(random_pipe: StableDiffusionPipeline) -> None:
    plain = run(random_pipe, PROMPTS)
    taps = family_of(random_pipe).taps(random_pipe)
    with Capture(random_pipe, taps, steps=[1, 2, 3, 4]) as capture:
        watched = run(random_pipe, PROMPTS)
    assert np.array_equal(plain, watched)
    assert len(capture.items()) == 4 * len(taps)
    assert np.array_equal(plain, run(random_pipe, PROMPTS))


def test_latent_and_x0_are_the_schedulers(random_pipe: StableDiffusionPipeline) -> None:
    scheduler = random_pipe.scheduler
    seen: list[tuple[Tensor, Tensor]] = []
    original = scheduler.step

    def spy(model_output: Tensor, timestep: int, sample: Tensor, **kwargs: Any) -> Any:
        result = original(model_output, timestep, sample, **(kwargs | {"return_dict": True}))
        seen.append((sample.clone(), result.pred_original_sample))
        return (result.prev_sample,)

    scheduler.step = spy
    try:
        with Capture(random_pipe, ["latent", "x0"], steps=[1, 4]) as capture:
            run(random_pipe, PROMPTS)
    finally:
        del scheduler.step
    for step in (1, 4):
        latent, x0 = seen[step - 1]
        assert torch.equal(capture[step, "", "latent"], latent)
        torch.testing.assert_close(capture[step, "", "x0"], x0, atol=1e-5, rtol=1e-5)


def test_activation_is_the_conditional_half_of_the_modules_output(random_pipe: StableDiffusionPipeline) -> None:
    outputs: list[Tensor] = []
    block = random_pipe.unet.up_blocks[1]
    handle = block.register_forward_hook(lambda m, a, o: outputs.append(o.clone()))
    with Capture(random_pipe, [Tap("up_blocks.1", "activation")], steps=[2]) as capture:
        run(random_pipe, PROMPTS)
    handle.remove()
    assert torch.equal(capture[2, "up_blocks.1", "activation"], outputs[1][3:])


def is_clean(pipe: StableDiffusionPipeline) -> bool:
    modules = [*pipe.unet.modules(), *pipe.text_encoder.modules()]
    hooks = [m for m in modules if m._forward_hooks or m._forward_pre_hooks or m._forward_hooks_always_called]
    wrapped = {"step", "set_timesteps"} & set(vars(pipe.scheduler))
    return not hooks and not wrapped and not _get_current_function_mode_stack()


def test_nothing_is_left_behind(random_pipe: StableDiffusionPipeline) -> None:
    with Capture(random_pipe, family_of(random_pipe).taps(random_pipe), steps=[1]):
        run(random_pipe, PROMPTS)
        assert not is_clean(random_pipe)
    assert is_clean(random_pipe)


@pytest.mark.parametrize("where", ["inside attention", "in the loop"])
def test_nothing_is_left_behind_after_an_exception(random_pipe: StableDiffusionPipeline, where: str) -> None:
    class Boom(Exception):
        pass

    def boom(*args: Any, **kwargs: Any) -> Any:
        raise Boom

    layer = cross_attentions(random_pipe, "")[0]
    handle = layer.to_v.register_forward_hook(boom) if where == "inside attention" else None
    options = {} if handle else {"callback_on_step_end": boom}
    try:
        with pytest.raises(Boom), Capture(random_pipe, [Tap(DOWN, "attention")], steps=[1]):
            run(random_pipe, PROMPTS, **options)
    finally:
        if handle:
            handle.remove()
    assert is_clean(random_pipe)
    with Capture(random_pipe, [Tap(DOWN, "attention")], steps=[1]) as capture:
        run(random_pipe, PROMPTS)
    assert capture[1, DOWN, "attention"].shape[0] == 3


def test_two_captures_do_not_see_each_other(random_pipe: StableDiffusionPipeline) -> None:
    with Capture(random_pipe, [Tap(DOWN, "attention"), "x0"], steps=[2]) as single:
        run(random_pipe, PROMPTS)
    with (
        Capture(random_pipe, [Tap(DOWN, "attention"), "x0"], steps=[2]) as outer,
        Capture(random_pipe, [Tap(DOWN, "attention"), Tap(UP, "attention")], steps=[1, 2]) as inner,
    ):
        run(random_pipe, PROMPTS)
    assert [key for key, _ in outer.items()] == [key for key, _ in single.items()]
    for key, tensor in single.items():
        assert torch.equal(tensor, outer[key])
    assert torch.equal(inner[2, DOWN, "attention"], single[2, DOWN, "attention"])
    assert is_clean(random_pipe)


def test_a_second_call_replaces_the_first(random_pipe: StableDiffusionPipeline) -> None:
    with Capture(random_pipe, [Tap(DOWN, "attention"), "x0"], steps=[1, 2]) as capture:
        run(random_pipe, PROMPTS)
        first = dict(capture.items())
        run(random_pipe, PROMPTS[:1], each=2)
        again = run(random_pipe, PROMPTS)
    assert again.shape[0] == 3
    assert all(torch.equal(first[key], tensor) for key, tensor in capture.items())


@pytest.mark.parametrize("size", [2 * 30 * 11 * 4 * 4, 2 * 7 * 11 * 4, 1])  # four heads, then two; 7 queries; one
def test_parts_equal_everything_at_once(monkeypatch: pytest.MonkeyPatch, size: int) -> None:
    from probe_lab.capture import attention_maps as attention

    query, key = torch.randn(2, 6, 30, 8), torch.randn(2, 6, 11, 8)
    mask = torch.rand(2, 1, 30, 11) > 0.2
    whole = attention.attention_map(query, key, mask=mask)
    monkeypatch.setattr(attention, "CHUNK_BYTES", {"cpu": size, "cuda": size})
    torch.testing.assert_close(attention.attention_map(query, key, mask=mask), whole, atol=1e-6, rtol=0)
    explicit = torch.nn.functional.scaled_dot_product_attention(
        query.double(), key.double(), torch.eye(11).double().expand(2, 6, 11, 11), attn_mask=mask
    )
    torch.testing.assert_close(whole.double(), explicit.mean(1).transpose(1, 2), atol=1e-5, rtol=0)


def test_errors_name_what_there_is(random_pipe: StableDiffusionPipeline) -> None:
    with pytest.raises(CaptureError, match=r"no tap 'up_blocks\.9\.attentions\.0/attention': did you mean 'up_blocks"):
        Capture(random_pipe, ["up_blocks.9.attentions.0/attention"], steps=[1])
    with pytest.raises(CaptureError, match=r"no tap 'down_blocks\.1/attention'"):
        Capture(random_pipe, ["down_blocks.1/attention"], steps=[1])
    with pytest.raises(CaptureError, match="1 is the first call"):
        Capture(random_pipe, ["x0"], steps=[0])
    with pytest.raises(CaptureError, match="no kind of tap"):
        Capture(random_pipe, ["x1"], steps=[1])
    with (
        pytest.raises(CaptureError, match="step 9 is beyond the schedule: this call has 4 steps"),
        Capture(random_pipe, ["x0"], steps=[9]),
    ):
        run(random_pipe, PROMPTS)
    with Capture(random_pipe, ["x0"], steps=[1]) as capture:
        run(random_pipe, PROMPTS)
    with pytest.raises(CaptureError, match="'1/latent' was not captured: there is 1/x0"):
        capture[1, "", "latent"]
    assert is_clean(random_pipe)


def test_attention_that_bypasses_sdpa_is_refused(random_pipe: StableDiffusionPipeline) -> None:
    from diffusers.models.attention_processor import AttnProcessor

    before = random_pipe.unet.attn_processors
    random_pipe.unet.set_attn_processor(AttnProcessor())
    try:
        with (
            pytest.raises(CaptureError, match=r"does not call F\.scaled_dot_product_attention"),
            Capture(random_pipe, [Tap(DOWN, "attention")], steps=[1]),
        ):
            run(random_pipe, PROMPTS)
    finally:
        random_pipe.unet.set_attn_processor(before)
    assert is_clean(random_pipe)
