"""Selection by probes that read previews: the numbers of training, and cascades of two cuts at one step."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import pytest
import torch
from diffusers import DiffusionPipeline
from PIL.Image import Image
from torch import Tensor

from probe_lab.backbones.pipelines import load_pipeline
from probe_lab.cache import Cache
from probe_lab.cache.layout import PreviewOf
from probe_lab.config import Experiment, load_experiment
from probe_lab.errors import ScoreError, SelectError
from probe_lab.evaluators import Evaluator, base, register
from probe_lab.generation.generate import generate
from probe_lab.previews.preview_scores import score_previews
from probe_lab.probes import Probe, ProbeSpec
from probe_lab.selection import ProbeSelect
from probe_lab.selection.schedule import progressive

PROMPTS = ["a red circle", "a blue square left of a green cross"]
STEPS, STEP = 5, 3
X0 = {"x0": (4, 8, 8)}


@pytest.fixture(scope="module")
def experiment(tmp_path_factory: pytest.TempPathFactory) -> Experiment:
    """A cache of two prompts with four seeds each."""
    keys = ["prompts.count=2", "prompts.seeds=4", f"sampling.steps={STEPS}", f"capture.steps=[{STEP}]", "workers=1"]
    places = [f"cache.root={tmp_path_factory.mktemp('caches')}", "cache.dtype=float32", "sampling.batch_size=8"]
    made = load_experiment("smoke", [*keys, *places, f"probe.step={STEP}", "cache.shard_size=8"])
    generate(made, lambda done, total: None, lambda plan: None)
    return made


@pytest.fixture(scope="module")
def pipe(experiment: Experiment) -> DiffusionPipeline:
    return load_pipeline(experiment.backbone, experiment.sampling)


def shape_of_x0(pipe: DiffusionPipeline) -> tuple[int, int, int]:
    side = 64 // pipe.vae_scale_factor
    return pipe.unet.config.in_channels, side, side


def probe_of(pipe: DiffusionPipeline, *scalars: str, step: int = STEP) -> Probe:
    """Random on x0; or, with scalars, their first one itself."""
    with torch.random.fork_rng():
        torch.manual_seed(3)
        taps = {"x0": shape_of_x0(pipe)} if not scalars else {"latent": shape_of_x0(pipe)}
        probe = Probe(ProbeSpec("linear", taps, ("one",), step, STEPS, backbone="tiny-sd", scalars=scalars)).eval()
    if scalars:
        weight = torch.zeros_like(probe.head.weight)  # type: ignore[arg-type]
        weight[0, -len(scalars)] = 1.0
        probe.head.load_state_dict({"weight": weight, "bias": torch.zeros(1)})
    return probe


def generators(seeds: Sequence[int]) -> list[torch.Generator]:
    return [torch.Generator().manual_seed(seed) for seed in seeds]


OPTIONS = {"num_inference_steps": STEPS, "guidance_scale": 2.0, "height": 64, "width": 64}


def test_scalars_are_those_of_training(experiment: Experiment, pipe: DiffusionPipeline) -> None:
    score_previews(experiment, {PreviewOf(STEP): ["shapes_reward", "shapes_binding"]})
    cache = Cache(experiment.cache_folder)
    prompts = cache.samples["prompt"].iloc[::4].tolist()
    for name in ("shapes_reward", "shapes_binding"):
        select = ProbeSelect(pipe, probe_of(pipe, f"preview:{name}"), candidates=4)
        found = select(prompts, generator=generators(cache.samples["seed"]), **OPTIONS)
        expected = torch.from_numpy(cache.preview_scores(name, STEP)).view(2, 4)
        assert len(set(expected.flatten().tolist())) > 4
        torch.testing.assert_close(found.scores[..., 0], expected, atol=1e-4, rtol=0)
        assert [kept[0] for kept in found.kept] == expected.argmax(1).tolist()


class Redness(Evaluator):
    """Counts the pictures that it is shown."""

    name = family = "redness"
    version, preprocessing = "1", "none"
    seen = 0

    def score(self, images: Sequence[Image], prompts: Sequence[str]) -> Tensor:
        Redness.seen += len(images)
        assert all(prompt in PROMPTS for prompt in prompts)
        return torch.tensor([float(sum(image.convert("RGB").resize((1, 1)).getpixel((0, 0))[:2])) for image in images])  # type: ignore[index]


@pytest.fixture
def _redness(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(base.EVALUATORS, "_entries", dict(base.EVALUATORS._entries))
    register("redness", lambda settings: Redness())
    Redness.seen = 0


@pytest.mark.usefixtures("_redness")
def test_a_cheap_probe_thins_out_what_is_previewed(pipe: DiffusionPipeline) -> None:
    cheap, costly = probe_of(pipe), probe_of(pipe, "preview:redness")
    first, second = (ProbeSelect(pipe, one, candidates=5, keep=5) for one in (cheap, costly))
    seeds = list(range(10))
    by_cheap, by_costly = (
        one(PROMPTS, generator=generators(seeds), **OPTIONS).scores[..., 0] for one in (first, second)
    )
    assert Redness.seen == 10
    told: list[tuple[int, list[list[int]]]] = []
    cascade = ProbeSelect(
        pipe,
        [costly, cheap],  # in any order: previews come last
        candidates=5,
        keep=1,
        schedule=[{"step": STEP, "keep": 2}, {"step": STEP, "keep": 1}],
        on_cut=lambda step, left: told.append((step, [rows.tolist() for rows in left])),
    )
    found = cascade(PROMPTS, generator=generators(seeds), **OPTIONS, output_type="latent")
    assert Redness.seen == 10 + 2 * 2
    left = by_cheap.argsort(dim=1, descending=True, stable=True)[:, :2]
    best = left.gather(1, by_costly.gather(1, left).argmax(1, keepdim=True))
    assert told == [(STEP, left.tolist()), (STEP, best.tolist())]
    assert [list(kept) for kept in found.kept] == best.tolist()
    assert found.denoiser_calls == 2 * (5 * STEP + 1 * (STEPS - STEP))
    torch.testing.assert_close(found.scores[..., 0].gather(1, left), by_costly.gather(1, left), atol=2.0, rtol=0)
    prompts = [prompt for prompt in PROMPTS for _ in range(5)]
    everything = pipe(prompts, generator=generators(seeds), **OPTIONS, output_type="latent").images
    rows = [5 * prompt + kept[0] for prompt, kept in enumerate(found.kept)]
    torch.testing.assert_close(found.images, everything[rows], atol=1e-4, rtol=0)
    assert "decode" not in vars(pipe.vae)


def probes_of(*scalars: str) -> list[Probe]:
    return [
        Probe(ProbeSpec("linear", X0, ("one",), 2, STEPS, scalars=(scalar,) if scalar else ()))  # type: ignore[arg-type]
        for scalar in scalars
    ]


def test_probes_of_a_step_take_turns() -> None:
    costly, plain, other = probes_of("preview:redness", "", "")
    late = Probe(ProbeSpec("linear", X0, ("one",), 3, STEPS))  # type: ignore[arg-type]
    at_two = [{"step": 2, "keep": keep} for keep in (6, 4, 1)]
    given = [costly, late, plain, other]
    assert [cut.probe for cut in progressive(at_two, given, 8, 1, STEPS)] == [plain, other, costly]
    # With more probes than cuts the last ones are asked.
    assert [cut.probe for cut in progressive(at_two[1:], given, 8, 1, STEPS)] == [other, costly]
    mixed = [at_two[0], {"step": 3, "keep": 1}]
    assert [cut.probe for cut in progressive(mixed, given, 8, 1, STEPS)] == [costly, late]


def test_a_schedule_is_of_the_steps_of_the_call() -> None:
    """Twice the steps: a probe of step 2 reads after 4."""
    given = [*probes_of(""), Probe(ProbeSpec("linear", X0, ("one",), 3, STEPS))]  # type: ignore[arg-type]
    cuts = progressive([{"step": 4, "keep": 2}, {"step": 6, "keep": 1}], given, 4, 1, 2 * STEPS)
    assert [cut.probe for cut in cuts] == given
    with pytest.raises(SelectError, match=f"trained at step 3 of {2 * STEPS}, .* there are some of 4, 6"):
        progressive([{"step": 3, "keep": 1}], given, 4, 1, 2 * STEPS)
    with pytest.raises(SelectError, match="there are some of no step at all"):
        progressive([{"step": 2, "keep": 1}], given, 4, 1, STEPS * STEPS + 1)


@pytest.mark.parametrize(
    ("schedule", "words"),
    [
        ([(2, 4), (2, 1)], r"2 cuts at step 2, where 1 probe was trained"),
        ([(3, 4), (2, 1)], r"keeps 1 at step 2 after 4 were left at step 3"),
        ([(2, 4), (3, 4)], r"keeps 4 at step 3 after 4 were left at step 2"),
        ([(0, 4), (3, 1)], r"keeps 4 at step 0"),
        ([(4, 1)], rf"no probe was trained at step 4 of {STEPS}, where the schedule cuts: there are some of 2, 3"),
        ([(2, 2)], r"ends with 2 candidates and keep=1"),
    ],
)
def test_impossible_schedules_are_refused(schedule: list[tuple[int, int]], words: str) -> None:
    given = [*probes_of(""), Probe(ProbeSpec("linear", X0, ("one",), 3, STEPS))]  # type: ignore[arg-type]
    entries = [{"step": step, "keep": keep} for step, keep in schedule]
    with pytest.raises(SelectError, match=words):
        progressive(entries, given, 8, 1, STEPS)


def test_an_evaluator_that_cannot_run_is_refused_at_once(pipe: DiffusionPipeline, tmp_path: Path) -> None:
    with pytest.raises(ScoreError, match="'human' were imported"):
        ProbeSelect(pipe, probe_of(pipe, "preview:human"))
