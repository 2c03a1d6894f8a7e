"""PickScore as its model card computes it, on tiny random weights."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest
import torch
from PIL import Image
from transformers import AutoTokenizer, CLIPModel

from probe_lab.config import EvaluatorModel, Scoring
from probe_lab.evaluators import Evaluator, create, score_all
from probe_lab.evaluators.clip import ClipEvaluator
from probe_lab.evaluators.preprocessing import clip_transform


def pick_score(checkpoint: Path, dtype: str = "float32") -> Evaluator:
    models = {"pick_score": EvaluatorModel(checkpoint=str(checkpoint))}
    return create("pick_score", Scoring(dtype=dtype, models=models))  # type: ignore[arg-type]


def by_the_card(folder: Path, images: list[Image.Image], prompts: list[str]) -> torch.Tensor:
    """The scaled product of normalised features, of one prompt and one image at a time, in double precision."""
    model = CLIPModel.from_pretrained(folder).double().eval()
    tokenizer = AutoTokenizer.from_pretrained(folder)
    context = model.config.text_config.max_position_embeddings
    found = []
    for image, prompt in zip(images, prompts, strict=True):
        ids = tokenizer(prompt, padding=True, truncation=True, max_length=context, return_tensors="pt")
        with torch.no_grad():
            seen = model.get_image_features(clip_transform(32).apply(image)[None].double()).pooler_output
            read = model.get_text_features(**ids).pooler_output
            seen, read = seen / seen.norm(dim=-1, keepdim=True), read / read.norm(dim=-1, keepdim=True)
            found.append(model.logit_scale.exp() * (read @ seen.T)[0])
    return torch.cat(found)


def test_equal_to_the_card(transformers_clip: Path, pictures: list[Image.Image], prompts: list[str]) -> None:
    expected = by_the_card(transformers_clip, pictures, prompts)
    found = pick_score(transformers_clip).score(pictures, prompts)
    assert (found - expected).abs().max() <= 1e-5 * 90  # scale is exp(4.5) = 90
    assert expected.std() > 1


def test_the_scale_is_not_rounded_with_the_model(
    transformers_clip: Path, pictures: list[Image.Image], prompts: list[str]
) -> None:
    """In bfloat16 1e-3 off in its logarithm is a tenth of a point."""
    models = {name: EvaluatorModel(checkpoint=str(transformers_clip)) for name in ("pick_score", "clip_score")}
    scoring = Scoring(dtype="bfloat16", models=models)
    found = score_all([create(name, scoring) for name in models], pictures, prompts)
    scale = torch.tensor(4.5, dtype=torch.float64).exp()
    assert torch.allclose(found["pick_score"].double(), scale * found["clip_score"].double(), rtol=1e-6)


def test_it_shares_the_towers_of_clip_score(transformers_clip: Path) -> None:
    models = {name: EvaluatorModel(checkpoint=str(transformers_clip)) for name in ("pick_score", "clip_score")}
    first, second = (create(name, Scoring(models=models)) for name in models)
    assert first.family == second.family


def test_a_single_file_is_clip_h(transformers_clip: Path, tmp_path: Path) -> None:
    shutil.copy(transformers_clip / "model.safetensors", tmp_path / "x.safetensors")
    evaluator = pick_score(tmp_path / "x.safetensors")
    assert isinstance(evaluator, ClipEvaluator)
    assert evaluator.spec.name == "ViT-H-14"
    assert evaluator.spec.config["vision_cfg"]["width"] == 1280


def test_the_prompt_counts(transformers_clip: Path, pictures: list[Image.Image]) -> None:
    one, other = (pick_score(transformers_clip).score(pictures[:1], [text]) for text in ("a red star", "a blue circle"))
    assert abs(one - other).item() > 0.1


@pytest.mark.parametrize("dtype", ["bfloat16", "float16"])
def test_lower_precision(transformers_clip: Path, pictures: list[Image.Image], prompts: list[str], dtype: str) -> None:
    exact = pick_score(transformers_clip).score(pictures, prompts)
    assert (pick_score(transformers_clip, dtype).score(pictures, prompts) - exact).abs().max() < 0.05 * 90
