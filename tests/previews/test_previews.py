"""Scores of previews in a cache: the evaluator's of the decoded x0, made once, resumed, the same from processes."""

from __future__ import annotations

import multiprocessing
import shutil
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from probe_lab.backbones.pipelines import load_pipeline
from probe_lab.cache import Cache, describe, verify
from probe_lab.cache.layout import PreviewOf, partial_path, scores_path
from probe_lab.cache.scores import read_score_metadata
from probe_lab.config import Experiment, Scoring, load_experiment
from probe_lab.errors import CacheError, ConfigError, ScoreError
from probe_lab.evaluators import create
from probe_lab.generation.generate import generate
from probe_lab.previews import preview_scores as module
from probe_lab.previews.decoding import decoded
from probe_lab.previews.preview_scores import score_previews

NAMES = ("shapes_reward", "shapes_binding")
SMALL = [
    "prompts.count=4",
    "prompts.seeds=3",
    "sampling.steps=4",
    "sampling.height=32",
    "sampling.width=32",
    "capture.steps=[2,3]",
    "cache.shard_size=6",
]


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Experiment:
    folder = tmp_path_factory.mktemp("caches")
    experiment = load_experiment("smoke", [f"cache.root={folder}", *SMALL, "workers=1", "cache.dtype=float32"])
    generate(experiment, lambda done, total: None, lambda plan: None)
    return experiment


@pytest.fixture
def experiment(made: Experiment, tmp_path: Path) -> Experiment:
    """With a cache of its own, without previews."""
    shutil.copytree(made.cache_folder, tmp_path / "smoke")
    return replace(made, cache=replace(made.cache, root=str(tmp_path)))


def test_a_preview_has_the_score_of_its_picture(experiment: Experiment) -> None:
    progress: list[tuple[int, int]] = []
    lines = score_previews(experiment, {PreviewOf(3): NAMES}, on_progress=lambda *both: progress.append(both))
    assert lines == ["previews at step 3: scored: shapes_reward, shapes_binding"]
    assert (progress[0], progress[-1]) == ((0, 24), (24, 24))
    cache = Cache(experiment.cache_folder)
    assert (cache.previewed(3), cache.previewed(2)) == (sorted(NAMES), [])
    pipe = load_pipeline(experiment.backbone, experiment.sampling)
    for sample in (0, 7, 11):
        shard, row = cache.samples[["shard", "row"]].to_numpy()[sample].tolist()
        pixels = decoded(pipe.vae, cache.read("3/x0", shard, slice(row, row + 1)))
        image = pipe.image_processor.postprocess(pixels, output_type="pil")
        for name in NAMES:
            expected = create(name).score(image, [cache.samples["prompt"][sample]]).item()
            assert cache.preview_scores(name, 3)[sample] == pytest.approx(expected, abs=1e-4)
    assert len(set(cache.preview_scores(NAMES[0], 3).tolist())) == 12
    metadata = read_score_metadata(cache.folder, NAMES[0], PreviewOf(3))
    assert (metadata["evaluator"], metadata["decoder"], metadata["preview"]) == (NAMES[0], "tiny-sd float32", "1")
    assert verify(cache.folder) == []
    assert describe(cache.folder)["previews"] == {"3": "shapes_binding, shapes_reward"}


def test_what_is_there_is_not_made_again(experiment: Experiment, monkeypatch: pytest.MonkeyPatch) -> None:
    score_previews(experiment, {PreviewOf(2): NAMES[:1]})
    path = scores_path(experiment.cache_folder, NAMES[0], PreviewOf(2))
    before = path.read_bytes()
    with monkeypatch.context() as patched:
        patched.setattr(module, "preview_scorer", None)  # nothing is loaded either
        assert score_previews(experiment, {PreviewOf(2): NAMES[:1]}) == [
            "previews at step 2: scored before: shapes_reward"
        ]
    lines = score_previews(experiment, {PreviewOf(2): NAMES, PreviewOf(3): NAMES[1:]})
    assert lines[0] == "previews at step 2: scored: shapes_binding; scored before: shapes_reward"
    assert path.read_bytes() == before
    other = replace(experiment, sampling=replace(experiment.sampling, dtype="bfloat16"))
    assert "scored: shapes_reward" in score_previews(other, {PreviewOf(2): NAMES[:1]})[0]
    assert read_score_metadata(experiment.cache_folder, NAMES[0], PreviewOf(2))["decoder"] == "tiny-sd bfloat16"


def test_an_interrupted_call_is_continued(experiment: Experiment, monkeypatch: pytest.MonkeyPatch) -> None:
    class Stop(Exception):
        pass

    def stop(done: int, total: int) -> None:
        if done >= 4:
            raise Stop

    monkeypatch.setattr(module, "_AT_ONCE", 4)
    with pytest.raises(Stop):
        score_previews(experiment, {PreviewOf(2): NAMES[:1]}, on_progress=stop)
    folder = experiment.cache_folder
    assert partial_path(folder, NAMES[0], PreviewOf(2)).exists()
    assert Cache(folder).previewed(2) == []
    progress: list[int] = []
    score_previews(experiment, {PreviewOf(2): NAMES[:1]}, on_progress=lambda done, total: progress.append(done))
    assert progress[0] == 4
    assert not partial_path(folder, NAMES[0], PreviewOf(2)).exists()
    assert np.isfinite(Cache(folder).preview_scores(NAMES[0], 2)).all()


def test_an_interrupted_call_leaves_no_process(experiment: Experiment, monkeypatch: pytest.MonkeyPatch) -> None:
    def stop(done: int, total: int) -> None:
        if done:
            raise KeyboardInterrupt

    monkeypatch.setattr(module, "_AT_ONCE", 1)
    with pytest.raises(KeyboardInterrupt) as held:
        score_previews(replace(experiment, workers=2), {PreviewOf(2): NAMES}, on_progress=stop)
    assert held.traceback  # which keeps whatever was not closed
    assert multiprocessing.active_children() == []


def test_processes_give_the_same_scores(experiment: Experiment) -> None:
    score_previews(experiment, {PreviewOf(2): NAMES})
    cache = Cache(experiment.cache_folder)
    alone = [cache.preview_scores(name, 2) for name in NAMES]
    score_previews(replace(experiment, workers=2), {PreviewOf(2): NAMES}, overwrite=True)
    for name, expected in zip(NAMES, alone, strict=True):
        np.testing.assert_allclose(cache.preview_scores(name, 2), expected, atol=1e-4)


def test_what_cannot_be_previewed_is_refused(experiment: Experiment) -> None:
    with pytest.raises(CacheError, match="no step 4"):
        score_previews(experiment, {PreviewOf(4): NAMES})
    with pytest.raises(ScoreError, match="scores of 'human' were imported"):
        score_previews(experiment, {PreviewOf(2): ["human"]})
    with pytest.raises((ConfigError, ScoreError)):
        score_previews(replace(experiment, scoring=Scoring(device="cuda:9")), {PreviewOf(2): ["pick_score"]})
    assert not (experiment.cache_folder / "previews").exists()


def test_a_damaged_file_is_found(experiment: Experiment) -> None:
    score_previews(experiment, {PreviewOf(2): NAMES[:1]})
    path = scores_path(experiment.cache_folder, NAMES[0], PreviewOf(2))
    path.write_bytes(path.read_bytes()[:-20])
    assert [problem.file for problem in verify(experiment.cache_folder)] == ["previews/2/shapes_reward.parquet"]


def test_an_autoencoder_that_overflows_is_widened() -> None:
    """SDXL's gives nan in float16; it is as before afterwards."""
    from diffusers import AutoencoderKL
    from diffusers.image_processor import VaeImageProcessor

    from probe_lab.previews.decoding import pictures

    class Pipe:
        def __init__(self) -> None:
            self.vae = AutoencoderKL(block_out_channels=(8,), norm_num_groups=8, force_upcast=True).half().eval()
            self.image_processor = VaeImageProcessor(vae_scale_factor=1)
            self._execution_device = torch.device("cpu")

    pipe = Pipe()
    assert len(pictures(pipe, torch.zeros(2, 4, 8, 8))) == 2  # type: ignore[arg-type]
    assert pipe.vae.dtype == torch.float16
