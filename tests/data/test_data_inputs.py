"""What a cell records of the cache that it was trained on, and what counts as changed."""

from __future__ import annotations

import shutil

import numpy as np
import pytest
import torch
from data_world import STEP, Build

import probe_lab.data.provenance
from probe_lab.cache import Cache, sha256_of, write_scores
from probe_lab.cache.layout import PreviewOf, sidecar_path
from probe_lab.cache.text_table import write_text
from probe_lab.data.provenance import CachesNow, read_inputs
from probe_lab.data.scalars import Scalar
from probe_lab.data.splits import RULE


def test_changes_are_told_and_files_hashed_once(build: Build, monkeypatch: pytest.MonkeyPatch) -> None:
    cache = build().cache
    folder, ids = cache.folder, np.arange(len(cache.samples))
    write_scores(folder, "quality", ids, ids, metadata={}, of=PreviewOf(STEP))
    recorded = read_inputs(cache, ["quality", "missing"], STEP, [Scalar("x0", "quality")])
    scores, previews = folder / "scores" / "quality.parquet", folder / "previews" / str(STEP) / "quality.parquet"
    assert recorded == {
        "cache": cache.identity.id,
        "samples": len(ids),
        "scores": {
            "scores/quality.parquet": sha256_of(scores),
            f"previews/{STEP}/quality.parquet": sha256_of(previews),
        },
        "text": {},
    }
    assert CachesNow().changes(folder, recorded) == []
    assert CachesNow().changes(folder, None) == []

    write_scores(folder, "quality", ids, ids + 1, metadata={}, of=PreviewOf(STEP))
    sidecar_path(folder, cache.shards[-1]).unlink()
    left = len(Cache(folder).complete_samples)
    hashed = []
    monkeypatch.setattr(probe_lab.data.provenance, "sha256_of", lambda path: hashed.append(path) or sha256_of(path))
    now = CachesNow()
    for _ in range(2):
        assert now.changes(folder, recorded) == [
            f"{folder} has {left} samples instead of {len(ids)}",
            f"{previews} has other scores",
        ]
    assert sorted(hashed) == sorted([scores, previews])

    previews.unlink()  # gone is not changed: nothing could be trained on it
    assert CachesNow().changes(folder, {**recorded, "samples": left}) == []
    assert CachesNow().changes(folder, {"another": "format"}) == []
    shutil.rmtree(folder / "shards")
    assert CachesNow().changes(folder, recorded) == []
    (folder / "manifest.json").unlink()
    assert CachesNow().changes(folder, recorded) == []
    shutil.rmtree(folder)
    assert CachesNow().changes(folder, recorded) == []


def test_cells_of_another_rule_of_splits_are_outdated(build: Build) -> None:
    cache = build().cache
    inputs = read_inputs(cache, ["quality"], STEP, [])
    now = CachesNow()
    assert now.outdated(cache.folder, {"inputs": inputs, "splits": RULE}) == []
    assert now.outdated(cache.folder, {}) == []
    told = [f"the prompts of {cache.folder} are split by what they say"]
    assert now.outdated(cache.folder, {"inputs": inputs}) == now.outdated(cache.folder, {"inputs": inputs, "splits": 1})
    assert now.outdated(cache.folder, {"inputs": inputs}) == told


def test_another_cache_of_the_name_and_other_text_are_changes(build: Build) -> None:
    cache = build().cache
    tensors = {"embedding": torch.ones(cache.samples["prompt_id"].nunique(), 2)}
    write_text(cache.folder, "clip", tensors, prompts=len(tensors["embedding"]))
    recorded = read_inputs(cache, [], STEP, [], "clip")
    assert list(recorded["text"]) == ["text/clip.safetensors"]
    assert CachesNow().changes(cache.folder, recorded) == []
    write_text(cache.folder, "clip", {"embedding": 2 * tensors["embedding"]}, prompts=len(tensors["embedding"]))
    (told,) = CachesNow().changes(cache.folder, recorded)
    assert told == f"{cache.folder / 'text' / 'clip.safetensors'} has other text"
    (told,) = CachesNow().changes(cache.folder, recorded | {"cache": "0" * 32})
    assert told == f"{cache.folder} was generated anew, with other settings or prompts"
