"""Survivors are the images that the same generators give without selection, in every family, with every scheduler."""

from __future__ import annotations

import functools
import math
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from diffusers import DiffusionPipeline
from tiny_pipelines import CALL
from torch import Tensor

from probe_lab.backbones.families import family_of
from probe_lab.backbones.pipelines import configure
from probe_lab.capture import Capture
from probe_lab.config import Sampling, Scheduler
from probe_lab.probes import Probe, ProbeSpec
from probe_lab.selection import ProbeSelect

PROMPTS = ["a red circle", "a blue square left of a green cross"]
SIZE = {"height": 96, "width": 96}
STEPS = 5


def generators(count: int) -> list[torch.Generator]:
    return [torch.Generator().manual_seed(seed) for seed in range(count)]


def options_of(name: str, *, guided: bool = True) -> dict[str, Any]:
    call = CALL[name]
    return {"num_inference_steps": STEPS, **SIZE, **call.options, **(call.guided if guided else call.plain)}


def probe_of(pipe: DiffusionPipeline, name: str, step: int) -> Probe:
    """A random linear probe on one block and the predicted clean latent, of the shapes that the pipeline has."""
    taps = [f"{CALL[name].activation[0]}/activation", f"{CALL[name].attention[0]}/attention", "x0"]
    with Capture(pipe, taps, [1]) as capture:
        pipe(**options_of(name) | {"prompt": PROMPTS, "output_type": "latent"})
    shapes = {str(tap): tuple(tensor.shape[1:]) for (_, tap), tensor in capture.items()}
    with torch.random.fork_rng():
        torch.manual_seed(step)
        spec = ProbeSpec("linear", shapes, ("one", "two"), step, STEPS, backbone=f"{family_of(pipe).name}:tiny")  # type: ignore[arg-type]
        return Probe(spec).eval()


def everything(pipe: DiffusionPipeline, name: str, count: int, **changes: Any) -> Tensor:
    """The latents of all candidates, without selection."""
    prompts = [prompt for prompt in PROMPTS for _ in range(count)]
    options = options_of(name) | {"output_type": "latent"} | changes
    if isinstance(options.get("negative_prompt"), str):
        options["negative_prompt"] = [options["negative_prompt"]] * len(prompts)
    made: Tensor = pipe(prompt=prompts, generator=generators(len(prompts)), **options).images
    return made


@pytest.mark.parametrize("guided", [True, False])
@pytest.mark.parametrize("name", sorted(CALL))
def test_survivors_are_what_they_would_have_been(
    tiny: Callable[[str], DiffusionPipeline], name: str, guided: bool
) -> None:
    pipe = tiny(name)
    before = dict(vars(pipe.vae)), dict(vars(pipe.scheduler)), len(family_of(pipe).denoiser_of(pipe)._forward_hooks)
    select = ProbeSelect(pipe, probe_of(pipe, name, 2), candidates=3, keep=2)
    options = options_of(name, guided=guided) | {"output_type": "latent"}
    found = select(PROMPTS, generator=generators(6), **options)
    changes = options_of(name, guided=guided)
    expected = everything(pipe, name, 3, **changes)
    rows = [prompt * 3 + candidate for prompt, kept in enumerate(found.kept) for candidate in kept]
    torch.testing.assert_close(found.images, expected[rows], rtol=0, atol=1e-4)
    assert found.seeds == tuple(tuple(prompt * 3 + one for one in kept) for prompt, kept in enumerate(found.kept))
    first = found.scores[..., 0]
    assert [list(kept) for kept in found.kept] == first.argsort(1, descending=True)[:, :2].tolist()
    assert len(set(first.flatten().tolist())) == 6
    assert (found.denoiser_calls, found.of) == (6 * 2 + 4 * 3, 6 * 5)
    after = dict(vars(pipe.vae)), dict(vars(pipe.scheduler)), len(family_of(pipe).denoiser_of(pipe)._forward_hooks)
    assert before[0] == after[0]
    assert set(before[1]) <= set(after[1])
    assert "step" not in vars(pipe.scheduler)
    assert before[2] == after[2]
    assert math.isfinite(float(found.scores.sum()))


@pytest.mark.parametrize("name", ["flux-dev", "qwen-image", "sdxl"])
def test_the_denoiser_is_called_by_the_same_names(tiny: Callable[[str], DiffusionPipeline], name: str) -> None:
    """What wraps its forward looks for arguments by their names, the scale of LoRAs for one."""
    pipe = tiny(name)
    denoiser = family_of(pipe).denoiser_of(pipe)
    plain, seen = denoiser.forward, []

    @functools.wraps(plain)  # its signature is looked at
    def noted(*args: Any, **kwargs: Any) -> Any:
        seen.append((len(args), set(kwargs)))
        return plain(*args, **kwargs)

    select = ProbeSelect(pipe, probe_of(pipe, name, 2), candidates=2)
    denoiser.forward = noted  # type: ignore[method-assign]
    try:
        select(PROMPTS, generator=generators(4), **options_of(name), output_type="latent")
    finally:
        del denoiser.forward
    whole, narrowed = seen[0], seen[-1]
    assert narrowed[0] == 0
    assert whole[1] <= narrowed[1]


SCHEDULER_OF = {"sd": ["ddim", "euler", "euler-a", "dpm++", "unipc", "lcm"], "sd3": ["flow-euler", "dpm++", "unipc"]}


@pytest.mark.parametrize(
    ("name", "scheduler"), [(name, scheduler) for name, kinds in SCHEDULER_OF.items() for scheduler in kinds]
)
def test_schedulers_with_a_memory_or_noise_of_their_own(
    tiny: Callable[[str], DiffusionPipeline], name: str, scheduler: Scheduler
) -> None:
    pipe = tiny(name)
    own = pipe.scheduler
    try:
        configure(pipe, Sampling(scheduler=scheduler))
        probes = [probe_of(pipe, name, step) for step in (1, 3)]
        schedule = [{"step": 1, "keep": 3}, {"step": 3, "keep": 1}]
        select = ProbeSelect(pipe, probes, candidates=4, keep=1, schedule=schedule)
        found = select(PROMPTS, generator=generators(8), **options_of(name), output_type="latent")
        expected = everything(pipe, name, 4)
    finally:
        pipe.scheduler = own
    rows = [prompt * 4 + kept[0] for prompt, kept in enumerate(found.kept)]
    torch.testing.assert_close(found.images, expected[rows], rtol=0, atol=1e-4)
    assert found.denoiser_calls == 2 * (4 * 1 + 3 * 2 + 1 * 2)


def test_a_later_cut_reads_the_rows_that_are_left(tiny: Callable[[str], DiffusionPipeline]) -> None:
    """Its scores are those of a cut that sees all candidates at that step."""
    pipe = tiny("sd")
    early, late = (probe_of(pipe, "sd", step) for step in (1, 3))
    options = options_of("sd") | {"output_type": "latent"}
    schedule = [{"step": 1, "keep": 3}, {"step": 3, "keep": 2}]
    both = ProbeSelect(pipe, [early, late], candidates=5, keep=2, schedule=schedule)
    one = ProbeSelect(pipe, late, candidates=5, keep=5)
    first = ProbeSelect(pipe, early, candidates=5, keep=5)
    found, whole, before = (select(PROMPTS, generator=generators(10), **options) for select in (both, one, first))
    for prompt in range(2):
        left = before.scores[prompt, :, 0].argsort(descending=True)[:3]
        gone = before.scores[prompt, :, 0].argsort(descending=True)[3:]
        torch.testing.assert_close(found.scores[prompt, left], whole.scores[prompt, left], rtol=0, atol=1e-4)
        torch.testing.assert_close(found.scores[prompt, gone], before.scores[prompt, gone], rtol=0, atol=1e-4)


def test_images_are_those_of_the_pipeline(tiny: Callable[[str], DiffusionPipeline]) -> None:
    pipe = tiny("sd")
    select = ProbeSelect(pipe, probe_of(pipe, "sd", 2), candidates=3)
    found = select(PROMPTS[0], generator=torch.Generator().manual_seed(5), **options_of("sd"))
    again = pipe(PROMPTS[0], generator=torch.Generator().manual_seed(found.seeds[0][0]), **options_of("sd")).images[0]
    assert len(found.images) == 1
    difference = np.asarray(found.images[0], dtype=int) - np.asarray(again, dtype=int)
    assert abs(difference).max() <= 1  # a batch of one is rounded otherwise
