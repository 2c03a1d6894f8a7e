"""What a selection says of itself is what happened: steps, calls, seeds, and prompts that are given as embeddings."""

from __future__ import annotations

import functools
import inspect
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import pytest
import torch
from diffusers import DDIMScheduler, DiffusionPipeline, EulerDiscreteScheduler, HeunDiscreteScheduler
from tiny_pipelines import CALL
from torch import Tensor

from probe_lab.backbones.families import family_of
from probe_lab.capture import Capture
from probe_lab.errors import SelectError
from probe_lab.probes import Probe, ProbeSpec, load_probe, save_probe
from probe_lab.selection import ProbeSelect, Selection

GetPipe = Callable[[str], DiffusionPipeline]
PROMPTS = ["a red circle", "a blue square left of a green cross"]
SIZE = {"height": 64, "width": 64, "output_type": "latent"}
STEPS = 5
ATTENTION = "up_blocks.1.attentions.0/attention"


def probe_of(pipe: DiffusionPipeline, step: int = 2, of: int = STEPS, **changes: Any) -> Probe:
    family = family_of(pipe).name
    wanted: dict[str, Any] = {"kind": "linear", "taps": {"x0": (4, 8, 8)}, "evaluators": ("score",)}
    with torch.random.fork_rng():
        torch.manual_seed(3)
        spec = ProbeSpec(**wanted | {"step": step, "total_steps": of, "backbone": f"{family}:tiny"} | changes)
        return Probe(spec).eval()


def generators(count: int) -> list[torch.Generator]:
    return [torch.Generator().manual_seed(seed) for seed in range(count)]


def select(pipe: DiffusionPipeline, probe: Probe, *prompt: Any, candidates: int = 3, **options: Any) -> Selection:
    return ProbeSelect(pipe, probe, candidates=candidates)(*prompt, **{"num_inference_steps": STEPS, **SIZE, **options})


# Steps are those of the scheduler, and calls those that were made.

SIGMAS = [14.6, 7.0, 3.5, 1.5, 0.5, 0.0]


@pytest.mark.parametrize(
    ("options", "of", "made"),
    [
        ({"num_inference_steps": 5}, 5, 5),
        ({"sigmas": SIGMAS}, 5, 5),  # the last one is the finished image
        ({"timesteps": [900, 700, 500, 300, 100, 50]}, 6, 6),
        ({"num_inference_steps": 61}, 62, 62),  # trailing spacing rounds
        ({"num_inference_steps": 10, "denoising_end": 0.5}, 10, 5),
    ],
)
def test_the_scheduler_says_how_many_steps_there_are(
    tiny: GetPipe, options: dict[str, Any], of: int, made: int
) -> None:
    pipe = tiny("sdxl")
    own, calls = pipe.scheduler, []
    pipe.scheduler = EulerDiscreteScheduler.from_config(own.config, timestep_spacing="trailing")
    handle = pipe.unet.register_forward_hook(lambda *_: calls.append(1))
    try:
        found = select(pipe, probe_of(pipe, 2, of), PROMPTS[0], **options)
        assert len(calls) == made
        assert found.of == 3 * made
        assert found.denoiser_calls == 3 * 2 + (made - 2)
        with pytest.raises(SelectError, match=f"chosen at step 2 of {of}:"):
            select(pipe, probe_of(pipe, 2, of + 1), PROMPTS[0], **options)
        if options.get("num_inference_steps") == 61:  # a probe of a cache that asked for as many
            assert select(pipe, probe_of(pipe, 2, 61), PROMPTS[0], **options).of == 3 * 62
    finally:
        handle.remove()
        pipe.scheduler = own


@pytest.mark.parametrize(("last", "chosen"), [(1, False), (2, True), (3, True)])
def test_a_call_that_a_callback_stops(tiny: GetPipe, last: int, chosen: bool) -> None:
    pipe = tiny("sd")

    def stop(pipe: DiffusionPipeline, step: int, timestep: Tensor, tensors: dict[str, Any]) -> dict[str, Any]:
        pipe._interrupt = step + 1 >= last
        return tensors

    if chosen:
        found = select(pipe, probe_of(pipe), PROMPTS[0], callback_on_step_end=stop)
        assert (found.of, found.denoiser_calls) == (3 * last, 3 * 2 + last - 2)
    else:
        with pytest.raises(SelectError, match="the call ended after step 1 of 5, before the cut at step 2"):
            select(pipe, probe_of(pipe), PROMPTS[0], callback_on_step_end=stop)
    assert "__call__" not in vars(pipe)
    assert "step" not in vars(pipe.scheduler)


def test_a_ratio_and_a_schedule_are_of_the_schedulers_steps(tiny: GetPipe) -> None:
    pipe = tiny("sdxl")
    ratio = ProbeSelect(pipe, probe_of(pipe, 2, 5), candidates=3, cutoff_step_ratio=0.4)
    assert ratio(PROMPTS[0], sigmas=SIGMAS, **SIZE).of == 15
    probes = [probe_of(pipe, 1, 5), probe_of(pipe, 3, 5)]
    several = ProbeSelect(pipe, probes, candidates=3, schedule=[{"step": 1, "keep": 2}, {"step": 3, "keep": 1}])
    assert several(PROMPTS[0], sigmas=SIGMAS, **SIZE).denoiser_calls == 3 + 2 * 2 + 2


class OwnStep(DDIMScheduler):
    def step(self, *args: Any, **kwargs: Any) -> Any:
        return super().step(*args, **kwargs)


@pytest.mark.parametrize("kind", [HeunDiscreteScheduler, OwnStep])
def test_two_calls_a_step_or_a_step_of_its_own_are_refused(tiny: GetPipe, kind: type) -> None:
    pipe = tiny("sd")
    own = pipe.scheduler
    pipe.scheduler = kind.from_config(own.config)
    try:
        with pytest.raises(SelectError, match=f"selection is not known to be safe with .*{kind.__name__}"):
            select(pipe, probe_of(pipe), PROMPTS[0])
    finally:
        pipe.scheduler = own


# Seeds are those that draw an image again.


def again(pipe: DiffusionPipeline, found: Selection) -> float:
    """Largest difference of the first kept image from the one that its seed draws."""
    (seed,) = found.seeds[0]
    assert seed is not None
    options = {"num_inference_steps": STEPS, **SIZE}
    return float(
        (pipe(PROMPTS[0], generator=torch.Generator().manual_seed(seed), **options).images - found.images).abs().max()
    )


def test_seeds_draw_the_kept_images_again_or_are_none(tiny: GetPipe) -> None:
    pipe, mine = tiny("sd"), generators(3)
    probe = probe_of(pipe)
    assert again(pipe, select(pipe, probe, PROMPTS[0], generator=mine)) < 1e-3
    assert select(pipe, probe, PROMPTS[0], generator=mine).seeds == ((None,),)  # they have moved on
    assert again(pipe, select(pipe, probe, PROMPTS[0], generator=mine[0])) < 1e-3  # new ones, seeded from it
    assert again(pipe, select(pipe, probe, PROMPTS[0])) < 1e-3
    latents = torch.randn(3, 4, 8, 8, generator=mine[1])
    assert select(pipe, probe, PROMPTS[0], generator=generators(3), latents=latents).seeds == ((None,),)
    shared = torch.Generator().manual_seed(5)
    assert select(pipe, probe, PROMPTS[0], generator=[shared] * 3).seeds == ((None,),)
    reset = [generator.manual_seed(seed) for seed, generator in enumerate(mine)]
    assert again(pipe, select(pipe, probe, PROMPTS[0], generator=reset)) < 1e-3


def test_each_generator_is_judged_by_itself(tiny: GetPipe) -> None:
    pipe, mine = tiny("sd"), generators(3)
    torch.randn(1, generator=mine[1])
    found = ProbeSelect(pipe, probe_of(pipe), candidates=3, keep=3)(
        PROMPTS[0], generator=mine, num_inference_steps=STEPS, **SIZE
    )
    assert dict(zip(found.kept[0], found.seeds[0], strict=True)) == {0: 0, 1: None, 2: 2}


# Defaults of the process.


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16, torch.float64])
def test_a_default_dtype_changes_no_score(tiny: GetPipe, tmp_path: Path, dtype: torch.dtype) -> None:
    pipe = tiny("sd")
    probe = probe_of(pipe, kind="cnn", evaluators=("one", "two"), width=8, embedding=8, taps={"latent": (4, 8, 8)})
    save_probe(tmp_path, probe)
    latents = torch.randn(3, 4, 8, 8, generator=torch.Generator().manual_seed(0))
    options: dict[str, Any] = {"num_inference_steps": STEPS, **SIZE, "latents": latents, "prompt": PROMPTS[0]}
    expected = ProbeSelect(pipe, probe, candidates=3)(**options)
    torch.set_default_dtype(dtype)
    try:
        loaded = load_probe(tmp_path)
        assert {tensor.dtype for tensor in loaded.parameters()} == {torch.float32}
        for by in ("one", {"one": 0.5, "two": 0.5}, "pareto"):
            found = ProbeSelect(pipe, tmp_path, candidates=3, by=by)(**options)  # type: ignore[arg-type]
            assert found.scores.dtype == torch.float32
            torch.testing.assert_close(found.scores, expected.scores, atol=2e-2, rtol=0)
    finally:
        torch.set_default_dtype(torch.float32)


def test_a_default_device_changes_nothing(tiny: GetPipe, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """What would be made on the default device has no numbers there; the parts of the pipeline are kept from it."""
    pipe = tiny("sd")
    taps = {"x0": (4, 8, 8), ATTENTION: (24, 4, 4), "lookahead": (4, 8, 8)}
    sizes = {"text": "tokens", "text_dim": 32, "token_dim": 32, "tokens": 24, "width": 8, "embedding": 8}
    save_probe(tmp_path, probe_of(pipe, kind="cnn", taps=taps, **sizes))

    def call() -> Selection:
        chooses = ProbeSelect(pipe, tmp_path, candidates=3, by="pareto")
        return chooses(PROMPTS, generator=generators(6), num_inference_steps=STEPS, **SIZE)

    expected = call()
    parts = [(pipe, "encode_prompt"), (pipe, "prepare_latents"), (pipe.unet, "forward")]
    parts += [(pipe.scheduler, "set_timesteps"), (pipe.scheduler, "step")]
    for owner, name in parts:
        plain = getattr(owner, name)

        @functools.wraps(plain)
        def on_the_cpu(*args: Any, plain: Callable[..., Any] = plain, **kwargs: Any) -> Any:
            with torch.device("cpu"):
                return plain(*args, **kwargs)

        monkeypatch.setattr(owner, name, on_the_cpu)
    torch.set_default_device("meta")
    try:
        found = call()
    finally:
        torch.set_default_device(None)
    assert torch.equal(found.scores, expected.scores)
    assert (found.kept, found.seeds) == (expected.kept, expected.seeds)


def test_autocast_does_not_round_a_probe(tiny: GetPipe) -> None:
    pipe = tiny("sd")
    probe = probe_of(pipe, 1, 5, kind="cnn", width=8, embedding=8, taps={"latent": (4, 8, 8)})
    plain = select(pipe, probe, PROMPTS[0], generator=generators(3))
    with torch.autocast("cpu", dtype=torch.bfloat16):
        rounded = select(pipe, probe, PROMPTS[0], generator=generators(3))
    torch.testing.assert_close(
        rounded.scores, plain.scores, atol=1e-6, rtol=1e-5
    )  # of the first latent, which is noise


# Embeddings instead of prompts.

RESULTS: Mapping[str, tuple[str, ...]] = {
    "sd": ("prompt_embeds", "negative_prompt_embeds"),
    "sdxl": ("prompt_embeds", "negative_prompt_embeds", "pooled_prompt_embeds", "negative_pooled_prompt_embeds"),
    "sd3": ("prompt_embeds", "negative_prompt_embeds", "pooled_prompt_embeds", "negative_pooled_prompt_embeds"),
    "pixart": (
        "prompt_embeds",
        "prompt_attention_mask",
        "negative_prompt_embeds",
        "negative_prompt_attention_mask",
    ),
    "sana": (
        "prompt_embeds",
        "prompt_attention_mask",
        "negative_prompt_embeds",
        "negative_prompt_attention_mask",
    ),
    "flux-dev": ("prompt_embeds", "pooled_prompt_embeds", ""),
    "flux2": ("prompt_embeds", ""),
    "qwen-image": ("prompt_embeds", "prompt_embeds_mask"),
}
"""What ``encode_prompt`` of each family returns, by the names under which its pipeline takes them."""


def embeddings_of(pipe: DiffusionPipeline, name: str, **changes: Any) -> dict[str, Tensor]:
    options = {**CALL[name].options, **changes}
    taken = inspect.signature(pipe.encode_prompt).parameters
    given: dict[str, Any] = {"prompt": PROMPTS, "device": "cpu", "num_images_per_prompt": 1}
    given |= {key: None for key in ("prompt_2", "prompt_3") if key in taken}
    given |= {"do_classifier_free_guidance": True} if "do_classifier_free_guidance" in taken else {}
    given |= {key: value for key, value in options.items() if key in taken}
    with torch.no_grad():
        tensors = pipe.encode_prompt(**given)
    return {key: tensor for key, tensor in zip(RESULTS[name], tensors, strict=True) if key}


@pytest.mark.parametrize("name", RESULTS)
def test_embeddings_draw_what_their_prompts_draw(tiny: GetPipe, name: str) -> None:
    pipe = tiny(name)
    options = {"num_inference_steps": 3, **SIZE, **CALL[name].options, **CALL[name].plain}
    chooses = ProbeSelect(pipe, probe_of(pipe, 1, 3), candidates=3, keep=2)
    expected = chooses(PROMPTS, generator=generators(6), **options)
    found = chooses(generator=generators(6), **embeddings_of(pipe, name), **options)
    assert found.kept == expected.kept
    assert found.seeds == expected.seeds
    torch.testing.assert_close(found.scores, expected.scores, atol=1e-4, rtol=0)
    torch.testing.assert_close(found.images, expected.images, atol=1e-4, rtol=0)


@pytest.mark.parametrize("name", ["qwen-image", "flux-schnell"])
def test_negative_embeddings_of_a_pipeline_that_guides_by_calls(tiny: GetPipe, name: str) -> None:
    pipe = tiny(name)
    family = "flux-dev" if name == "flux-schnell" else name
    negative = {f"negative_{key}": tensor for key, tensor in embeddings_of(pipe, family).items()}
    options = {"num_inference_steps": 3, **SIZE, **CALL[name].options, "true_cfg_scale": 3.0}
    chooses = ProbeSelect(pipe, probe_of(pipe, 1, 3), candidates=2)
    expected = chooses(PROMPTS, generator=generators(4), negative_prompt=PROMPTS, **options)
    found = chooses(PROMPTS, generator=generators(4), **negative, **options)
    assert found.kept == expected.kept
    torch.testing.assert_close(found.images, expected.images, atol=1e-4, rtol=0)


@pytest.mark.parametrize("name", ["sdxl", "sd3"])
def test_further_prompts_go_with_theirs(tiny: GetPipe, name: str) -> None:
    pipe = tiny(name)
    options = {"num_inference_steps": 3, **SIZE, **CALL[name].options, **CALL[name].plain, "prompt_2": PROMPTS[::-1]}
    found = ProbeSelect(pipe, probe_of(pipe, 1, 3), candidates=2)(PROMPTS, generator=generators(4), **options)
    assert len(found.images) == 2
    one = {**options, "prompt_2": PROMPTS[0]}
    assert len(ProbeSelect(pipe, probe_of(pipe, 1, 3), candidates=2)(PROMPTS, **one).images) == 2
    with pytest.raises(SelectError, match="there are 1 entries of prompt_2 for 2 prompts: give one each"):
        select(pipe, probe_of(pipe), PROMPTS, prompt_2=PROMPTS[:1])


def test_embeddings_that_do_not_fit_are_refused_in_a_sentence(tiny: GetPipe) -> None:
    pipe = tiny("sdxl")
    given = embeddings_of(pipe, "sdxl")
    shorter = {**given, "pooled_prompt_embeds": given["pooled_prompt_embeds"][:1]}
    with pytest.raises(SelectError, match="prompt and prompt_embeds: both say what is drawn; give one of them"):
        select(pipe, probe_of(pipe), PROMPTS, **given)
    with pytest.raises(SelectError, match="prompt and prompt_embeds: neither says what is drawn"):
        select(pipe, probe_of(pipe))
    with pytest.raises(SelectError, match="pooled_prompt_embeds has 1 rows for 2 prompts: give one row each"):
        select(pipe, probe_of(pipe), **shorter)
    with pytest.raises(SelectError, match=r"there are 5 generators for 6 candidates \(2 prompts × 3\)"):
        select(pipe, probe_of(pipe), generator=generators(5), **given)


def reading_text(pipe: DiffusionPipeline, name: str, text: str) -> Probe:
    """A probe of the width of the text that the pipeline's denoiser is given."""
    with Capture(pipe, [f"{CALL[name].attention[0]}/attention"], [1]) as capture:
        pipe(PROMPTS[0], num_inference_steps=1, **SIZE, **CALL[name].options)
    tokens = capture[1, CALL[name].attention[0], "attention"].shape[1]
    wide = (
        pipe.unet.config.cross_attention_dim if hasattr(pipe, "unet") else pipe.transformer.config.joint_attention_dim
    )
    pooled = 32 if name in ("sd", "sdxl") else pipe.transformer.config.pooled_projection_dim
    sizes = {"text_dim": pooled, "token_dim": wide, "tokens": tokens} if text == "tokens" else {"text_dim": pooled}
    return probe_of(pipe, kind="cnn", text=text, width=8, embedding=8, **sizes)


def test_a_probe_that_reads_text_has_that_of_the_prompt_or_is_refused(tiny: GetPipe) -> None:
    sd, sdxl = tiny("sd"), tiny("sdxl")
    pooled = reading_text(sdxl, "sdxl", "pooled")  # the pooled embedding is given as it is
    expected = select(sdxl, pooled, PROMPTS, generator=generators(6))
    found = select(sdxl, pooled, generator=generators(6), **embeddings_of(sdxl, "sdxl"))
    torch.testing.assert_close(found.scores, expected.scores, atol=1e-4, rtol=0)
    message = "nothing tells the text of prompt embeddings from their padding: give prompts"
    for pipe, name, text in ((sd, "sd", "pooled"), (sdxl, "sdxl", "tokens")):
        with pytest.raises(SelectError, match=message):
            select(pipe, reading_text(pipe, name, text), **embeddings_of(pipe, name))
    attention = probe_of(sd, taps={ATTENTION: (24, 4, 4)})
    with pytest.raises(SelectError, match="the probe reads attention to the prompt, without that to padding"):
        select(sd, attention, **embeddings_of(sd, "sd"))
    scored = probe_of(sd, scalars=("preview:shapes_reward",))
    with pytest.raises(SelectError, match=r"reads preview:shapes_reward, .* prompt_embeds are no text: give prompts"):
        select(sd, scored, **embeddings_of(sd, "sd"))


def test_text_that_a_callback_replaces_before_the_cut(tiny: GetPipe) -> None:
    pipe = tiny("sdxl")
    other = torch.randn(6, 24, 64, generator=torch.Generator().manual_seed(0))

    def replace(pipe: DiffusionPipeline, step: int, timestep: Tensor, tensors: dict[str, Any]) -> dict[str, Any]:
        return {**tensors, "prompt_embeds": other}

    inputs = {"callback_on_step_end_tensor_inputs": ["latents", "prompt_embeds"], "callback_on_step_end": replace}
    options = {"guidance_scale": 1.0, "generator": generators(6), **inputs}
    assert len(select(pipe, probe_of(pipe), PROMPTS, **options).images) == 2
    with pytest.raises(SelectError, match="the prompt embeddings were replaced before step 2, where the probe reads"):
        select(pipe, reading_text(pipe, "sdxl", "pooled"), PROMPTS, **options)


def test_no_prompt_at_all_is_refused_and_an_empty_negative_one_is_given_to_each(tiny: GetPipe) -> None:
    with pytest.raises(SelectError, match="there is no prompt: give at least one"):
        select(tiny("sd"), probe_of(tiny("sd")), [])
    pipe = tiny("qwen-image")  # where prompts are repeated
    options = {"num_inference_steps": 3, **SIZE, "true_cfg_scale": 3.0}
    chooses = ProbeSelect(pipe, probe_of(pipe, 1, 3), candidates=2)
    found = [
        chooses(PROMPTS, generator=generators(4), negative_prompt=negative, **options).images
        for negative in ("", ["", ""])
    ]
    assert torch.equal(*found)
