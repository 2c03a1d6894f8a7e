"""What a pipeline calls itself is told from what others call of the parts that it shares: callbacks, other pipelines,
other threads, calls by hand, before, after and within."""

from __future__ import annotations

import copy
import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest
import torch
from diffusers import StableDiffusionPipeline
from diffusers.callbacks import MultiPipelineCallbacks, PipelineCallback
from torch import Tensor, nn
from torch.overrides import _get_current_function_mode_stack

from probe_lab.capture import Capture
from probe_lab.probes import Probe, ProbeSpec
from probe_lab.selection import ProbeSelect

PROMPT, OTHER = "a red circle", "a green cross above a blue square"
BLOCK = "up_blocks.1.attentions.1"
TAPS = [f"{BLOCK}/attention", "up_blocks.1/activation", "x0", "latent", "lookahead"]
CALL: dict[str, Any] = {
    "num_inference_steps": 4,
    "guidance_scale": 3.0,
    "height": 16,
    "width": 16,
    "output_type": "latent",
}
Callback = Callable[..., dict[str, Any]]


def generators(count: int, first: int = 0) -> list[torch.Generator]:
    return [torch.Generator().manual_seed(first + place) for place in range(count)]


@pytest.fixture
def other(random_pipe: StableDiffusionPipeline) -> StableDiffusionPipeline:
    """Another pipeline with the same parts, and a scheduler and tokenizer of its own.

    Those two hold what a call sets: a fast tokenizer is told how to pad and then pads, so two threads that share one
    may read each other's padding, with or without a capture.
    """
    own = {name: copy.deepcopy(random_pipe.components[name]) for name in ("scheduler", "tokenizer")}
    parts = {**random_pipe.components, **own}
    twin = StableDiffusionPipeline(**parts, requires_safety_checker=False)
    twin.set_progress_bar_config(disable=True)
    return twin


@pytest.fixture(scope="module")
def plain(random_pipe: StableDiffusionPipeline) -> Capture:
    """What an undisturbed call gives."""
    with Capture(random_pipe, TAPS, [2, 3]) as capture:
        random_pipe(PROMPT, generator=generators(1), **CALL)
    return capture


def same(found: Capture, expected: Capture) -> bool:
    assert [key for key, _ in found.items()] == [key for key, _ in expected.items()]
    return all(torch.equal(found[key], tensor) for key, tensor in expected.items())


def draw(pipe: StableDiffusionPipeline, count: int = 1, **changes: Any) -> Tensor:
    options = CALL | {"num_images_per_prompt": count, "generator": generators(count, 50)} | changes
    images: Tensor = pipe(OTHER, **options).images
    return images


def by_hand(pipe: StableDiffusionPipeline, rows: int = 2) -> Tensor:
    """A denoiser call that no pipeline makes."""
    text = torch.ones(rows, 24, pipe.unet.config.cross_attention_dim)
    with torch.no_grad():
        answer: Tensor = pipe.unet(torch.ones(rows, 4, 8, 8), 500, encoder_hidden_states=text).sample
    return answer


def in_a_thread(work: Callable[[], Any]) -> Any:
    with ThreadPoolExecutor(1) as pool:
        return pool.submit(work).result()


class _Official(PipelineCallback):
    """A callback of the kind that diffusers has a class for."""

    @property
    def tensor_inputs(self) -> list[str]:
        return ["latents", "prompt_embeds"]

    def __init__(self, work: Callable[[], Any]) -> None:
        super().__init__()
        self._work = work

    def callback_fn(
        self, pipeline: Any, step_index: int, timesteps: object, callback_kwargs: dict[str, Any]
    ) -> dict[str, Any]:
        assert set(callback_kwargs) == {"latents", "prompt_embeds"}
        self._work()
        return callback_kwargs


DISTURBANCES: dict[str, Callable[[Any, Any], Any]] = {
    "another pipeline": lambda pipe, other: draw(other),
    "another pipeline with more images": lambda pipe, other: draw(other, 2),
    "a call by hand": lambda pipe, other: by_hand(pipe),
    "decoding": lambda pipe, other: pipe.vae.decode(torch.ones(1, 4, 8, 8)),
    "encoding": lambda pipe, other: pipe.encode_prompt(OTHER, "cpu", 1, True),
    "a thread": lambda pipe, other: in_a_thread(lambda: draw(other)),
    "a pipeline made of this one's class": lambda pipe, other: draw(
        type(pipe)(**other.components, requires_safety_checker=False)
    ),
}


@pytest.mark.parametrize("official", [False, True])
@pytest.mark.parametrize("name", DISTURBANCES)
def test_a_callback_may_use_the_parts(
    random_pipe: StableDiffusionPipeline,
    other: StableDiffusionPipeline,
    plain: Capture,
    name: str,
    official: bool,
) -> None:
    def disturb() -> None:
        DISTURBANCES[name](random_pipe, other)

    def callback(pipe: Any, index: int, timestep: object, kwargs: dict[str, Any]) -> dict[str, Any]:
        disturb()
        return kwargs

    given = MultiPipelineCallbacks([_Official(disturb)]) if official else callback
    with Capture(random_pipe, TAPS, [2, 3]) as capture:
        random_pipe(PROMPT, generator=generators(1), callback_on_step_end=given, **CALL)
    assert same(capture, plain)
    assert capture.token_mask is not None
    assert plain.token_mask is not None
    assert torch.equal(capture.token_mask, plain.token_mask)


def test_a_call_by_hand_counts_neither_before_nor_after_an_interrupted_one(
    random_pipe: StableDiffusionPipeline, plain: Capture
) -> None:
    class Stop(BaseException):
        pass

    def stop(pipe: Any, index: int, timestep: object, kwargs: dict[str, Any]) -> dict[str, Any]:
        if index == 2:
            raise Stop
        return kwargs

    with Capture(random_pipe, TAPS, [2, 3]) as capture:
        by_hand(random_pipe)
        with pytest.raises(Stop):
            random_pipe(PROMPT, generator=generators(1), callback_on_step_end=stop, **CALL)
        by_hand(random_pipe)
        random_pipe.scheduler.step(torch.ones(1, 4, 8, 8), random_pipe.scheduler.timesteps[3], torch.ones(1, 4, 8, 8))
    assert same(capture, plain)  # steps 2 and 3 were made


def test_an_interruption_within_the_denoiser_ends_the_call(
    random_pipe: StableDiffusionPipeline, plain: Capture
) -> None:
    def interrupt(module: nn.Module, args: object) -> None:
        raise KeyboardInterrupt

    with Capture(random_pipe, TAPS, [2, 3]) as capture:
        handle = random_pipe.unet.get_submodule(f"{BLOCK}.transformer_blocks.0.attn2.to_k").register_forward_pre_hook(
            interrupt
        )
        with pytest.raises(KeyboardInterrupt):
            random_pipe(PROMPT, **CALL)
        handle.remove()
        assert not _get_current_function_mode_stack()
        by_hand(random_pipe)
        assert not capture.items()
        random_pipe(PROMPT, generator=generators(1), **CALL)
    assert same(capture, plain)


@pytest.mark.parametrize("where", ["scheduler", "denoiser", "layer"])
def test_parts_of_the_user_may_call_others(
    random_pipe: StableDiffusionPipeline,
    other: StableDiffusionPipeline,
    plain: Capture,
    monkeypatch: pytest.MonkeyPatch,
    where: str,
) -> None:
    """A scheduler that asks the denoiser again, or a hook that draws a preview."""
    busy: list[int] = []

    def nested(*args: Any, **kwargs: Any) -> None:
        if not busy:
            busy.append(1)
            draw(other)
            by_hand(random_pipe)
            busy.clear()

    step, handles = random_pipe.scheduler.step, []
    if where == "scheduler":
        monkeypatch.setattr(random_pipe.scheduler, "step", lambda *a, **k: (nested(), step(*a, **k))[1], raising=False)
    else:
        module = random_pipe.unet if where == "denoiser" else random_pipe.unet.get_submodule("mid_block")
        handles.append(module.register_forward_pre_hook(nested))
    try:
        with Capture(random_pipe, TAPS, [2, 3]) as capture:
            random_pipe(PROMPT, generator=generators(1), **CALL)
    finally:
        for handle in handles:
            handle.remove()
    assert same(capture, plain)


def test_the_same_pipeline_within_its_own_callback_is_not_the_call_that_is_captured(
    random_pipe: StableDiffusionPipeline, plain: Capture
) -> None:
    def again(pipe: Any, index: int, timestep: object, kwargs: dict[str, Any]) -> dict[str, Any]:
        if index == 2:  # the last step that is captured
            draw(random_pipe, num_inference_steps=2)
            random_pipe.scheduler.set_timesteps(4)
        return kwargs

    with Capture(random_pipe, TAPS, [2, 3]) as capture:
        random_pipe(PROMPT, generator=generators(1), callback_on_step_end=again, **CALL)
    assert same(capture, plain)


def test_a_pipeline_may_be_called_in_a_thread_of_a_pool(random_pipe: StableDiffusionPipeline, plain: Capture) -> None:
    with Capture(random_pipe, TAPS, [2, 3]) as capture:
        in_a_thread(lambda: random_pipe(PROMPT, generator=generators(1), **CALL))
        assert not _get_current_function_mode_stack()
    assert same(capture, plain)


def test_two_pipelines_at_once_are_two_calls(
    random_pipe: StableDiffusionPipeline, other: StableDiffusionPipeline, plain: Capture
) -> None:
    """They take turns within every denoiser call, in two threads."""
    barrier = threading.Barrier(2, timeout=60)
    handle = random_pipe.unet.mid_block.register_forward_pre_hook(lambda *_: (barrier.wait(), None)[1])
    # Without the lookahead, whose denoiser call would wait for a partner.
    captures = [Capture(pipe, TAPS[:-1], [2, 3]) for pipe in (random_pipe, other)]

    def call(capture: Capture, pipe: StableDiffusionPipeline, prompt: str, count: int) -> Tensor:
        with capture:
            images: Tensor = pipe(prompt, num_images_per_prompt=count, generator=generators(count), **CALL).images
        return images

    try:
        with ThreadPoolExecutor(2) as pool:
            jobs = [
                pool.submit(call, captures[0], random_pipe, PROMPT, 1),
                pool.submit(call, captures[1], other, OTHER, 2),
            ]
            _, images = (job.result() for job in jobs)
    finally:
        handle.remove()
    for key, tensor in captures[0].items():
        assert torch.equal(tensor, plain[key])
    with Capture(other, TAPS[:-1], [2, 3]) as alone:
        assert torch.equal(other(OTHER, num_images_per_prompt=2, generator=generators(2), **CALL).images, images)
    assert same(captures[1], alone)
    assert "decode" not in vars(random_pipe.vae)


@pytest.fixture
def select(random_pipe: StableDiffusionPipeline) -> ProbeSelect:
    with torch.random.fork_rng():
        torch.manual_seed(0)
        probe = Probe(ProbeSpec("linear", {"x0": (4, 8, 8)}, ("score",), 2, 4, backbone="sd:tiny")).eval()
    return ProbeSelect(random_pipe, probe, candidates=3)


@pytest.mark.parametrize("thread", [False, True])
def test_a_selection_narrows_its_own_pipeline_alone(
    random_pipe: StableDiffusionPipeline, other: StableDiffusionPipeline, select: ProbeSelect, thread: bool
) -> None:
    """As many images as there are candidates, finished and decoded, while some of the candidates are pruned."""
    made: list[Any] = []

    def work() -> tuple[Tensor, Tensor, Tensor]:
        latents = torch.ones(3, 4, 8, 8) * torch.arange(3.0).view(3, 1, 1, 1)
        return draw(other, 3, output_type="pt"), by_hand(random_pipe, 6), random_pipe.vae.decode(latents).sample

    def beside(pipe: Any, index: int, timestep: object, kwargs: dict[str, Any]) -> dict[str, Any]:
        if index == 2:
            made.extend(in_a_thread(work) if thread else work())
        return kwargs

    options = {**CALL, "output_type": "pt"}
    expected, alone = work(), select(PROMPT, generator=generators(3), **options)
    found = select(PROMPT, generator=generators(3), callback_on_step_end=beside, **options)
    for seen, right in zip(made, expected, strict=True):
        assert torch.equal(seen, right)
    assert torch.equal(found.images, alone.images)
    assert found.kept == alone.kept
    assert found.denoiser_calls == alone.denoiser_calls


def test_what_is_drawn_when_a_cut_is_told_is_not_the_selections(
    random_pipe: StableDiffusionPipeline, other: StableDiffusionPipeline, select: ProbeSelect
) -> None:
    made: list[Tensor] = []
    expected, alone = draw(other, 3), select(PROMPT, generator=generators(3), **CALL)
    select._on_cut = lambda step, rows: made.append(draw(other, 3))
    found = select(PROMPT, generator=generators(3), **CALL)
    assert torch.equal(made[0], expected)
    assert torch.equal(found.images, alone.images)


def test_a_selection_within_a_callback_of_another_pipeline(
    random_pipe: StableDiffusionPipeline, other: StableDiffusionPipeline, select: ProbeSelect
) -> None:
    """Each captures and narrows its own."""

    def inside(pipe: Any, index: int, timestep: object, kwargs: dict[str, Any]) -> dict[str, Any]:
        if index == 1:
            found.append(select(PROMPT, generator=generators(3), **CALL))
        return kwargs

    found: list[Any] = []
    with Capture(other, TAPS, [1, 2, 3]) as expected:
        images = draw(other, 3)
    alone = select(PROMPT, generator=generators(3), **CALL)
    with Capture(other, TAPS, [1, 2, 3]) as capture:
        assert torch.equal(draw(other, 3, callback_on_step_end=inside), images)
    assert same(capture, expected)
    assert torch.equal(found[0].images, alone.images)


def test_nothing_is_left_of_the_watching(random_pipe: StableDiffusionPipeline, select: ProbeSelect) -> None:
    vae = dict(vars(random_pipe.vae))
    outer, inner = Capture(random_pipe, ["x0"], [1]), Capture(random_pipe, ["latent"], [1])
    outer.__enter__()
    inner.__enter__()
    assert type(random_pipe).__name__ == "StableDiffusionPipeline"
    assert isinstance(random_pipe, StableDiffusionPipeline)
    outer.__exit__(None, None, None)
    with pytest.raises(ValueError, match="has to be of type"):
        random_pipe(3)
    select(PROMPT, **CALL)
    inner.__exit__(None, None, None)
    assert type(random_pipe) is StableDiffusionPipeline
    assert not {"encode_prompt", "prepare_latents"} & set(vars(random_pipe))
    assert dict(vars(random_pipe.vae)) == vae
    assert not {"step", "set_timesteps"} & set(vars(random_pipe.scheduler))
    assert not random_pipe.unet._forward_hooks
    assert not random_pipe.unet._forward_pre_hooks
