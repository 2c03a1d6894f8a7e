"""CLIP on open_clip, against transformers' CLIPModel and open_clip's own loading, on tiny random weights."""

from __future__ import annotations

import json
import shutil
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import open_clip
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image
from safetensors.torch import load_file, save_file
from torch import Tensor
from torch.nn import functional as F
from transformers import AutoTokenizer, CLIPModel

from probe_lab.config import EvaluatorModel, Scoring
from probe_lab.config.world_sections import Precision
from probe_lab.errors import ConfigError, ScoreError
from probe_lab.evaluators import clip, create, score_all
from probe_lab.evaluators.base import Settings
from probe_lab.evaluators.clip import ClipEvaluator, ClipScore
from probe_lab.evaluators.preprocessing import clip_transform, to_rgb

TOLERANCE = 1e-5


def clip_score(checkpoint: Path, architecture: str = "", **scoring: Any) -> ClipScore:
    model = EvaluatorModel(checkpoint=str(checkpoint), architecture=architecture)
    return ClipScore(Settings("clip_score", model, Scoring(**scoring)))


def transformers_cosine(folder: Path, images: Sequence[Image.Image], prompts: Sequence[str]) -> Tensor:
    """float64 [n], by CLIPModel itself in double precision; one pair at a time."""
    model = CLIPModel.from_pretrained(folder, attn_implementation="eager").double().eval()
    tokenizer = AutoTokenizer.from_pretrained(folder)
    size, context = model.config.vision_config.image_size, model.config.text_config.max_position_embeddings
    found = []
    for image, prompt in zip(images, prompts, strict=True):
        ids = tokenizer([prompt], padding="max_length", truncation=True, max_length=context, return_tensors="pt")
        with torch.no_grad():
            output = model(ids["input_ids"], clip_transform(size).apply(image)[None].double())
        found.append(F.cosine_similarity(output.image_embeds, output.text_embeds))
    return torch.cat(found)


def changed(folder: Path, to: Path, **changes: Any) -> Path:
    """A copy whose config.json says something else of both towers."""
    shutil.copytree(folder, to)
    config = json.loads((to / "config.json").read_text())
    for key, value in changes.items():
        for part in ("text_config", "vision_config"):
            if key in config[part]:
                config[part][key] = value
    (to / "config.json").write_text(json.dumps(config))
    return to


@pytest.mark.parametrize(
    "changes",
    [
        {},
        {"hidden_act": "gelu"},
        {"eos_token_id": 2},
        {"layer_norm_eps": 0.1},
        {"hidden_act": "gelu", "eos_token_id": 2},
    ],
)
def test_equal_to_transformers(
    transformers_clip: Path, tmp_path: Path, pictures: list[Image.Image], prompts: list[str], changes: dict[str, Any]
) -> None:
    folder = changed(transformers_clip, tmp_path / "clip", **changes)
    expected = transformers_cosine(folder, pictures, prompts)
    found = clip_score(folder).score(pictures, prompts)
    assert found.dtype == torch.float32
    assert (found - expected).abs().max() <= TOLERANCE
    assert expected.std() > 0.01
    one_prompt = clip_score(folder).score(pictures, prompts[:1] * len(pictures))
    assert one_prompt.std() > 0.01  # pictures move the score too


@pytest.mark.parametrize("change", [{"hidden_act": "gelu"}, {"layer_norm_eps": 0.1}])
def test_a_wrong_config_would_be_seen(
    transformers_clip: Path, tmp_path: Path, pictures: list[Image.Image], prompts: list[str], change: dict[str, Any]
) -> None:
    expected = transformers_cosine(transformers_clip, pictures, prompts)
    wrong = clip_score(changed(transformers_clip, tmp_path / "clip", **change)).score(pictures, prompts)
    assert (wrong - expected).abs().max() > 100 * TOLERANCE


@pytest.mark.parametrize("swap", ["q_proj", "ln", "projection"])
def test_a_wrong_key_map_would_be_seen(
    transformers_clip: Path, tmp_path: Path, pictures: list[Image.Image], prompts: list[str], swap: str
) -> None:
    expected = transformers_cosine(transformers_clip, pictures, prompts)
    folder = tmp_path / "clip"
    shutil.copytree(transformers_clip, folder)
    weights = load_file(folder / "model.safetensors")
    one, other = {
        "q_proj": ("text_model.encoder.layers.0.self_attn.q_proj.weight",) * 2,
        "ln": ("vision_model.pre_layrnorm.weight", "vision_model.post_layernorm.weight"),
        "projection": ("visual_projection.weight",) * 2,
    }[swap]
    weights[one], weights[other] = (weights[other].flip(0), weights[one].flip(0))
    save_file({key: tensor.contiguous() for key, tensor in weights.items()}, folder / "model.safetensors")
    assert (clip_score(folder).score(pictures, prompts) - expected).abs().max() > 100 * TOLERANCE


def test_the_formula_of_torchmetrics_ranks_alike(
    transformers_clip: Path, pictures: list[Image.Image], prompts: list[str]
) -> None:
    """It gives 100 * max(cosine, 0) per pair."""
    theirs = 100 * transformers_cosine(transformers_clip, pictures, prompts).clamp(min=0)
    ours = clip_score(transformers_clip).score(pictures, prompts)
    assert (100 * ours.clamp(min=0) - theirs).abs().max() <= 100 * TOLERANCE


def test_equal_to_open_clips_own_loading(
    open_clip_folder: Path, pictures: list[Image.Image], prompts: list[str]
) -> None:
    name = f"local-dir:{open_clip_folder}"
    model, _, preprocess = open_clip.create_model_and_transforms(name)
    tokenizer = open_clip.get_tokenizer(name)
    with torch.no_grad():
        image = model.eval().encode_image(torch.stack([preprocess(to_rgb(each)) for each in pictures]))
        text = model.encode_text(tokenizer(prompts))
    evaluator = clip_score(open_clip_folder)
    assert (evaluator.score(pictures, prompts) - F.cosine_similarity(image, text)).abs().max() <= TOLERANCE
    assert evaluator.tower.tokenizer(prompts).ids.tolist() == tokenizer(prompts).tolist()


def test_position_ids_of_old_files_are_dropped(
    transformers_clip: Path, tmp_path: Path, pictures: list[Image.Image], prompts: list[str]
) -> None:
    folder = tmp_path / "clip"
    shutil.copytree(transformers_clip, folder, ignore=shutil.ignore_patterns("*.safetensors"))
    weights = load_file(transformers_clip / "model.safetensors")
    weights |= {f"{part}_model.embeddings.position_ids": torch.arange(9)[None] for part in ("text", "vision")}
    torch.save(weights, folder / "pytorch_model.bin", _use_new_zipfile_serialization=False)
    expected = clip_score(transformers_clip).score(pictures, prompts)
    assert torch.equal(clip_score(folder).score(pictures, prompts), expected)


@pytest.fixture
def architecture(open_clip_folder: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    """The tiny model under a name that open_clip knows; with CLIP's usual vocabulary, as it has no tokenizer."""
    config = json.loads((open_clip_folder / "open_clip_config.json").read_text())["model_cfg"]
    config["text_cfg"] = {"context_length": 77, "width": 8, "heads": 2, "layers": 1}
    monkeypatch.setitem(open_clip.factory._MODEL_CONFIGS, "tiny", config)
    return "tiny"


@pytest.mark.parametrize("wrap", ["plain", "state_dict", "module", "safetensors"])
def test_single_files(
    architecture: str, tmp_path: Path, pictures: list[Image.Image], prompts: list[str], wrap: str
) -> None:
    model = open_clip.create_model(architecture).eval()
    weights = {key: tensor.contiguous() for key, tensor in model.state_dict().items()}
    path = tmp_path / ("clip.safetensors" if wrap == "safetensors" else "clip.pt")
    if wrap == "safetensors":
        save_file(weights, path)
    elif wrap == "module":
        torch.save({"epoch": 3, "state_dict": {f"module.{key}": value for key, value in weights.items()}}, path)
    else:
        torch.save({"state_dict": weights} if wrap == "state_dict" else weights, path)
    with torch.no_grad():
        image = model.encode_image(torch.stack([clip_transform(24).apply(each) for each in pictures]))
        text = model.encode_text(open_clip.get_tokenizer(architecture)(prompts))
    found = clip_score(path, architecture).score(pictures, prompts)
    assert (found - F.cosine_similarity(image, text)).abs().max() <= TOLERANCE


def test_a_single_file_of_transformers_with_an_architecture(
    transformers_clip: Path, architecture: str, tmp_path: Path
) -> None:
    """Its keys are converted; this one is of another size, which is told in open_clip's words."""
    path = tmp_path / "model.safetensors"
    shutil.copy(transformers_clip / "model.safetensors", path)
    with pytest.raises(ScoreError, match=r"of another shape.*positional_embedding \[24, 24\] instead of \[77, 8\]"):
        clip_score(path, architecture).tower  # noqa: B018


def test_the_default_architecture_is_of_single_files_only(transformers_clip: Path, tmp_path: Path) -> None:
    path = tmp_path / "model.safetensors"
    shutil.copy(transformers_clip / "model.safetensors", path)
    found = clip_score(path)
    assert found.spec.name == found.metadata()["architecture"] == "ViT-B-16"
    assert clip_score(path, "ViT-L-14-quickgelu").spec.config["quick_gelu"]
    with pytest.raises(ScoreError, match=r"neither open_clip_config\.json nor.*architecture, ViT-B-16 for instance"):
        clip_score(tmp_path)


def test_a_folder_says_itself_what_it_is(transformers_clip: Path, open_clip_folder: Path) -> None:
    for folder in (transformers_clip, open_clip_folder):
        with pytest.raises(ConfigError, match=r"scoring\.models\.clip_score\.architecture' is 'ViT-B-32'.*leave"):
            clip_score(folder, "ViT-B-32")
    names = {clip_score(folder).metadata()["architecture"] for folder in (transformers_clip, open_clip_folder)}
    assert len(names) == 2


def test_an_unknown_architecture(transformers_clip: Path, tmp_path: Path) -> None:
    shutil.copy(transformers_clip / "model.safetensors", tmp_path / "x.safetensors")
    with pytest.raises(ConfigError, match=r"'ViT-B-61': did you mean 'ViT-B-16'\?"):
        clip_score(tmp_path / "x.safetensors", "ViT-B-61")
    with pytest.raises(ScoreError, match="ViT-B-16-SigLIP is not a plain CLIP"):
        clip_score(tmp_path / "x.safetensors", "ViT-B-16-SigLIP")


@pytest.mark.parametrize(
    ("file", "part", "change", "told"),
    [
        ("open_clip_config.json", "vision_cfg", {"timm_model_name": "vit"}, r"not a plain CLIP.*timm_model_name"),
        ("open_clip_config.json", "vision_cfg", {"image_size": [24, 32]}, r"not a plain CLIP.*image_size"),
        ("open_clip_config.json", "vision_cfg", {"deepness": 3}, r"cannot build.*deepness"),
        ("open_clip_config.json", "vision_cfg", {"layers": 3}, r"12 missing \(visual\.transformer\.resblocks\.2"),
        ("open_clip_config.json", "text_cfg", {"layers": 1}, r"12 unexpected \(transformer\.resblocks\.1"),
        ("open_clip_config.json", "text_cfg", {"hf_tokenizer_name": None}, r"no tokenizer.*has 49408"),
        ("config.json", "text_config", {"hidden_act": "gelu"}, "the activation gelu and quick_gelu"),
        ("config.json", "text_config", {"num_hidden_layers": 1}, r"12 unexpected \(transformer\.resblocks\.1"),
    ],
)
def test_checkpoints_of_another_model(
    request: pytest.FixtureRequest, tmp_path: Path, file: str, part: str, change: dict[str, Any], told: str
) -> None:
    source = request.getfixturevalue("open_clip_folder" if file.startswith("open") else "transformers_clip")
    folder = tmp_path / "clip"
    shutil.copytree(source, folder)
    config = json.loads((folder / file).read_text())
    (config.get("model_cfg") or config)[part] |= change
    (folder / file).write_text(json.dumps(config))
    with pytest.raises(ScoreError, match=told):
        clip_score(folder).tower  # noqa: B018


@pytest.mark.parametrize("content", ["{", "[]", "{}"])
def test_a_broken_config(open_clip_folder: Path, tmp_path: Path, content: str) -> None:
    folder = tmp_path / "clip"
    shutil.copytree(open_clip_folder, folder)
    (folder / "open_clip_config.json").write_text(content)
    with pytest.raises(ScoreError, match=r"open_clip_config\.json"):
        clip_score(folder)


def test_a_tokenizer_that_is_not_there(open_clip_folder: Path, tmp_path: Path) -> None:
    folder = tmp_path / "clip"
    shutil.copytree(open_clip_folder, folder, ignore=shutil.ignore_patterns("tokenizer*"))
    with pytest.raises(ScoreError, match="names a tokenizer of its own"):
        clip_score(folder)


@settings(max_examples=10)
@given(batch=st.integers(1, 7), order=st.permutations(range(5)), repeat=st.integers(1, 2))
def test_scores_depend_on_neither_batch_nor_order(
    transformers_clip: Path,
    pictures: list[Image.Image],
    prompts: list[str],
    batch: int,
    order: list[int],
    repeat: int,
) -> None:
    alone = [clip_score(transformers_clip).score([p], [t]) for p, t in zip(pictures, prompts, strict=True)]
    chosen = order * repeat
    found = clip_score(transformers_clip, batch_size=batch).score(
        [pictures[i] for i in chosen], [prompts[i] for i in chosen]
    )
    assert (found - torch.cat([alone[i] for i in chosen])).abs().max() <= 1e-6


@pytest.mark.parametrize("dtype", ["bfloat16", "float16", "float32"])
@pytest.mark.parametrize("batch", [1, 32])
def test_in_no_precision_a_score_depends_on_how_many_prompts_come_with_it(dtype: Precision, batch: int) -> None:
    """Kernels for one row round in another way than those for several."""
    judge = create("shapes_clip_score", Scoring(dtype=dtype, batch_size=batch))
    picture = Image.fromarray(np.random.default_rng(0).integers(0, 255, (64, 64, 3), dtype=np.uint8))
    prompts = [f"a red circle left of {number} blue squares" for number in range(20)]
    together = judge.score([picture] * 20, prompts)
    bound = 0.0 if dtype != "float32" else 1e-6
    for count in (1, 2, 17):
        assert (judge.score([picture] * count, prompts[:count]) - together[:count]).abs().max() <= bound


def test_no_images_and_unequal_numbers(transformers_clip: Path, pictures: list[Image.Image]) -> None:
    assert clip_score(transformers_clip).score([], []).shape == (0,)
    with pytest.raises(ValueError, match="zip"):
        clip_score(transformers_clip).score(pictures, ["a"])


@pytest.mark.parametrize("dtype", ["bfloat16", "float16"])
def test_lower_precision(transformers_clip: Path, pictures: list[Image.Image], prompts: list[str], dtype: str) -> None:
    exact = clip_score(transformers_clip).score(pictures, prompts)
    lower = clip_score(transformers_clip, dtype=dtype)
    found = lower.score(pictures, prompts)
    assert lower.tower.clip.visual.conv1.weight.dtype == getattr(torch, dtype)
    assert found.dtype == torch.float32
    assert 0 < (found - exact).abs().max() < 0.05


def test_release_and_load_again(transformers_clip: Path, pictures: list[Image.Image], prompts: list[str]) -> None:
    evaluator = clip_score(transformers_clip)
    before = evaluator.score(pictures, prompts)
    tower = evaluator.tower
    evaluator.release()
    assert torch.equal(evaluator.score(pictures, prompts), before)
    assert evaluator.tower is not tower


def test_one_family_encodes_once(
    transformers_clip: Path, open_clip_folder: Path, pictures: list[Image.Image], prompts: list[str]
) -> None:
    models = {f"clip_score@{label}": EvaluatorModel(checkpoint=str(transformers_clip)) for label in "ab"}
    models["clip_score@c"] = EvaluatorModel(checkpoint=str(open_clip_folder))
    scoring = Scoring(models=models)
    first, second, other = (create(name, scoring) for name in models)
    assert isinstance(first, ClipEvaluator)
    assert isinstance(second, ClipEvaluator)
    assert first.family == second.family != other.family
    seen: list[int] = []
    first.tower.clip.visual.register_forward_hook(lambda module, args, output: seen.append(len(output)))
    first.tower.clip.ln_final.register_forward_hook(lambda module, args, output: seen.append(-len(output)))
    found = score_all([first, second, other], pictures, [*prompts[:3], *prompts[:2]])
    assert sorted(seen) == [-3, 5]  # distinct prompts
    assert second._model is None
    assert torch.equal(found["clip_score@a"], found["clip_score@b"])
    assert not torch.equal(found["clip_score@a"], found["clip_score@c"])


def test_other_precisions_are_other_families(transformers_clip: Path) -> None:
    assert clip_score(transformers_clip).family != clip_score(transformers_clip, dtype="bfloat16").family


def test_metadata(transformers_clip: Path, tmp_path: Path) -> None:
    before = clip_score(transformers_clip).metadata()
    after = clip_score(changed(transformers_clip, tmp_path / "clip", hidden_act="gelu")).metadata()
    assert {key for key in before if before[key] != after[key]} == {"architecture"}
    assert len(before["checkpoint_sha256"]) == 64
    assert "shortest side to 32" in before["preprocessing"]


def test_another_tokenizer_is_another_evaluator(transformers_clip: Path, tmp_path: Path) -> None:
    """Of the same weights, so neither scores nor a model are shared."""
    folder = tmp_path / "clip"
    shutil.copytree(transformers_clip, folder)
    first = clip_score(folder)
    before = first.metadata()
    told = json.loads((folder / "tokenizer.json").read_text())
    told["normalizer"] = None
    (folder / "tokenizer.json").write_text(json.dumps(told))
    after = clip_score(folder)
    assert {key for key, value in before.items() if after.metadata()[key] != value} == {"tokenizer"}
    assert first.family != after.family


def test_mean_and_std_of_the_folder(transformers_clip: Path, tmp_path: Path) -> None:
    folder = tmp_path / "clip"
    shutil.copytree(transformers_clip, folder)
    (folder / "preprocessor_config.json").write_text('{"image_mean": [0.5, 0.5, 0.5], "image_std": [0.25, 0.25, 0.25]}')
    assert clip_score(folder).preprocessing == clip_transform(32, (0.5,) * 3, (0.25,) * 3).words


def test_the_shipped_one(
    open_clip_folder: Path,
    transformers_clip: Path,
    pictures: list[Image.Image],
    prompts: list[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(clip, "SHIPPED", open_clip_folder)
    found = create("shapes_clip_score").score(pictures, prompts)
    assert torch.equal(found, clip_score(open_clip_folder).score(pictures, prompts))
    named = Scoring(models={"shapes_clip_score": EvaluatorModel(checkpoint=str(transformers_clip))})
    assert not torch.equal(create("shapes_clip_score", named).score(pictures, prompts), found)


def test_settings_are_not_changed(open_clip_folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(clip, "SHIPPED", open_clip_folder)
    given_settings = Settings("shapes_clip_score")
    clip.ShapesClipScore(given_settings)
    assert given_settings == replace(given_settings, model=EvaluatorModel())
