"""``text.encoder``: prompts encoded once per cache and checkpoint."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest
import torch

sys.path.insert(0, str(Path(__file__).parent))
from scored_world import PROMPTS, SEEDS, fill

from probe_lab.cache import Cache, verify
from probe_lab.config import EvaluatorModel, Scoring
from probe_lab.errors import CacheError, ConfigError
from probe_lab.evaluators.encode import encode_texts
from probe_lab.evaluators.prompt_encoder import text_arrays


def of(checkpoint: Path) -> Scoring:
    return Scoring(models={"clip_score": EvaluatorModel(checkpoint=str(checkpoint))})


def test_every_prompt_is_encoded_once_per_checkpoint(
    tmp_path: Path, transformers_clip: Path, open_clip_folder: Path
) -> None:
    fill(tmp_path, [0, 1, 2])
    assert encode_texts(tmp_path, "clip_score", of(transformers_clip))
    cache = Cache(tmp_path)
    found = cache.text("clip_score")
    expected = text_arrays("clip_score", of(transformers_clip), cache.samples["prompt"].tolist()[::SEEDS])
    assert found.keys() == expected.keys() >= {"embedding", "tokens", "token_mask"}
    assert len(found["embedding"]) == PROMPTS
    assert all(torch.equal(found[name], expected[name]) for name in found)
    assert verify(tmp_path) == []

    assert not encode_texts(tmp_path, "clip_score", of(transformers_clip))
    assert encode_texts(tmp_path, "clip_score", of(transformers_clip), overwrite=True)
    assert encode_texts(tmp_path, "clip_score", of(open_clip_folder))
    assert cache.text("clip_score")["embedding"].shape != found["embedding"].shape
    (tmp_path / "text" / "clip_score.safetensors").write_bytes(b"damaged")
    assert encode_texts(tmp_path, "clip_score", of(open_clip_folder))


def test_the_backbones_is_not_ours_and_others_are_refused(tmp_path: Path) -> None:
    fill(tmp_path, [0])
    assert not encode_texts(tmp_path, "backbone", Scoring())
    with pytest.raises(ConfigError, match="did you mean 'clip_score'"):
        encode_texts(tmp_path, "clip_scor", Scoring())
    with pytest.raises(ConfigError, match="has no text tower"):
        encode_texts(tmp_path, "shapes_reward", Scoring())
    with pytest.raises(CacheError, match=r"no text of 'clip_score'.*probe-lab score` that of text.encoder"):
        Cache(tmp_path).text("clip_score")
    assert not list((tmp_path / "text").iterdir())
