"""Images that are no pictures of their prompts: marked where they are made, and never a label."""

from __future__ import annotations

import json
import logging
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch
from diffusers import DiffusionPipeline, ModelMixin, StableDiffusionPipeline
from diffusers.pipelines.stable_diffusion.safety_checker import StableDiffusionSafetyChecker
from torch import Tensor, nn
from transformers import CLIPConfig, CLIPImageProcessor, CLIPVisionConfig

from probe_lab.backbones.families import WEIGHTS
from probe_lab.backbones.pipelines import load_pipeline
from probe_lab.cache import Cache, verify
from probe_lab.cache.faults import Fault
from probe_lab.cache.info import describe
from probe_lab.cache.layout import Sidecar, sidecar_path
from probe_lab.capture.no_pictures import decodes_watched
from probe_lab.config import Experiment, load_experiment
from probe_lab.data.groups import prompt_groups
from probe_lab.data.splits import SplitFractions
from probe_lab.errors import CacheError, CaptureError
from probe_lab.evaluators.imported import import_scores
from probe_lab.evaluators.scoring_run import score_cache
from probe_lab.generation.generate import generate

Verdict = list[bool]


class Checker(ModelMixin):
    """Stands where a checker stands, and blacks out the rows that it is told to."""

    def __init__(self, verdict: Verdict) -> None:
        super().__init__()
        self.verdict = verdict
        self.weight = nn.Parameter(torch.zeros(1))  # pipelines ask each part where it is

    def forward(self, images: Any, clip_input: Tensor) -> tuple[Any, Verdict]:
        verdict = (self.verdict * len(images))[: len(images)]
        for row, flagged in enumerate(verdict):
            if flagged:
                images[row] = 0 * images[row]
        return images, verdict


@pytest.fixture(scope="module")
def pipe() -> DiffusionPipeline:
    found = DiffusionPipeline.from_pretrained(WEIGHTS / "tiny-sd", dtype=torch.float32)
    found.set_progress_bar_config(disable=True)
    return found


@contextmanager
def decoding(pipe: DiffusionPipeline, rows: list[int], value: float) -> Iterator[None]:
    """Some rows of a batch decode to a value that is no number, in one pixel."""

    def spoil(module: nn.Module, args: Any, output: Tensor) -> Tensor:
        output[[row for row in rows if row < len(output)], 0, 3, 5] = value
        return output

    handle = pipe.vae.decoder.register_forward_hook(spoil)
    try:
        yield
    finally:
        handle.remove()


def faults_of(pipe: DiffusionPipeline, **options: Any) -> dict[int, Fault]:
    call = {"num_inference_steps": 2, "guidance_scale": 2.0, "height": 64, "width": 64}
    with decodes_watched(pipe) as decodes:
        output = pipe(["a red circle", "a blue square", "a green cross"], **call, **options)
    assert "decode" not in vars(pipe.vae)
    return decodes.faults(output)


@pytest.mark.parametrize("value", [torch.nan, torch.inf, -torch.inf])
@pytest.mark.parametrize("options", [{}, {"return_dict": False}, {"output_type": "np"}, {"output_type": "pt"}])
def test_one_row_that_decodes_to_no_number(pipe: DiffusionPipeline, value: float, options: dict[str, Any]) -> None:
    with decoding(pipe, [1], value):
        assert faults_of(pipe, **options) == {1: "not_finite"}
    assert faults_of(pipe, **options) == {}


def test_latents_that_are_no_numbers(pipe: DiffusionPipeline) -> None:
    latents = torch.randn(3, pipe.unet.config.in_channels, 64 // pipe.vae_scale_factor, 64 // pipe.vae_scale_factor)
    latents[2, 0, 0, 0] = torch.nan
    assert faults_of(pipe, latents=latents.clone(), output_type="latent") == {2: "not_finite"}
    assert faults_of(pipe, latents=latents.clone()) == {2: "not_finite"}


def test_dark_and_flat_pictures_are_pictures(pipe: DiffusionPipeline) -> None:
    with decoding(pipe, [], 0.0):
        handle = pipe.vae.decoder.register_forward_hook(lambda module, args, output: torch.full_like(output, -1.0))
        try:
            assert faults_of(pipe) == {}
        finally:
            handle.remove()


@pytest.mark.parametrize("options", [{}, {"return_dict": False}, {"output_type": "np"}])
def test_what_a_checker_flags(pipe: DiffusionPipeline, options: dict[str, Any]) -> None:
    pipe.safety_checker, pipe.feature_extractor = Checker([False, True, False]), CLIPImageProcessor()
    try:
        assert faults_of(pipe, **options) == {1: "flagged"}
        with decoding(pipe, [1, 2], torch.nan):
            assert faults_of(pipe, **options) == {1: "not_finite", 2: "not_finite"}
    finally:
        pipe.safety_checker, pipe.feature_extractor = None, None


def flagging_folder(folder: Path, threshold: float) -> Path:
    """A backbone with diffusers' own checker, which flags pictures above a threshold of similarity."""
    sizes = {"hidden_size": 8, "intermediate_size": 8, "num_hidden_layers": 1, "num_attention_heads": 2}
    vision = CLIPVisionConfig(**sizes, image_size=32, patch_size=16)
    torch.manual_seed(0)
    checker = StableDiffusionSafetyChecker(CLIPConfig(vision_config=vision.to_dict(), projection_dim=8))
    checker.concept_embeds_weights.data.fill_(threshold)
    checker.special_care_embeds_weights.data.fill_(2.0)
    processor = CLIPImageProcessor(size={"shortest_edge": 32}, crop_size={"height": 32, "width": 32})
    parts = DiffusionPipeline.from_pretrained(WEIGHTS / "tiny-sd").components
    made = StableDiffusionPipeline(**{**parts, "safety_checker": checker, "feature_extractor": processor})
    made.save_pretrained(folder)
    return folder


def experiment_on(folder: Path, root: Path, *changes: str) -> Experiment:
    keys = ["prompts.count=3", "prompts.seeds=4", "sampling.steps=2", "capture.steps=[1]", "capture.taps=[x0]"]
    keys += ["sampling.height=32", "sampling.width=32"]
    more = ["probe.step=1", "probe.taps=[x0]", "workers=1", "cache.shard_size=8", f"cache.root={root}"]
    backbone = f"backbone={{family: sd, path: {folder}}}"
    return load_experiment("smoke", [backbone, *keys, *more, *changes])


def make(experiment: Experiment) -> None:
    generate(experiment, lambda done, total: None, lambda plan: None)


def test_a_run_in_which_all_are_flagged_is_refused_and_the_checker_can_be_left_out(tmp_path: Path) -> None:
    folder = flagging_folder(tmp_path / "model", -2.0)
    experiment = experiment_on(folder, tmp_path)
    for _ in range(2):  # the second time nothing is left to generate
        with pytest.raises(CacheError, match=r"all 12 images .* flagged by the safety checker.*safety_checker=false"):
            make(experiment)
    with pytest.raises(CacheError, match="all 12 images"):
        score_cache(experiment.cache_folder, ["shapes_reward"])
    assert not list((experiment.cache_folder / "scores").iterdir())
    small = experiment_on(folder, tmp_path, "cache.name=small", "prompts.count=1")
    with pytest.raises(CacheError, match="all 4 images"):
        make(small)
    assert not list((small.cache_folder / "images").iterdir())
    without = experiment_on(folder, tmp_path, "cache.name=without", "sampling.safety_checker=false")
    make(without)
    assert Cache(without.cache_folder).faults == {}
    assert Cache(without.cache_folder).manifest.extra["sampling.safety_checker"] == "false"
    with pytest.raises(CacheError, match=r"sampling\.safety_checker"):
        make(replace(experiment, cache=without.cache))
    assert load_pipeline(without.backbone, without.sampling).safety_checker is None


def test_a_model_that_decodes_to_nan_is_refused_before_it_generates(tmp_path: Path) -> None:
    made = DiffusionPipeline.from_pretrained(WEIGHTS / "tiny-sd")
    list(made.vae.decoder.parameters())[-1].data.fill_(torch.nan)
    made.save_pretrained(tmp_path / "model")
    experiment = experiment_on(tmp_path / "model", tmp_path)
    with pytest.raises(CaptureError, match=r"decode to NaN or infinity: set sampling\.dtype=float32"):
        make(experiment)
    assert not experiment.cache_folder.exists()


@pytest.fixture(scope="module")
def marked(tmp_path_factory: pytest.TempPathFactory) -> Experiment:
    """A cache of which samples 2 and 9 are marked: by hand, since all else is told above."""
    experiment = experiment_on(WEIGHTS / "tiny-sd", tmp_path_factory.mktemp("marked"))
    make(experiment)
    mark(experiment.cache_folder, 0, {2: "flagged"})
    mark(experiment.cache_folder, 1, {1: "not_finite"})
    return experiment


def mark(folder: Path, shard: int, faults: dict[int, Fault]) -> None:
    path = sidecar_path(folder, shard)
    path.write_bytes(replace(Sidecar.load(path), faults=faults).to_json())


def test_marked_samples_are_never_labels(marked: Experiment, tmp_path: Path) -> None:
    folder = marked.cache_folder
    cache = Cache(folder)
    assert cache.faults == {2: "flagged", 9: "not_finite"}
    assert cache.picture_samples["sample_id"].tolist() == [0, 1, *range(3, 9), 10, 11]
    summary = score_cache(folder, ["shapes_reward"])
    assert "being no pictures: 1 flagged by the safety checker, 1 not finite" in summary.text
    assert np.flatnonzero(np.isnan(cache.scores("shapes_reward"))).tolist() == [2, 9]
    assert score_cache(folder, ["shapes_reward"]).skipped == ("shapes_reward",)
    # Not by an import either, nor where a file from before has them.
    table = pd.DataFrame({"sample_id": np.arange(12), "score": np.arange(12.0)})
    table.to_csv(tmp_path / "stars.csv", index=False)
    import_scores(folder, tmp_path / "stars.csv", "stars")
    assert np.flatnonzero(np.isnan(cache.scores("stars"))).tolist() == [2, 9]
    groups = prompt_groups(cache, ["shapes_reward", "stars"], SplitFractions())
    assert sorted(np.concatenate([group.sample_id for group in groups.values()])) == [0, 1, *range(3, 9), 10, 11]
    assert sum(group.left_out for group in groups.values()) == 2
    assert verify(folder) == []
    assert describe(folder)["faults"] == {"flagged by the safety checker": 1, "not finite (NaN)": 1}


def test_the_count_is_told_by_the_next_generate(marked: Experiment, caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.WARNING):
        make(marked)
    assert "2 of 12 images" in caplog.text
    assert "samples 2, 9" in caplog.text


def test_many_rows_are_marked_and_read_again(marked: Experiment, tmp_path: Path) -> None:
    path = tmp_path / "00000.json"
    sidecar = replace(Sidecar.load(sidecar_path(marked.cache_folder, 0)), rows=120, row_crc32=tuple(range(120)))
    faults: dict[int, Fault] = dict.fromkeys([111, 2, 10, 9], "flagged")
    path.write_bytes(replace(sidecar, array_crc32={}, faults=faults).to_json())
    assert Sidecar.load(path).faults == faults


@pytest.mark.parametrize("faults", [{"8": "flagged"}, {"-1": "flagged"}, {"1": "dark"}, {"x": "flagged"}, ["1"], 3])
def test_marks_that_are_none_are_a_broken_sidecar(marked: Experiment, tmp_path: Path, faults: Any) -> None:
    path = tmp_path / "00000.json"
    content = json.loads(sidecar_path(marked.cache_folder, 0).read_text())
    del content["digest"]  # as before there was one
    path.write_text(json.dumps(content | {"faults": faults}))
    with pytest.raises(CacheError, match="not a readable sidecar"):
        Sidecar.load(path)


def test_what_another_thread_decodes_is_not_of_this_call(pipe: DiffusionPipeline) -> None:
    latents = torch.zeros(2, pipe.vae.config.latent_channels, 8, 8)
    with decodes_watched(pipe) as decodes, torch.no_grad():
        pipe.vae.decode(latents)
        other = threading.Thread(target=torch.no_grad()(pipe.vae.decode), args=(latents * torch.nan,))
        other.start()
        other.join()
    assert decodes.faults((["one", "two"],)) == {}
