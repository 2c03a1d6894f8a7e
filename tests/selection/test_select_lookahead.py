"""Selection by previews that nobody trained, among them the lookahead, which only costs those that are left."""

from __future__ import annotations

import functools
from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch
from diffusers import DiffusionPipeline
from PIL.Image import Image
from tiny_pipelines import CALL, PIPELINES
from torch import Tensor

from probe_lab.backbones.families import family_of
from probe_lab.backbones.pipelines import load_pipeline
from probe_lab.cache import Cache
from probe_lab.cache.layout import PreviewOf
from probe_lab.capture import Capture
from probe_lab.config import Experiment, load_experiment
from probe_lab.errors import ConfigError, ProbeError, SelectError
from probe_lab.evaluators import Evaluator, base, register
from probe_lab.generation.generate import generate
from probe_lab.previews.decoding import pictures
from probe_lab.previews.preview_scores import score_previews
from probe_lab.probes import Inputs, Probe, ProbeSpec, preview_probe
from probe_lab.selection import ProbeSelect
from probe_lab.selection.setup import setup_of

STEPS, STEP = 5, 3
OPTIONS: dict[str, Any] = {"num_inference_steps": STEPS, "guidance_scale": 2.0, "height": 64, "width": 64}
REWARD = "lookahead:shapes_reward"


@pytest.fixture(scope="module")
def experiment(tmp_path_factory: pytest.TempPathFactory) -> Experiment:
    """A cache of two prompts with four seeds each, with what is ahead."""
    keys = ["prompts.count=2", "prompts.seeds=4", f"sampling.steps={STEPS}", f"capture.steps=[{STEP}]", "workers=1"]
    places = [f"cache.root={tmp_path_factory.mktemp('caches')}", "cache.dtype=float32", "sampling.batch_size=8"]
    taps = "capture.taps=[x0, lookahead]"
    made = load_experiment("smoke", [*keys, *places, taps, f"probe.step={STEP}", "cache.shard_size=8"])
    generate(made, lambda done, total: None, lambda plan: None)
    names = ["shapes_reward", "shapes_binding"]
    score_previews(made, {PreviewOf(STEP, "lookahead"): names, PreviewOf(STEP): names})
    return made


@pytest.fixture(scope="module")
def pipe(experiment: Experiment) -> DiffusionPipeline:
    return load_pipeline(experiment.backbone, experiment.sampling)


def generators(seeds: Any) -> list[torch.Generator]:
    return [torch.Generator().manual_seed(seed) for seed in seeds]


@pytest.mark.parametrize(("word", "latent"), [("preview", "x0"), ("lookahead", "lookahead")])
def test_a_preview_selects_by_the_scores_of_the_cache(
    experiment: Experiment, pipe: DiffusionPipeline, word: str, latent: str
) -> None:
    cache = Cache(experiment.cache_folder)
    prompts = cache.samples["prompt"].iloc[::4].tolist()
    probe = preview_probe(f"{word}:shapes_reward", f"{word}:shapes_binding", step=STEP, total_steps=STEPS)
    select = ProbeSelect(pipe, probe, candidates=4)
    found = select(prompts, generator=generators(cache.samples["seed"]), **OPTIONS)
    assert found.evaluators == ("shapes_reward", "shapes_binding")
    for column, name in enumerate(found.evaluators):
        expected = torch.from_numpy(cache.preview_scores(name, STEP, latent)).view(2, 4)
        assert len(set(expected.flatten().tolist())) > 4
        torch.testing.assert_close(found.scores[..., column], expected, atol=1e-4, rtol=0)
    assert [kept[0] for kept in found.kept] == found.scores[..., 0].argmax(1).tolist()
    ahead = 8 if latent == "lookahead" else 0
    assert found.denoiser_calls == 8 * STEP + 2 * (STEPS - STEP) + ahead


def test_the_two_previews_are_two_files(experiment: Experiment) -> None:
    cache = Cache(experiment.cache_folder)
    both = [cache.preview_scores("shapes_reward", STEP, latent) for latent in ("x0", "lookahead")]
    assert (both[0] != both[1]).any()
    assert (cache.folder / "previews" / str(STEP) / "lookahead" / "shapes_reward.parquet").is_file()


def test_only_those_that_are_left_look_ahead(experiment: Experiment, pipe: DiffusionPipeline) -> None:
    cache = Cache(experiment.cache_folder)
    prompts = cache.samples["prompt"].iloc[::4].tolist()
    shape = cache.manifest.taps["x0"]
    with torch.random.fork_rng():
        torch.manual_seed(3)
        taps = {"x0": (shape[0], shape[1], shape[2])}
        cheap = Probe(ProbeSpec("linear", taps, ("cheap", "shapes_reward"), STEP, STEPS))
    ahead = preview_probe(REWARD, step=STEP, total_steps=STEPS)
    schedule = [{"step": STEP, "keep": 2}, {"step": STEP, "keep": 1}]
    rows: list[int] = []
    denoiser = family_of(pipe).denoiser_of(pipe)
    plain = denoiser.forward

    @functools.wraps(plain)  # its signature is looked at
    def counted(*args: Any, **kwargs: Any) -> Any:
        rows.append(len((*args, *kwargs.values())[0]))
        return plain(*args, **kwargs)

    denoiser.forward = counted  # type: ignore[method-assign]
    try:
        select = ProbeSelect(pipe, [ahead, cheap], candidates=4, schedule=schedule, by="shapes_reward")
        found = select(prompts, generator=generators(cache.samples["seed"]), **OPTIONS)
    finally:
        del denoiser.forward
    # Guided calls have both halves; the lookahead asks with the prompt only, for two candidates of each prompt.
    assert rows == [16] * STEP + [4] + [4] * (STEPS - STEP)
    assert found.denoiser_calls == 8 * STEP + 4 + 2 * (STEPS - STEP)
    x0 = cache.read_all(f"{STEP}/x0").float()
    by_cheap = cheap.predict(Inputs({"x0": x0}, torch.full((8,), STEP)))
    left = by_cheap[:, 1].view(2, 4).argsort(dim=1, descending=True, stable=True)[:, :2]
    truth = torch.from_numpy(cache.preview_scores("shapes_reward", STEP, "lookahead")).view(2, 4)
    best = left.gather(1, truth.gather(1, left).argmax(1, keepdim=True))
    assert [list(kept) for kept in found.kept] == best.tolist()
    assert found.evaluators == ("shapes_reward", "cheap")
    expected = by_cheap[:, 1].view(2, 4).scatter(1, left, truth.gather(1, left))
    torch.testing.assert_close(found.scores[..., 0], expected, atol=1e-3, rtol=0)


def test_a_probe_of_the_lookahead_pays_for_it(experiment: Experiment, pipe: DiffusionPipeline) -> None:
    """As a tap it is the array of the cache, and costs what it costs as a scalar."""
    cache = Cache(experiment.cache_folder)
    prompts = cache.samples["prompt"].iloc[::4].tolist()
    channels, height, width = cache.manifest.taps["lookahead"]
    with torch.random.fork_rng():
        torch.manual_seed(4)
        probe = Probe(ProbeSpec("linear", {"lookahead": (channels, height, width)}, ("one",), STEP, STEPS)).eval()
    found = ProbeSelect(pipe, probe, candidates=4)(prompts, generator=generators(cache.samples["seed"]), **OPTIONS)
    expected = probe.predict(Inputs({"lookahead": cache.read_all(f"{STEP}/lookahead")}, torch.full((8,), STEP)))
    torch.testing.assert_close(found.scores.flatten(0, 1), expected, atol=1e-3, rtol=0)
    assert found.denoiser_calls == 8 * (STEP + 1) + 2 * (STEPS - STEP)


@pytest.fixture(scope="module")
def tiny(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], DiffusionPipeline]:
    return lambda name: PIPELINES[name](tmp_path_factory.mktemp("tiny"))


class Brightness(Evaluator):
    """The mean of a picture."""

    name = family = "brightness"
    version, preprocessing = "1", "none"

    def score(self, images: Sequence[Image], prompts: Sequence[str]) -> Tensor:
        return torch.tensor([float(np.asarray(image, dtype=np.float64).mean()) for image in images])


@pytest.fixture
def _brightness(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(base.EVALUATORS, "_entries", dict(base.EVALUATORS._entries))
    register("brightness", lambda settings: Brightness())


@pytest.mark.usefixtures("_brightness")
@pytest.mark.parametrize("name", ["sdxl", "pixart", "sd3", "flux-dev", "qwen-image", "sana", "flux2-klein"])
def test_those_that_are_left_look_ahead_as_they_would_have_in_company(
    tiny: Callable[[str], DiffusionPipeline], name: str
) -> None:
    """A first cut leaves two of three, which look ahead after another step, as a capture of all sees them there."""
    pipe, prompts, call = tiny(name), ["a red circle", "a blue square left of a green cross"], CALL[name]
    options = {"num_inference_steps": STEPS, "height": 96, "width": 96, **call.options, **call.guided}
    seeds, together = range(6), [prompt for prompt in prompts for _ in range(3)]
    each = dict(options)
    if isinstance(options.get("negative_prompt"), str):
        each["negative_prompt"] = [options["negative_prompt"]] * len(together)
    with Capture(pipe, ["x0", "lookahead"], [1, 2]) as capture:
        pipe(prompt=together, generator=generators(seeds), **each, output_type="latent")
    channels, height, width = capture[1, "", "x0"].shape[1:]
    spec = ProbeSpec("linear", {"x0": (channels, height, width)}, ("brightness",), 1, STEPS)
    with torch.random.fork_rng():
        torch.manual_seed(0)
        first = Probe(spec).eval()
    second = preview_probe("lookahead:brightness", step=2, total_steps=STEPS)
    schedule = [{"step": 1, "keep": 2}, {"step": 2, "keep": 1}]
    select = ProbeSelect(pipe, [first, second], candidates=3, keep=1, schedule=schedule)
    found = select(prompts, generator=generators(seeds), **options, output_type="latent")
    scores = found.scores[..., 0].flatten()
    pixels = np.stack([np.asarray(image, dtype=np.float64) for image in pictures(pipe, capture[2, "", "lookahead"])])
    expected = torch.tensor(pixels.mean(axis=(1, 2, 3)), dtype=torch.float32)
    by_first = first.predict(Inputs({"x0": capture[1, "", "x0"].float()}, torch.ones(6, dtype=torch.int64))).view(2, 3)
    left = (by_first.argsort(dim=1, descending=True, stable=True)[:, :2] + torch.tensor([[0], [3]])).flatten()
    torch.testing.assert_close(scores[left], expected[left], atol=0.3, rtol=0)  # of 255: pixels are rounded
    assert found.denoiser_calls == 6 + 4 + 4 + 2 * (STEPS - 2)


def test_a_preview_is_asked_by_its_name(experiment: Experiment) -> None:
    setup = setup_of(experiment, [REWARD])
    assert setup.asked[0].probe.spec.scalars == (REWARD,)
    assert (setup.asked[0].name, setup.steps, setup.by) == (REWARD, [STEP], "shapes_reward")
    assert setup.described["probes"][0]["scalars"] == [REWARD]
    schedule = [{"step": 2, "keep": 3}, {"step": 3, "keep": 1}]
    scheduled = replace(experiment, select=replace(experiment.select, schedule=schedule))
    assert [each.probe.spec.step for each in setup_of(scheduled, ["preview:shapes_reward"]).asked] == [2, 3]
    with pytest.raises(SelectError, match=r"budget=40 is planned from what trained cells predicted"):
        setup_of(replace(experiment, select=replace(experiment.select, budget=40)), [REWARD])


def test_a_preview_of_nothing_is_refused() -> None:
    with pytest.raises(ConfigError, match=r"names 'prewiew:one': write preview:EVALUATOR or lookahead:EVALUATOR"):
        preview_probe("prewiew:one", step=1, total_steps=5)
    with pytest.raises(ProbeError, match=r"a preview predicts its scalars"):
        ProbeSpec("preview", {}, ("other",), 1, 5, scalars=("preview:one",))
