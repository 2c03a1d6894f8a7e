"""Scoring a small real cache: complete, skipped when current, the same from processes, all or nothing."""

from __future__ import annotations

import io
import random
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch
from PIL import Image
from torch import Tensor

from probe_lab.cache import Cache, CacheWriter, Manifest, shard_layout, write_scores
from probe_lab.errors import ConfigError, ScoreError
from probe_lab.evaluators import Evaluator, base, create, register
from probe_lab.evaluators.run import score_cache
from probe_lab.shapes.captions import parse_caption, sample_scene
from probe_lab.shapes.render import render
from probe_lab.shapes.rewards import rewards

PROMPTS, SEEDS = 5, 2
COUNT = PROMPTS * SEEDS


class Mean(Evaluator):
    """The image's mean; NaN for the images listed in ``broken``. Counts the images that it sees."""

    name, family, version, preprocessing = "mean", "mean", "1", "none"

    def __init__(self) -> None:
        self.seen = 0
        self.broken: set[int] = set()

    def score(self, images: Sequence[Image.Image], prompts: Sequence[str]) -> Tensor:
        values = []
        for image in images:
            values.append(float("nan") if self.seen in self.broken else float(np.asarray(image).mean()))
            self.seen += 1
        return torch.tensor(values)


def png(picture: np.ndarray) -> bytes:
    file = io.BytesIO()
    Image.fromarray(picture).save(file, "PNG")
    return file.getvalue()


def fill(folder: Path, shards: Sequence[int], corrupt: bytes | None = None) -> dict[int, np.ndarray]:
    """Write ``shards`` of a cache of 3 (4 + 4 + 2 samples): the pictures of all samples, by sample_id."""
    rng = random.Random(0)
    scenes = [sample_scene(rng) for _ in range(PROMPTS)]
    shard, row = shard_layout(COUNT, SEEDS, 4)
    samples = pd.DataFrame(
        {
            "sample_id": np.arange(COUNT),
            "prompt_id": np.repeat(np.arange(PROMPTS), SEEDS),
            "prompt": [scene.caption for scene in scenes for _ in range(SEEDS)],
            "seed": np.arange(COUNT),
            "split": "train",
            "shard": shard,
            "row": row,
        }
    )
    # Every second picture is of another caption, so that the scores vary.
    pictures = {i: render(scenes[(i // SEEDS + i % 2) % PROMPTS], rng) for i in range(COUNT)}
    manifest = Manifest(
        name="test", backbone="tiny-sd", scheduler="ddim", steps=2, guidance=1.0, height=64, width=64,
        dtype="float32", cache_dtype="float16", shard_size=4, captured_steps=(1,), taps={"x0": (1, 1, 1)},
        prompts_sha256="0", seeds=SEEDS, count=COUNT, seed=0, code_version="test",
    )  # fmt: skip
    writer = CacheWriter(folder, manifest, samples)
    for number in shards:
        rows = samples[samples["shard"] == number]
        images = [corrupt or png(pictures[i]) for i in rows["sample_id"]]
        writer.write_shard(number, {"1/x0": torch.zeros(len(rows), 1, 1, 1)}, images)
    return pictures


@pytest.fixture
def mean(monkeypatch: pytest.MonkeyPatch) -> Mean:
    """A registered evaluator that is the same object at every ``create("mean")``."""
    monkeypatch.setattr(base, "_FACTORIES", dict(base._FACTORIES))
    evaluator = Mean()
    register("mean", lambda settings: evaluator)
    return evaluator


def test_every_sample_gets_its_own_score(tmp_path: Path, mean: Mean) -> None:
    pictures = fill(tmp_path, [0, 1, 2])
    progress: list[tuple[int, int]] = []
    score_cache(
        tmp_path,
        ["shapes_reward", "shapes_binding", "mean"],
        batch_size=3,
        on_progress=lambda done, total: progress.append((done, total)),
    )
    cache = Cache(tmp_path)
    found = [
        rewards(pictures[i], parse_caption(prompt))
        for i, prompt in zip(cache.samples["sample_id"], cache.samples["prompt"], strict=True)
    ]
    assert cache.evaluators() == ["mean", "shapes_binding", "shapes_reward"]
    np.testing.assert_allclose(cache.scores("shapes_reward"), [each.shapes_reward for each in found], rtol=1e-6)
    np.testing.assert_allclose(cache.scores("shapes_binding"), [each.binding for each in found], rtol=1e-6)
    np.testing.assert_allclose(cache.scores("mean"), [pictures[i].mean() for i in range(COUNT)], rtol=1e-6)
    assert np.ptp(cache.scores("shapes_binding")) > 0.3
    assert create("shapes_reward").metadata().items() <= cache.score_metadata("shapes_reward").items()
    assert progress == [(3, 10), (4, 10), (7, 10), (8, 10), (10, 10)]


def test_current_scores_are_kept_and_stale_ones_replaced(tmp_path: Path, mean: Mean) -> None:
    fill(tmp_path, [0, 1, 2])
    score_cache(tmp_path, ["mean"])
    score_cache(tmp_path, ["mean", "shapes_layout"])
    assert mean.seen == COUNT
    score_cache(tmp_path, ["mean"], overwrite=True)
    assert mean.seen == 2 * COUNT
    mean.version = "2"
    score_cache(tmp_path, ["mean"])
    assert mean.seen == 3 * COUNT
    assert Cache(tmp_path).score_metadata("mean")["version"] == "2"
    write_scores(tmp_path, "mean", [0, 1], [0.0, 0.0], metadata=mean.metadata())  # incomplete
    score_cache(tmp_path, ["mean"])
    assert mean.seen == 4 * COUNT
    (tmp_path / "scores" / "mean.parquet").write_bytes(b"damaged")
    score_cache(tmp_path, ["mean"])
    assert mean.seen == 5 * COUNT


def test_only_complete_shards_are_scored_and_the_rest_later(tmp_path: Path) -> None:
    fill(tmp_path, [0, 2])
    score_cache(tmp_path, ["shapes_reward"])
    assert np.isnan(Cache(tmp_path).scores("shapes_reward")).tolist() == [False] * 4 + [True] * 4 + [False] * 2
    fill(tmp_path, [1])
    score_cache(tmp_path, ["shapes_reward"])
    assert np.isfinite(Cache(tmp_path).scores("shapes_reward")).all()


def test_worker_processes_give_the_same_scores(tmp_path: Path) -> None:
    fill(tmp_path / "one", [0, 1, 2])
    fill(tmp_path / "many", [0, 1, 2])
    progress: list[int] = []
    score_cache(tmp_path / "one", ["shapes_reward"])
    score_cache(tmp_path / "many", ["shapes_reward"], workers=2, on_progress=lambda done, _: progress.append(done))
    one, many = (Cache(tmp_path / name).scores("shapes_reward") for name in ("one", "many"))
    np.testing.assert_array_equal(one, many)
    assert progress[-1] == COUNT
    assert progress == sorted(progress)


def test_a_score_that_is_not_finite_names_evaluator_and_sample(tmp_path: Path, mean: Mean) -> None:
    fill(tmp_path, [0, 1, 2])
    mean.broken = {6}
    with pytest.raises(ScoreError, match="mean gave nan to sample 6"):
        score_cache(tmp_path, ["shapes_reward", "mean"], batch_size=2)
    assert Cache(tmp_path).evaluators() == []


def test_an_image_that_cannot_be_decoded_is_named(tmp_path: Path) -> None:
    fill(tmp_path, [0], corrupt=png(np.zeros((64, 64, 3), np.uint8))[:40])
    with pytest.raises(ScoreError, match=r"image of sample 0 cannot be decoded.*cache verify"):
        score_cache(tmp_path, ["shapes_reward"])


def test_nothing_to_score_and_unknown_evaluators_are_refused(tmp_path: Path) -> None:
    fill(tmp_path, [])
    with pytest.raises(ScoreError, match=r"no complete shard.*probe-lab generate"):
        score_cache(tmp_path, ["shapes_reward"])
    with pytest.raises(ConfigError, match="did you mean 'shapes_reward'"):
        score_cache(tmp_path, ["shape_reward"])
