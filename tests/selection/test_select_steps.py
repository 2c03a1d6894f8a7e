"""A probe of several steps chooses at any of them, and is told which it is."""

from __future__ import annotations

import pytest
import torch
from diffusers import DiffusionPipeline
from tiny_pipelines import PIPELINES

from probe_lab.capture import Capture, Tap
from probe_lab.errors import SelectError
from probe_lab.probes import Inputs, Probe, ProbeSpec
from probe_lab.selection import ProbeSelect
from probe_lab.selection.schedule import progressive

STEPS = 5
SIZE = {"height": 64, "width": 64, "output_type": "latent"}


@pytest.fixture(scope="module")
def pipe(tmp_path_factory: pytest.TempPathFactory) -> DiffusionPipeline:
    return PIPELINES["sd"](tmp_path_factory.mktemp("tiny"))


@pytest.fixture(scope="module")
def probe(pipe: DiffusionPipeline) -> Probe:
    """Random, of steps 1 and 3 of 5, evaluated at 3."""
    with Capture(pipe, ["x0"], [1]) as capture:
        pipe("a red circle", num_inference_steps=1, **SIZE)
    x0 = capture[1, Tap.parse("x0")]
    with torch.random.fork_rng():
        torch.manual_seed(0)
        spec = ProbeSpec("cnn", {"x0": tuple(x0.shape[1:])}, ("one",), 3, STEPS, width=8, embedding=8, steps=(1, 3))
        return Probe(spec).eval()


@pytest.mark.parametrize(("steps", "cut", "told"), [(5, 1, 1), (5, 3, 3), (10, 2, 1)])
def test_it_chooses_at_each_and_is_told_the_step(
    pipe: DiffusionPipeline, probe: Probe, steps: int, cut: int, told: int
) -> None:
    generators = [torch.Generator().manual_seed(seed) for seed in range(3)]
    select = ProbeSelect(pipe, probe, candidates=3, cutoff_step_index=cut)
    found = select("a red circle", generator=generators, num_inference_steps=steps, **SIZE)
    generators = [torch.Generator().manual_seed(seed) for seed in range(3)]
    with Capture(pipe, ["x0"], [cut]) as capture:
        pipe(["a red circle"] * 3, generator=generators, num_inference_steps=steps, **SIZE)
    x0 = capture[cut, Tap.parse("x0")]
    expected, other = (
        probe.predict(Inputs({"x0": x0.float()}, torch.full((3,), step))) for step in (told, {1: 3, 3: 1}[told])
    )
    apart = (expected - other).abs().max()
    assert apart > 0
    assert (found.scores[0] - expected).abs().max() < 0.1 * apart


def test_one_probe_serves_a_schedule_of_its_steps(pipe: DiffusionPipeline, probe: Probe) -> None:
    schedule = [{"step": 1, "keep": 2}, {"step": 3, "keep": 1}]
    select = ProbeSelect(pipe, probe, candidates=3, schedule=schedule)
    found = select("a red circle", num_inference_steps=STEPS, **SIZE)
    assert found.denoiser_calls == 3 + 2 * 2 + 2


def test_a_probe_of_the_step_itself_is_asked_first(probe: Probe) -> None:
    own = Probe(ProbeSpec("cnn", {"x0": (4, 8, 8)}, ("one",), 1, STEPS, width=8, embedding=8)).eval()
    schedule = [{"step": 1, "keep": 2}, {"step": 3, "keep": 1}]
    cuts = progressive(schedule, [probe, own], 3, 1, STEPS)
    assert [cut.probe for cut in cuts] == [own, probe]


def test_other_steps_are_refused(pipe: DiffusionPipeline, probe: Probe) -> None:
    select = ProbeSelect(pipe, probe, candidates=3, cutoff_step_index=2)
    with pytest.raises(
        SelectError, match="the probe was trained at steps 1, 3 of 5 and the candidates are chosen at step 2"
    ):
        select("a red circle", num_inference_steps=STEPS, **SIZE)
