"""The aesthetic head, by hand, on the picture's embedding by transformers' CLIPModel."""

from __future__ import annotations

import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from torch import Tensor
from transformers import CLIPModel

sys.path.insert(0, str(Path(__file__).parent))
from captions_world import scored_and_alone
from scored_world import fill

from probe_lab.cache import Cache
from probe_lab.config import EvaluatorModel, Scoring
from probe_lab.errors import ScoreError
from probe_lab.evaluators import Evaluator, create, score_all
from probe_lab.evaluators import scoring_run as run
from probe_lab.evaluators.aesthetic import HEAD, Aesthetic
from probe_lab.evaluators.base import Settings
from probe_lab.evaluators.clip import ClipEvaluator
from probe_lab.evaluators.preprocessing import clip_transform

LAYERS = (0, 2, 4, 6, 7)


@pytest.fixture
def weights() -> dict[str, Tensor]:
    """A head under the released keys, for embeddings of 20 numbers."""
    generator = torch.Generator().manual_seed(1)
    sizes = (20, 1024, 128, 64, 16, 1)
    found: dict[str, Tensor] = {}
    for index, wide, narrow in zip(LAYERS, sizes[:-1], sizes[1:], strict=True):
        found[f"layers.{index}.weight"] = torch.randn(narrow, wide, generator=generator) / wide**0.5
        found[f"layers.{index}.bias"] = torch.randn(narrow, generator=generator)
    return found


@pytest.fixture
def head(tmp_path: Path, weights: dict[str, Tensor]) -> Path:
    torch.save(weights, tmp_path / HEAD)
    return tmp_path / HEAD


def aesthetic(head: Path | str, base: Path | str, **scoring: str) -> Aesthetic:
    model = EvaluatorModel(checkpoint=str(head), base=str(base))
    return Aesthetic(Settings("aesthetic", model, Scoring(**scoring)))  # type: ignore[arg-type]


def by_hand(weights: dict[str, Tensor], folder: Path, images: list[Image.Image], *, normalised: bool) -> np.ndarray:
    model = CLIPModel.from_pretrained(folder).double().eval()
    pixels = torch.stack([clip_transform(32).apply(image) for image in images]).double()
    with torch.no_grad():
        found = model.get_image_features(pixels).pooler_output.numpy()
    if normalised:
        found = found / np.sqrt((found**2).sum(axis=1, keepdims=True))
    for index in LAYERS:
        matrix, bias = (weights[f"layers.{index}.{name}"].double().numpy() for name in ("weight", "bias"))
        found = np.einsum("oi,bi->bo", matrix, found) + bias
    return found[:, 0]


def test_equal_to_a_computation_by_hand(
    transformers_clip: Path, head: Path, weights: dict[str, Tensor], pictures: list[Image.Image], prompts: list[str]
) -> None:
    found = aesthetic(head, transformers_clip).score(pictures, prompts).numpy()
    expected = by_hand(weights, transformers_clip, pictures, normalised=True)
    assert np.abs(found - expected).max() <= 1e-5
    assert expected.std() > 0.01
    assert np.abs(found - by_hand(weights, transformers_clip, pictures, normalised=False)).max() > 1e-2


def test_the_prompt_is_not_read(transformers_clip: Path, head: Path, pictures: list[Image.Image]) -> None:
    evaluator = aesthetic(head, transformers_clip)
    calls: list[str] = []
    evaluator.tower.clip.transformer.register_forward_hook(lambda *_: calls.append("text"))
    one, other = (evaluator.score(pictures, [text] * len(pictures)) for text in ("a red star", ""))
    assert torch.equal(one, other)
    assert not calls


def test_a_head_in_a_folder(transformers_clip: Path, head: Path, pictures: list[Image.Image]) -> None:
    found = aesthetic(head.parent, transformers_clip).score(pictures[:1], [""])
    assert torch.equal(found, aesthetic(head, transformers_clip).score(pictures[:1], [""]))


@pytest.mark.parametrize("order", [("aesthetic", "clip_score"), ("clip_score", "aesthetic")])
def test_it_shares_the_pictures_of_clip_score(
    transformers_clip: Path, head: Path, pictures: list[Image.Image], prompts: list[str], order: tuple[str, str]
) -> None:
    clip = str(transformers_clip)
    models = {
        "aesthetic": EvaluatorModel(checkpoint=str(head), base=clip),
        "clip_score": EvaluatorModel(checkpoint=clip),
    }
    both = [create(name, Scoring(models=models)) for name in order]
    assert both[0].family == both[1].family
    first, second = both
    assert isinstance(first, ClipEvaluator)
    assert isinstance(second, ClipEvaluator)
    seen: list[int] = []
    first.tower.clip.visual.register_forward_hook(lambda module, args, output: seen.append(len(output)))
    found = score_all(both, pictures, prompts)
    assert seen == [len(pictures)]
    assert second._model is None
    for name in order:
        assert torch.equal(found[name], create(name, Scoring(models=models)).score(pictures, prompts))


def test_the_metadata_covers_both_files(
    transformers_clip: Path, open_clip_folder: Path, head: Path, weights: dict[str, Tensor]
) -> None:
    before = aesthetic(head, transformers_clip).metadata()["checkpoint_sha256"]
    other_base = aesthetic(head, open_clip_folder).metadata()["checkpoint_sha256"]
    torch.save(weights | {"layers.7.bias": torch.ones(1)}, head)
    other_head = aesthetic(head, transformers_clip).metadata()["checkpoint_sha256"]
    assert len({before, other_base, other_head}) == 3


def test_a_missing_file_is_named(transformers_clip: Path, head: Path) -> None:
    with pytest.raises(ScoreError, match=r"no checkpoint.*improved-aesthetic-predictor \(sac\+logos\+ava1"):
        aesthetic("", transformers_clip)
    with pytest.raises(ScoreError, match=r"no base: set scoring\.models\.aesthetic\.base.*clip-vit-large-patch14"):
        aesthetic(head, "")


@pytest.mark.parametrize(
    ("change", "told"),
    [
        ({"layers.7.bias": None}, r"1 missing \(layers\.7\.bias\)"),
        ({"layers.1.weight": torch.ones(1)}, r"1 unexpected \(layers\.1\.weight\)"),
        ({"layers.0.weight": torch.ones(1024, 768)}, r"layers\.0\.weight \[1024, 768\] instead of \[1024, 20\]"),
    ],
)
def test_another_head(
    transformers_clip: Path, head: Path, weights: dict[str, Tensor], change: dict[str, Tensor | None], told: str
) -> None:
    torch.save({key: value for key, value in (weights | change).items() if value is not None}, head)
    with pytest.raises(ScoreError, match=told):
        aesthetic(head, transformers_clip).head  # noqa: B018


def test_a_single_file_is_openais_large_clip(transformers_clip: Path, head: Path, tmp_path: Path) -> None:
    single = tmp_path / "clip.safetensors"
    single.write_bytes((transformers_clip / "model.safetensors").read_bytes())
    assert aesthetic(head, single).spec.name == "ViT-L-14-quickgelu"
    assert aesthetic(head, single).spec.width == 768


def test_lower_precision(transformers_clip: Path, head: Path, pictures: list[Image.Image], prompts: list[str]) -> None:
    exact = aesthetic(head, transformers_clip).score(pictures, prompts)
    lower = aesthetic(head, transformers_clip, dtype="bfloat16")
    assert 0 < (lower.score(pictures, prompts) - exact).abs().max() < 0.1
    assert lower.head.layers[0].weight.dtype == torch.float32


def test_a_head_is_freed_with_the_model_of_its_family(
    transformers_clip: Path, head: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Also where another member has the model."""
    made: list[Aesthetic] = []
    models = {
        "clip_score": EvaluatorModel(str(transformers_clip)),
        "aesthetic": EvaluatorModel(str(head), str(transformers_clip)),
    }

    def create_and_keep(name: str, scoring: Scoring) -> Evaluator:
        found = create(name, scoring)
        made.extend([found] if isinstance(found, Aesthetic) else [])
        return found

    monkeypatch.setattr(run, "create", create_and_keep)
    fill(tmp_path, [0])
    run.score_cache(tmp_path, list(models), scoring=Scoring(models=models))
    assert [each._head for each in made] == [None]
    assert np.isfinite(Cache(tmp_path).scores("aesthetic")[:4]).all()


def test_release(transformers_clip: Path, head: Path, pictures: list[Image.Image]) -> None:
    evaluator = aesthetic(head, transformers_clip)
    before = evaluator.score(pictures[:1], [""])
    evaluator.release()
    assert evaluator._model is None
    assert evaluator._head is None
    assert torch.equal(evaluator.score(pictures[:1], [""]), before)


def test_captions_of_clips_are_scored_as_pairs_and_leave_the_aesthetic_score_alone(
    transformers_clip: Path, head: Path, pictures: list[Image.Image], prompts: list[str]
) -> None:
    model = EvaluatorModel(checkpoint=str(transformers_clip))
    scoring = Scoring(batch_size=2, models={"clip_score": model, "pick_score": model})
    clips = [create(name, scoring) for name in scoring.models]
    together, alone = scored_and_alone([*clips, aesthetic(head, transformers_clip)], pictures, prompts)
    assert (together - alone).abs().max() <= 1e-5 * 90  # pick_score's scale is exp(4.5) = 90
    assert (together[:, :2].std(2) > 1e-3).all()
    ratings, by_itself = scored_and_alone([aesthetic(head, transformers_clip)], pictures, prompts)
    assert (ratings == ratings[:, :, :1]).all()
    torch.testing.assert_close(ratings, by_itself, atol=1e-6, rtol=1e-5)
