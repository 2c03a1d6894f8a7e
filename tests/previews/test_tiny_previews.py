"""Previews by a tiny autoencoder: the real class, small, made here and saved to a folder as users do."""

from __future__ import annotations

import re
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from diffusers import AutoencoderTiny

from probe_lab.backbones.pipelines import load_pipeline
from probe_lab.cache import Cache, verify
from probe_lab.cache.layout import PreviewOf
from probe_lab.cache.scores import read_score_metadata
from probe_lab.config import Backbone, Experiment, Sampling, load_experiment
from probe_lab.errors import ConfigError, ScoreError
from probe_lab.evaluators import create
from probe_lab.generation.generate import generate
from probe_lab.previews.preview_scores import score_previews
from probe_lab.previews.price import decode_flops, preview_note
from probe_lab.previews.tiny_decoder import load_tiny, tiny_identity, tiny_pixels
from probe_lab.sweep import cells, run_sweep

REWARD = "shapes_reward"
SMALL = ["prompts.count=12", "prompts.seeds=2", "sampling.steps=3", "capture.steps=[2]", "capture.taps=[x0]"]
CHANNELS = 8


def saved(folder: Path, seed: int = 0, channels: int = CHANNELS) -> Path:
    torch.manual_seed(seed)
    blocks = {f"{side}_block_out_channels": (8, 8, 8) for side in ("encoder", "decoder")}
    counts = {"num_encoder_blocks": (1, 1, 1), "num_decoder_blocks": (1, 1, 1)}
    AutoencoderTiny(latent_channels=channels, **blocks, **counts).save_pretrained(folder)
    return folder


@pytest.fixture(scope="module")
def experiment(tmp_path_factory: pytest.TempPathFactory) -> Experiment:
    """Generated and scored; its cache holds no previews of the tests before, each has its own decoder."""
    from probe_lab.evaluators.scoring_run import score_cache

    folder = tmp_path_factory.mktemp("tiny")
    places = [f"cache.root={folder}", f"runs={folder}/runs", "tracking.uri=", "workers=1", "cache.dtype=float32"]
    sweep = "sweep={probe.model: [x0_preview, tiny_preview], probe.step: [2]}"
    source = saved(folder / "decoder")
    made = load_experiment("smoke", [*places, *SMALL, f"scoring.preview_decoder={source}", sweep, "probe.step=2"])
    generate(made, lambda done, total: None, lambda plan: None)
    score_cache(made.cache_folder, made.evaluators)
    return made


def test_a_tiny_preview_has_the_score_of_its_picture_beside_the_other(experiment: Experiment) -> None:
    lines = score_previews(experiment, {PreviewOf(2): [REWARD], PreviewOf(2, "tiny"): [REWARD]})
    assert lines == [f"previews at step 2: scored: {REWARD}", f"tiny_previews at step 2: scored: {REWARD}"]
    cache = Cache(experiment.cache_folder)
    tiny, own = cache.preview_scores(REWARD, 2, "tiny"), cache.preview_scores(REWARD, 2)
    pipe, model = load_pipeline(experiment.backbone, experiment.sampling), load_tiny(experiment.scoring.preview_decoder)
    for sample in (0, 5, 23):
        shard, row = cache.samples[["shard", "row"]].to_numpy()[sample].tolist()
        with torch.no_grad():
            pixels = model.decode(cache.read("2/x0", shard, slice(row, row + 1))).sample
        image = pipe.image_processor.postprocess(pixels, output_type="pil")
        expected = create(REWARD).score(image, [cache.samples["prompt"][sample]]).item()
        assert tiny[sample] == pytest.approx(expected, abs=1e-4)
    assert not np.allclose(tiny, own)
    assert verify(cache.folder) == []


def test_other_weights_under_the_same_name_are_another_decoder(experiment: Experiment, tmp_path: Path) -> None:
    source = saved(tmp_path / "decoder", seed=1)
    other = replace(experiment, scoring=replace(experiment.scoring, preview_decoder=str(source)))
    of = PreviewOf(2, "tiny")
    assert "tiny_previews at step 2: scored: " in score_previews(other, {of: [REWARD]})[0]
    first = read_score_metadata(other.cache_folder, REWARD, of)["decoder"]
    assert first == tiny_identity(str(source), "float32")
    assert "scored before" in score_previews(other, {of: [REWARD]})[0]
    saved(source, seed=2)
    assert "tiny_previews at step 2: scored: " in score_previews(other, {of: [REWARD]})[0]
    assert read_score_metadata(other.cache_folder, REWARD, of)["decoder"] != first


def test_both_baselines_are_cells(experiment: Experiment) -> None:
    summary = run_sweep(experiment)
    assert not summary.failed
    names = [cell.name for cell in cells(experiment)]
    without = replace(experiment, scoring=replace(experiment.scoring, preview_decoder="elsewhere"))
    assert names[0] == cells(without)[0].name, "x0_preview reads no tiny preview"
    assert names[1] != cells(without)[1].name


def test_what_is_no_decoder_of_the_latents_is_refused(experiment: Experiment, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"'scoring.preview_decoder' is empty: name an AutoencoderTiny"):
        load_tiny("")
    with pytest.raises(ConfigError, match="from which no AutoencoderTiny can be loaded"):
        load_tiny(str(tmp_path))
    wide = load_tiny(str(saved(tmp_path / "wide", channels=16)))
    with pytest.raises(ScoreError, match=r"latents of 16 channels and those of the backbone have 8"):
        tiny_pixels(wide, torch.zeros(1, CHANNELS, 8, 8))


def test_plan_prices_a_tiny_preview(experiment: Experiment) -> None:
    published = replace(
        experiment,
        backbone=Backbone(family="sdxl", path="stabilityai/stable-diffusion-xl-base-1.0"),
        sampling=Sampling(height=1024, width=1024),
        scoring=replace(experiment.scoring, preview_decoder="madebyollin/taesdxl"),
    )
    assert "takes 0.565 TFLOP by madebyollin/taesdxl (5.4% of the 10.470 TFLOP" in preview_note(published)
    assert preview_note(replace(published, scoring=replace(published.scoring, preview_decoder=""))) == ""
    assert preview_note(experiment).startswith("A preview of 64×64 takes 0.00")


def test_the_pages_give_decoding_the_price_that_plan_computes() -> None:
    published = load_experiment("paper/preregistered_sdxl")
    counted = re.search(r"takes ([\d.]+) TFLOP by .* of the ([\d.]+) TFLOP", preview_note(published))
    page = Path("docs/paper_runs.md").read_text(encoding="utf-8")
    denoiser = re.search(r"`preregistered_sdxl`.*\| ([\d,]+) \|[^|]*\|$", page, re.MULTILINE)
    assert counted is not None
    assert denoiser is not None
    call = float(denoiser[1]) / published.sampling.steps  # guided, and without decoding
    tiny, own = (float(number) / call for number in counted.groups())
    guide = Path("docs/guide.md").read_text(encoding="utf-8")
    prices = re.search(r"--price decode=([\d.]+) --price tiny_decode=([\d.]+)", guide)
    assert prices is not None
    assert [float(price) for price in prices.groups()] == [round(own, 1), round(tiny, 2)]
    previews = " ".join(Path("docs/previews.md").read_text(encoding="utf-8").split())
    assert f"takes {own:.1f} times the operations of a guided call" in previews


def test_operations_are_those_of_the_convolutions(tmp_path: Path) -> None:
    model = load_tiny(str(saved(tmp_path / "decoder")))
    sizes: list[float] = []

    def count(module: torch.nn.Conv2d, given: object, made: torch.Tensor) -> None:
        sizes.append(2.0 * made[0].numel() * module.weight[0].numel())

    for module in model.decoder.modules():
        if isinstance(module, torch.nn.Conv2d):
            module.register_forward_hook(count)
    tiny_pixels(model, torch.zeros(1, CHANNELS, 16, 16))
    expected = sum(sizes)
    assert decode_flops(model.to("meta"), Sampling(height=64, width=64)) == expected
