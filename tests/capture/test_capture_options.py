"""Choosing taps by name, pattern and set; what a capture does to them on the way; what it refuses."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from diffusers import DiffusionPipeline, StableDiffusionPipeline
from diffusers.models.attention_processor import AttnProcessor
from tiny_pipelines import CALL, run
from torch import Tensor
from torch.overrides import _get_current_function_mode_stack

from probe_lab.backbones.families import FAMILIES, family_of
from probe_lab.capture import Capture, Tap
from probe_lab.errors import CaptureError

PROMPTS = ["a red circle", "a blue square left of a green cross"]
UP = "up_blocks.1.attentions.1"
GetPipe = Callable[[str], DiffusionPipeline]


def test_a_pattern_stands_for_all_taps_that_it_matches(random_pipe: StableDiffusionPipeline) -> None:
    every = [str(tap) for tap in family_of(random_pipe).taps(random_pipe)]
    capture = Capture(
        random_pipe, ["up_blocks.*attentions.?/attention", "x0", "up_blocks.1.attentions.0/attention"], [1]
    )
    expected = [tap for tap in every if tap.startswith("up_blocks") and tap.endswith("/attention")]
    expected = [tap for tap in expected if "transformer_blocks" not in tap]
    assert expected
    assert [str(tap) for tap in capture.taps] == [*expected, "x0"]  # the last name was there already
    with pytest.raises(
        CaptureError, match=r"'upblocks\.\*/attention' matches no tap of the backbone: did you mean 'up_bl"
    ):
        Capture(random_pipe, ["upblocks.*/attention"], [1])


def test_every_listed_tap_can_be_captured_and_a_pattern_takes_each_tensor_once(tiny_pipe: GetPipe) -> None:
    """All families: the listing holds nothing that fails, and shapes are [channels or tokens, height, width]."""
    for name in CALL:
        pipe = tiny_pipe(name)
        taps = family_of(pipe).taps(pipe)
        with Capture(pipe, taps, [1]) as capture:
            run(pipe, name, PROMPTS)
        assert {tap for (_, tap), _ in capture.items()} == set(taps)
        assert all(tensor.dim() == 4 and len(tensor) == 2 for _, tensor in capture.items())
        chosen = family_of(pipe).choose(pipe, ["*"])
        kept = {tap: capture[1, tap.module, tap.kind] for tap in chosen}
        for tap in taps:
            same = [other for other, tensor in kept.items() if torch.equal(tensor, capture[1, tap.module, tap.kind])]
            assert len(same) == 1, (name, tap, same)


def test_of_two_names_of_a_tensor_a_pattern_takes_the_one_that_is_written_then_the_papers(tiny_pipe: GetPipe) -> None:
    pipe = tiny_pipe("sd")
    choose = family_of(pipe).choose
    block, inner = "down_blocks.0.attentions.0", "down_blocks.0.attentions.0.transformer_blocks.0"
    assert Tap(inner, "attention") in choose(pipe, ["paper"])
    assert [str(tap) for tap in choose(pipe, [f"{block}*/attention"])] == [f"{inner}/attention"]
    assert [str(tap) for tap in choose(pipe, [f"{block}*/attention", f"{block}/attention"])] == [f"{block}/attention"]
    assert len(choose(pipe, [f"{block}/attention", f"{inner}/attention"])) == 2  # written one by one
    last = [str(tap) for tap in choose(pipe, ["*.attentions.1/activation", "up_blocks.2/activation"])]
    assert "up_blocks.2/activation" in last
    assert "up_blocks.2.attentions.1/activation" not in last


@pytest.mark.parametrize(
    ("count", "part", "expected"), [(24, "last", range(14, 24)), (57, "middle", range(23, 33)), (6, "middle", range(6))]
)
def test_the_paper_reads_ten_consecutive_blocks(
    tiny_pipe: GetPipe, monkeypatch: pytest.MonkeyPatch, count: int, part: str, expected: range
) -> None:
    pipe = tiny_pipe("flux-dev")
    family = next(family for family in FAMILIES if family.paper_part == part)
    blocks = torch.nn.Module()
    blocks.transformer_blocks = torch.nn.ModuleList(torch.nn.Identity() for _ in range(count))
    stack = torch.nn.Module()
    if part == "last":
        stack.down_blocks = torch.nn.ModuleList([torch.nn.Module()])
        stack.down_blocks[0].attentions = torch.nn.ModuleList([blocks])
        stack.up_blocks = torch.nn.ModuleList(torch.nn.Identity() for _ in range(4))
        prefix, activation = "down_blocks.0.attentions.0.", "up_blocks.2"
    else:
        stack, prefix, activation = blocks, "", f"transformer_blocks.{5 * count // 6}"
    monkeypatch.setattr(pipe, family.denoiser, stack, raising=False)
    taps = family.paper_taps(pipe)
    assert taps[:-1] == [Tap(f"{prefix}transformer_blocks.{i}", "attention") for i in expected]
    assert taps[-1] == Tap(activation, "activation")


def test_maps_and_activations_are_averaged_down_to_the_size(random_pipe: StableDiffusionPipeline) -> None:
    taps = [f"{UP}/attention", f"{UP}/activation", "latent"]
    with Capture(random_pipe, taps, [1]) as whole, Capture(random_pipe, taps, [1], size=4) as small:
        random_pipe(PROMPTS, num_inference_steps=2, height=16, width=32, output_type="latent")
    for kind in ("attention", "activation"):
        large = whole[1, UP, kind]
        assert large.shape[2:] == (8, 16)
        means = large.unflatten(2, (2, 4)).unflatten(4, (4, 4)).mean((3, 5))
        torch.testing.assert_close(small[1, UP, kind], means, atol=1e-6, rtol=1e-5)
    assert torch.equal(small[1, "", "latent"], whole[1, "", "latent"])  # what the decoder needs stays whole


def test_the_token_axis_is_cut_or_filled(random_pipe: StableDiffusionPipeline) -> None:
    taps = [f"{UP}/attention"]
    with (
        Capture(random_pipe, taps, [1]) as whole,
        Capture(random_pipe, taps, [1], tokens=5) as cut,
        Capture(random_pipe, taps, [1], tokens=40) as longer,
    ):
        random_pipe(PROMPTS, num_inference_steps=2, height=16, width=16, output_type="latent")
    maps, mask = whole[1, UP, "attention"], whole.token_mask
    assert mask is not None
    assert cut.token_mask is not None
    assert longer.token_mask is not None
    assert torch.equal(cut[1, UP, "attention"], maps[:, :5])
    assert torch.equal(cut.token_mask, mask[:, :5])
    assert torch.equal(longer[1, UP, "attention"][:, : maps.shape[1]], maps)
    assert longer[1, UP, "attention"].shape[1] == longer.token_mask.shape[1] == 40
    assert not longer[1, UP, "attention"][:, maps.shape[1] :].any()
    assert not longer.token_mask[:, maps.shape[1] :].any()


def test_captures_may_end_in_any_order(random_pipe: StableDiffusionPipeline) -> None:
    first, second = Capture(random_pipe, ["x0"], [1]), Capture(random_pipe, ["latent"], [1])
    first.__enter__()
    second.__enter__()
    first.__exit__(None, None, None)
    random_pipe(PROMPTS, num_inference_steps=2, height=16, width=16, output_type="latent")
    second.__exit__(None, None, None)
    assert not first.items()
    assert len(second.items()) == 1
    assert "step" not in vars(random_pipe.scheduler)
    assert "encode_prompt" not in vars(random_pipe)


@pytest.mark.parametrize("how", ["whole", "in place", "a block"])
def test_a_compiled_denoiser_is_refused(tiny_pipe: GetPipe, monkeypatch: pytest.MonkeyPatch, how: str) -> None:
    pipe = tiny_pipe("flux-dev")
    model = pipe.transformer
    if how == "whole":
        monkeypatch.setattr(pipe, "transformer", torch.compile(model))
    elif how == "in place":
        monkeypatch.setattr(model, "_compiled_call_impl", None)
        model.compile()
    else:
        monkeypatch.setitem(model.transformer_blocks._modules, "0", torch.compile(model.transformer_blocks[0]))
    with pytest.raises(CaptureError, match="compiled: capture with the uncompiled model"):
        Capture(pipe, ["x0"], [1])


def test_a_processor_that_bypasses_the_attention_function_is_refused(tiny_pipe: GetPipe) -> None:
    pipe = tiny_pipe("pixart")
    before = pipe.transformer.attn_processors
    pipe.transformer.set_attn_processor(AttnProcessor())
    try:
        with (
            pytest.raises(CaptureError, match=r"does not call F\.scaled_dot_product_attention"),
            Capture(pipe, ["transformer_blocks.0/attention"], [1]),
        ):
            run(pipe, "pixart", PROMPTS)
    finally:
        pipe.transformer.set_attn_processor(before)


def test_a_backend_that_bypasses_the_attention_function_is_refused(tiny_pipe: GetPipe) -> None:
    pipe = tiny_pipe("flux-dev")
    pipe.transformer.set_attention_backend("flex")
    try:
        with (
            pytest.raises(CaptureError, match=r"set_attention_backend\('native'\)"),
            Capture(pipe, ["single_transformer_blocks.0/attention"], [1]),
        ):
            run(pipe, "flux-dev", PROMPTS)
    finally:
        pipe.transformer.set_attention_backend("native")  # diffusers sets it for all models, and resetting leaves that
        pipe.transformer.reset_attention_backend()


def _run_twice(module: torch.nn.Module, args: tuple[Tensor, ...], kwargs: dict[str, object], output: object) -> None:
    module.forward(*args, **kwargs)  # without the hooks of the module itself


@pytest.mark.parametrize("tap", [f"{UP}.transformer_blocks.0/attention", f"{UP}.proj_in/activation"])
def test_a_module_that_runs_twice_per_step_is_refused(random_pipe: StableDiffusionPipeline, tap: str) -> None:
    parent = random_pipe.unet.get_submodule(UP)
    handle = parent.register_forward_hook(_run_twice, with_kwargs=True)
    try:
        with pytest.raises(CaptureError, match="runs twice per step"), Capture(random_pipe, [tap], [1]):
            random_pipe(PROMPTS, num_inference_steps=2, height=16, width=16, output_type="latent")
    finally:
        handle.remove()


def test_a_module_that_does_not_run_is_refused(random_pipe: StableDiffusionPipeline) -> None:
    random_pipe.unet.spare = torch.nn.Identity()
    try:
        with (
            pytest.raises(CaptureError, match="'spare/activation' was never reached"),
            Capture(random_pipe, ["spare/activation"], [1]),
        ):
            random_pipe(PROMPTS, num_inference_steps=2, height=16, width=16, output_type="latent")
    finally:
        del random_pipe.unet.spare


def test_offloaded_parts_are_captured_too(tiny_pipe: GetPipe) -> None:
    """accelerate replaces forwards and moves weights: the maps stay those of the plain pipeline."""
    accelerate = pytest.importorskip("accelerate")
    pipe, taps = tiny_pipe("sd3"), ["transformer_blocks.0/attention", "transformer_blocks.1/activation", "x0"]
    with Capture(pipe, taps, [2]) as plain:
        run(pipe, "sd3", PROMPTS)
    _, hook = accelerate.cpu_offload_with_hook(pipe.transformer, execution_device="cpu")
    try:
        with Capture(pipe, taps, [2]) as offloaded:
            run(pipe, "sd3", PROMPTS)
    finally:
        hook.remove()
    for (step, tap), tensor in plain.items():
        assert torch.equal(offloaded[step, tap], tensor)


def test_text_of_a_call_that_failed_is_forgotten(tiny_pipe: GetPipe) -> None:
    pipe = tiny_pipe("flux-dev")
    with Capture(pipe, ["x0"], [1]) as capture:
        with pytest.raises(ValueError, match="generators"):
            pipe(["a"], height=32, width=32, num_inference_steps=2, generator=[torch.Generator()] * 2)
        pipe.encode_prompt("a red circle", None)  # by hand: of another prompt than the next call's
        run(pipe, "flux-dev", ["a cyan triangle above a red square"])
    assert capture.token_mask is not None
    assert capture.token_mask.sum() == 8  # seven words and the end


def test_a_negative_prompt_beside_prompt_embeddings_is_not_taken_for_the_prompt(tiny_pipe: GetPipe) -> None:
    pipe = tiny_pipe("flux-dev")
    embeds, pooled, _ = pipe.encode_prompt("a red circle", None, max_sequence_length=24)
    with Capture(pipe, ["x0"], [1]) as capture:
        pipe(
            prompt_embeds=embeds,
            pooled_prompt_embeds=pooled,
            negative_prompt="a",
            true_cfg_scale=2.0,
            max_sequence_length=24,
            height=32,
            width=32,
            num_inference_steps=2,
            output_type="latent",
        )
    assert capture.token_mask is None


def test_pipelines_that_share_parts_do_not_disturb_each_other(random_pipe: StableDiffusionPipeline) -> None:
    twin = StableDiffusionPipeline(**random_pipe.components, requires_safety_checker=False)
    twin.set_progress_bar_config(disable=True)
    call = {"height": 16, "width": 16, "output_type": "latent"}
    with Capture(random_pipe, ["latent"], [3]) as first, Capture(twin, ["x0"], [1]) as second:
        random_pipe(PROMPTS, num_inference_steps=4, **call)
        kept = first[3, "", "latent"]
        twin(PROMPTS[:1], num_inference_steps=2, **call)  # fewer steps than the first capture wants
    assert torch.equal(first[3, "", "latent"], kept)
    assert second[1, "", "x0"].shape[0] == 1


def test_an_interruption_that_is_caught_inside_leaves_no_mode(random_pipe: StableDiffusionPipeline) -> None:
    def interrupt(module: torch.nn.Module, args: object) -> None:
        raise KeyboardInterrupt

    call = {"num_inference_steps": 2, "height": 16, "width": 16, "output_type": "latent"}
    with Capture(random_pipe, [f"{UP}/attention"], [1]) as capture:
        handle = random_pipe.unet.get_submodule(f"{UP}.transformer_blocks.0.attn2.to_k").register_forward_pre_hook(
            interrupt
        )
        with pytest.raises(KeyboardInterrupt):
            random_pipe(PROMPTS, **call)
        handle.remove()
        random_pipe(PROMPTS, **call)
    assert capture[1, UP, "attention"].shape[0] == 2
    assert not _get_current_function_mode_stack()


def test_a_capture_is_entered_once_at_a_time_and_a_scheduler_stays(random_pipe: StableDiffusionPipeline) -> None:
    capture = Capture(random_pipe, ["x0"], [1])
    own = random_pipe.scheduler
    call = {"num_inference_steps": 2, "height": 16, "width": 16, "output_type": "latent"}
    with capture, pytest.raises(CaptureError, match="entered already"):
        capture.__enter__()
    with capture:
        random_pipe.scheduler = type(own).from_config(own.config)
        with pytest.raises(CaptureError, match="scheduler was exchanged inside the capture"):
            random_pipe(PROMPTS, **call)
    random_pipe.scheduler = own
    assert "step" not in vars(own)
    with capture:  # and again, once it has been left
        random_pipe(PROMPTS, **call)
    assert capture.items()


def test_normalised_text_is_that_of_all_real_tokens_even_where_some_are_cut(
    random_pipe: StableDiffusionPipeline,
) -> None:
    taps = [f"{UP}/attention"]
    with (
        Capture(random_pipe, taps, [1], normalize="text") as whole,
        Capture(random_pipe, taps, [1], normalize="text", tokens=3) as cut,
    ):
        random_pipe(PROMPTS, num_inference_steps=2, height=16, width=16, output_type="latent")
    assert torch.equal(cut[1, UP, "attention"], whole[1, UP, "attention"][:, :3])
