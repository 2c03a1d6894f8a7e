"""The lookahead against the pipeline itself, started anew from the latent that one large step leads to."""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import pytest
import torch
from diffusers import DiffusionPipeline
from eager import clean_latent, recorded
from family_world import EACH, PROMPTS, ROWS
from tiny_pipelines import CALL, PIPELINES, run
from torch import Tensor

from probe_lab.capture import Capture, Tap
from probe_lab.capture.lookahead import step_ahead

GetPipe = Callable[[str], DiffusionPipeline]
AHEAD = [Tap("", "x0"), Tap("", "lookahead")]
STEP, THERE, STEPS = 1, 3, 5


def parts_of(scheduler: Any, step: int) -> tuple[Tensor, Tensor]:
    """How much of the clean latent and of the noise a sample has, written out anew in float64."""
    name, index = type(scheduler).__name__, step - 1
    if name.startswith("FlowMatch"):
        sigma = scheduler.sigmas[index].double()
        return 1 - sigma, sigma
    if name.startswith("Euler"):
        return torch.tensor(1.0).double(), scheduler.sigmas[index].double()
    if name.startswith(("DPM", "UniPC")):
        sigma = scheduler.sigmas[index].double()
        if scheduler.config.get("use_flow_sigmas"):
            return 1 - sigma, sigma
        return 1 / (1 + sigma**2).sqrt(), sigma / (1 + sigma**2).sqrt()
    alpha = scheduler.alphas_cumprod[scheduler.timesteps[index]].double()
    return alpha.sqrt(), (1 - alpha).sqrt()


@contextmanager
def starting_at(pipe: DiffusionPipeline, step: int, latents: Tensor) -> Iterator[None]:
    """The pipeline begins at a later step of its schedule, from these latents."""
    prepare, schedule = pipe.prepare_latents, pipe.scheduler.set_timesteps

    def prepared(*args: Any, **kwargs: Any) -> Any:
        made = prepare(*args, **kwargs)
        return (latents, *made[1:]) if isinstance(made, tuple) else latents

    @functools.wraps(schedule)  # pipelines look at its signature
    def cut(*args: Any, **kwargs: Any) -> None:
        schedule(*args, **kwargs)
        pipe.scheduler.timesteps = pipe.scheduler.timesteps[step - 1 :]
        if hasattr(pipe.scheduler, "sigmas"):
            pipe.scheduler.sigmas = pipe.scheduler.sigmas[step - 1 :]

    pipe.prepare_latents, pipe.scheduler.set_timesteps = prepared, cut
    try:
        yield
    finally:
        del pipe.prepare_latents, pipe.scheduler.set_timesteps


@pytest.mark.parametrize("guided", [True, False])
@pytest.mark.parametrize("name", PIPELINES)
def test_it_is_what_the_pipeline_predicts_from_there(tiny_pipe: GetPipe, name: str, guided: bool) -> None:
    pipe = tiny_pipe(name)
    assert step_ahead(STEP, STEPS) == THERE
    with Capture(pipe, AHEAD, steps=[STEP]) as capture, recorded(pipe) as record:
        run(pipe, name, PROMPTS, each=EACH, guided=guided, num_inference_steps=STEPS)
    output, sample = (part.double() for part in record.scheduler[STEP - 1])
    clean = clean_latent(pipe.scheduler, STEP, output, sample)
    signal, noise = parts_of(pipe.scheduler, STEP)
    epsilon = (sample - signal * clean) / noise
    signal, noise = parts_of(pipe.scheduler, THERE)
    latents = (signal * clean + noise * epsilon).float()
    embedded = CALL[name].guidance == "embedded"
    with starting_at(pipe, THERE, latents), Capture(pipe, ["x0"], steps=[1]) as anew:
        run(pipe, name, PROMPTS, each=EACH, guided=guided and embedded, num_inference_steps=STEPS)
    found, truth = capture[STEP, "", "lookahead"], anew[1, "", "x0"]
    assert found.shape == truth.shape
    assert len(found) == ROWS
    torch.testing.assert_close(found, truth, atol=5e-4, rtol=5e-4)
    assert (found - capture[STEP, "", "x0"]).abs().max() > 1e-3


def test_at_the_last_step_there_is_nothing_ahead(tiny_pipe: GetPipe) -> None:
    pipe = tiny_pipe("sd")
    with Capture(pipe, AHEAD, steps=[3]) as capture:
        run(pipe, "sd", PROMPTS[:1], num_inference_steps=3)
    assert torch.equal(capture[3, "", "lookahead"], capture[3, "", "x0"])


def test_it_looks_half_of_the_way_ahead() -> None:
    assert [step_ahead(step, 25) for step in (1, 5, 8, 23, 24, 25)] == [13, 15, 17, 24, 25, 25]
