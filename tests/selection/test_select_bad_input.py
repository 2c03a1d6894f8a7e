"""What does not fit together is refused in one sentence, and a call that is interrupted leaves a pipeline as it was."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import pytest
import torch
from diffusers import DDPMScheduler, DiffusionPipeline
from torch import Tensor

from probe_lab.backbones.pipelines import load_pipeline
from probe_lab.config import Backbone, Sampling
from probe_lab.errors import CaptureError, SelectError
from probe_lab.probes import Inputs, Probe, ProbeSpec
from probe_lab.selection import ProbeSelect

PROMPTS = ["a red circle", "a blue square left of a green cross"]
ATTENTION = "up_blocks.1.attentions.0/attention"
STEPS = 4
OPTIONS: Mapping[str, Any] = {
    "num_inference_steps": STEPS,
    "guidance_scale": 2.0,
    "height": 64,
    "width": 64,
    "output_type": "latent",
}


@pytest.fixture(scope="module")
def pipe() -> DiffusionPipeline:
    return load_pipeline(Backbone("tiny-sd"), Sampling())


def probe_of(pipe: DiffusionPipeline, **changes: Any) -> Probe:
    side = 64 // pipe.vae_scale_factor
    wanted = {
        "kind": "linear",
        "taps": {"x0": (pipe.unet.config.in_channels, side, side)},
        "evaluators": ("one", "two"),
        "step": 2,
        "total_steps": STEPS,
        "backbone": "tiny-sd",
    }
    with torch.random.fork_rng():
        torch.manual_seed(1)
        return Probe(ProbeSpec(**wanted | changes)).eval()


def generators(count: int) -> list[torch.Generator]:
    return [torch.Generator().manual_seed(seed) for seed in range(count)]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"candidates": 2, "keep": 3}, "keep=3 of candidates=2"),
        ({"candidates": 2, "keep": 0}, "keep=0 of candidates=2"),
        ({"by": "on"}, "'on' is not predicted by the probe: did you mean 'one'"),
        ({"by": {"one": 1.0, "tow": 2.0}}, "'tow' is not predicted by the probe: did you mean 'two'"),
        ({"by": {"pareto": 1.0}}, "'pareto' is not predicted by the probe"),
        ({"accept": 0.9}, "accept=0.9 is no argument any more: no choice was ever sure"),
        (
            {"schedule": [{"step": 2, "keep": 1}], "cutoff_step_ratio": 0.5},
            "cutoff_step_index=None, cutoff_step_ratio=0.5 and a schedule both say when to choose",
        ),
    ],
)
def test_numbers_and_evaluators(pipe: DiffusionPipeline, arguments: dict[str, Any], message: str) -> None:
    with pytest.raises(SelectError, match=message):
        ProbeSelect(pipe, probe_of(pipe), **arguments)


@pytest.mark.parametrize(
    ("changes", "arguments", "message"),
    [
        ({"backbone": "tiny-sd3"}, {}, r"trained on tiny-sd3 \(family sd3\) and the pipeline is of the family sd:"),
        ({"backbone": "flux:some/model"}, {}, r"trained on flux:some/model \(family flux\) and .* family sd:"),
        ({"total_steps": 8}, {}, "trained at step 2 of 8 and the candidates are chosen at step 2 of 4"),
        ({}, {"cutoff_step_index": 3}, "trained at step 2 of 4 and the candidates are chosen at step 3 of 4"),
        ({"step": 4}, {}, "cannot be chosen after step 4 of 4"),
        ({}, {"cutoff_step_index": 2, "cutoff_step_ratio": 0.5}, "give one of them"),
        ({}, {"cutoff_step_ratio": 1.5}, "cutoff_step_ratio=1.5 is not allowed"),
        (
            {"kind": "cnn", "text": "pooled", "text_dim": 32, "text_encoder": "clip_score"},
            {},
            "reads the prompt as clip_score encodes it, and a selection has the backbone's own",
        ),
        ({"taps": {"x0": (4, 12, 12)}}, {}, r"'x0' has the shape \(.*\) in this call and had \(4, 12, 12\)"),
        ({"taps": {ATTENTION: (77, 8, 8)}}, {}, r"attention' has the shape \(.*\) .* had \(77, 8, 8\) .* on tiny-sd"),
    ],
)
def test_a_probe_of_another_place(
    pipe: DiffusionPipeline, changes: dict[str, Any], arguments: dict[str, Any], message: str
) -> None:
    select = ProbeSelect(pipe, probe_of(pipe, **changes), candidates=2, **arguments)
    with pytest.raises(SelectError, match=message) as caught:
        select(PROMPTS, generator=generators(4), **OPTIONS)
    assert "\n" not in str(caught.value)
    assert_untouched(pipe)


def test_a_tap_that_the_backbone_lacks(pipe: DiffusionPipeline) -> None:
    probe = probe_of(pipe, taps={"up_blocks.7.attentions.0/attention": (77, 8, 8)})
    with pytest.raises(CaptureError, match=r"no tap 'up_blocks.7.attentions.0/attention': did you mean 'up_blocks"):
        ProbeSelect(pipe, probe)(PROMPTS, **OPTIONS)
    assert_untouched(pipe)


def test_a_scheduler_that_is_not_known(pipe: DiffusionPipeline) -> None:
    select, own = ProbeSelect(pipe, probe_of(pipe), candidates=2), pipe.scheduler
    pipe.scheduler = DDPMScheduler.from_config(own.config)
    try:
        with pytest.raises(SelectError, match="not known to be safe with DDPMScheduler: did you mean 'DDIMScheduler'"):
            select(PROMPTS, **OPTIONS)
    finally:
        pipe.scheduler = own


def test_probes_are_asked_or_refused(pipe: DiffusionPipeline) -> None:
    with pytest.raises(SelectError, match="there are 2 probes and one cut"):
        ProbeSelect(pipe, [probe_of(pipe), probe_of(pipe, step=3)])
    with pytest.raises(SelectError, match="there is no probe to ask"):
        ProbeSelect(pipe, [])
    with pytest.raises(SelectError, match="num_images_per_prompt=3 is what candidates=2 says"):
        ProbeSelect(pipe, probe_of(pipe), candidates=2)(PROMPTS, num_images_per_prompt=3, **OPTIONS)
    assert_untouched(pipe)


def test_one_generator_seeds_those_of_all_candidates(pipe: DiffusionPipeline) -> None:
    select = ProbeSelect(pipe, probe_of(pipe), candidates=2)
    found = [select(PROMPTS, generator=torch.Generator().manual_seed(3), **OPTIONS) for _ in range(2)]
    assert found[0].seeds == found[1].seeds
    assert len(set(found[0].seeds)) == 2


@pytest.mark.parametrize("count", [0, 3, 5])
def test_a_generator_for_each_candidate(pipe: DiffusionPipeline, count: int) -> None:
    select = ProbeSelect(pipe, probe_of(pipe), candidates=2)
    with pytest.raises(SelectError, match=rf"there are {count} generators for 4 candidates \(2 prompts × 2\)"):
        select(PROMPTS, generator=generators(count), **OPTIONS)
    with pytest.raises(SelectError, match="there are 1 negative prompts for 2 prompts"):
        select(PROMPTS, negative_prompt=["a cross"], **OPTIONS)


class Failing(Probe):
    """A probe that meets something in the middle of the sampling."""

    def predict(self, inputs: Inputs) -> Tensor:
        raise MemoryError("no memory for the probe")


def interrupt(pipe: DiffusionPipeline, step: int, timestep: Tensor, tensors: dict[str, Any]) -> dict[str, Any]:
    if step == 2:  # after the cut: rows are narrowed
        raise KeyboardInterrupt
    return tensors


@pytest.mark.parametrize("cause", ["Ctrl-C", "probe"])
def test_an_interrupted_call_leaves_the_pipeline_as_it_was(pipe: DiffusionPipeline, cause: str) -> None:
    everything = {"prompt": PROMPTS, **OPTIONS, "output_type": "np"}
    before = pipe(**everything, generator=generators(2)).images
    probe, options = probe_of(pipe), dict(OPTIONS)
    if cause == "probe":
        probe = Failing(probe.spec).eval()
    else:
        options["callback_on_step_end"] = interrupt
    with pytest.raises(MemoryError if cause == "probe" else KeyboardInterrupt):
        ProbeSelect(pipe, probe, candidates=3)(PROMPTS, generator=generators(6), **options)
    assert_untouched(pipe)
    again = pipe(**everything, generator=generators(2)).images
    np.testing.assert_array_equal(again, before)
    found = ProbeSelect(pipe, probe_of(pipe), candidates=3)(PROMPTS, generator=generators(6), **OPTIONS)
    assert len(found.images) == 2


def assert_untouched(pipe: DiffusionPipeline) -> None:
    """No hook, no method in the place of another one, no mode."""
    for module in (pipe.unet, pipe.vae, pipe.text_encoder):
        for part in module.modules():
            assert not part._forward_hooks
            assert not part._forward_pre_hooks
    for owner, names in ((pipe.vae, ["decode"]), (pipe.scheduler, ["step", "set_timesteps"]), (pipe, ["check_inputs"])):
        assert not set(names) & set(vars(owner))
    assert not torch.overrides._get_current_function_mode_stack()


def plain(pipe: DiffusionPipeline, rows: list[int], **changes: Any) -> Any:
    """The same candidates without selection, three of each prompt."""
    prompts = [prompt for prompt in PROMPTS for _ in range(3)]
    return pipe(prompt=prompts, generator=generators(6), **OPTIONS | changes).images[rows]


@pytest.mark.parametrize("output_type", ["np", "pt", "latent"])
@pytest.mark.parametrize("return_dict", [True, False])
def test_every_kind_of_output(pipe: DiffusionPipeline, output_type: str, return_dict: bool) -> None:
    options = dict(OPTIONS) | {"output_type": output_type, "return_dict": return_dict}
    found = ProbeSelect(pipe, probe_of(pipe), candidates=3)(PROMPTS, generator=generators(6), **options)
    assert isinstance(found.output, tuple) is not return_dict
    expected = plain(pipe, [3 * place + kept[0] for place, kept in enumerate(found.kept)], output_type=output_type)
    assert type(found.images) is type(expected)
    np.testing.assert_allclose(np.asarray(found.images), np.asarray(expected), atol=1e-4, rtol=0)


def test_callbacks_pass_through(pipe: DiffusionPipeline) -> None:
    seen: list[tuple[int, tuple[int, ...]]] = []

    def callback(pipe: DiffusionPipeline, step: int, timestep: Tensor, tensors: dict[str, Any]) -> dict[str, Any]:
        seen.append((step, tuple(tensors["latents"].shape)))
        return tensors

    options = dict(OPTIONS) | {"callback_on_step_end": callback, "callback_on_step_end_tensor_inputs": ["latents"]}
    found = ProbeSelect(pipe, probe_of(pipe), candidates=3)(PROMPTS, generator=generators(6), **options)
    assert [step for step, _ in seen] == list(range(STEPS))
    assert {shape[0] for _, shape in seen} == {6}  # latents keep all their rows
    assert len(found.images) == 2


def test_keeping_all_is_the_stock_pipeline_in_the_order_of_the_probe(pipe: DiffusionPipeline) -> None:
    probe = probe_of(pipe)
    found = ProbeSelect(pipe, [probe], candidates=3, keep=3)(PROMPTS, generator=generators(6), **OPTIONS)
    assert [sorted(kept) for kept in found.kept] == [[0, 1, 2]] * 2
    scores = found.scores[..., 0]
    assert [list(kept) for kept in found.kept] == scores.argsort(1, descending=True).tolist()
    assert found.denoiser_calls == found.of == 6 * STEPS
    rows = [3 * place + one for place, kept in enumerate(found.kept) for one in kept]
    torch.testing.assert_close(found.images, plain(pipe, rows), atol=1e-4, rtol=0)
