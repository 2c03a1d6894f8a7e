"""BLIP against transformers' own model and processor, and against formulas written out once more."""

from __future__ import annotations

import json
import shutil
import sys
from dataclasses import dataclass
from pathlib import Path

import pytest
import torch
from PIL import Image
from torch import Tensor
from torch.nn.functional import cosine_similarity
from transformers import BertTokenizer, BlipConfig, BlipForImageTextRetrieval
from transformers.models.blip.image_processing_pil_blip import BlipImageProcessorPil

from probe_lab.config import EvaluatorModel, Scoring
from probe_lab.errors import ScoreError
from probe_lab.evaluators import Evaluator, create, score_all
from probe_lab.evaluators.base import families
from probe_lab.evaluators.blip import Blip

sys.path.insert(0, str(Path(__file__).parent))
import blip_maths as maths
import blip_world as world
from captions_world import scored_and_alone

SIDE = 64
SIZES = world.Sizes(patch=16, image=SIDE, shared=24)
CLOSE = 1e-4
"""Of the standard deviation of the scores."""


def evaluators(checkpoint: Path, base: str = "", **run) -> list[Evaluator]:
    model = EvaluatorModel(str(checkpoint), base)
    scoring = Scoring(models={"blip_itm": model, "blip_itc": model}, **run)
    return [create("blip_itm", scoring), create("blip_itc", scoring)]


def worst(found: Tensor, wanted: Tensor) -> float:
    """Largest difference in standard deviations of what is wanted."""
    return ((found.double() - wanted).abs().max() / wanted.double().std()).item()


@pytest.fixture(scope="module")
def pairs() -> tuple[list[Image.Image], list[str]]:
    """Every picture with every prompt; the picture of sixteen bits is the grey one."""
    images = world.pictures()
    images["16 bit"] = images["grey"]
    return [each for each in images.values() for _ in world.PROMPTS], list(world.PROMPTS) * len(images)


@pytest.fixture(scope="module")
def saved(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """What ``save_pretrained`` of model and tokenizer writes."""
    folder = tmp_path_factory.mktemp("blip")
    vocabulary = world.vocabulary(folder)
    text = {"vocab_size": world.entries(vocabulary), "hidden_size": 48, "intermediate_size": 96}
    text |= {"num_hidden_layers": 2, "num_attention_heads": 4, "max_position_embeddings": 40}
    vision = {"hidden_size": 32, "intermediate_size": 80, "num_hidden_layers": 2, "num_attention_heads": 2}
    vision |= {"image_size": SIDE, "patch_size": 16}
    torch.manual_seed(0)
    model = BlipForImageTextRetrieval(BlipConfig(text_config=text, vision_config=vision, image_text_hidden_size=20))
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.copy_(torch.randn(parameter.shape) * 0.3)
    model.save_pretrained(folder)
    return folder


@dataclass(frozen=True)
class Salesforce:
    file: Path
    tensors: dict[str, Tensor]

    @property
    def base(self) -> str:
        return str(self.file.parent / "bert")


@pytest.fixture(scope="module")
def salesforce(tmp_path_factory: pytest.TempPathFactory) -> Salesforce:
    folder = tmp_path_factory.mktemp("salesforce")
    tensors = world.blip_retrieval(SIZES, world.entries(world.vocabulary(folder / "bert")) + 2)
    torch.save({"model": tensors}, folder / "model_base_retrieval_coco.pth")
    return Salesforce(folder / "model_base_retrieval_coco.pth", tensors)


def test_scores_are_those_of_transformers(saved: Path, pairs: tuple[list[Image.Image], list[str]]) -> None:
    images, prompts = pairs
    model = BlipForImageTextRetrieval.from_pretrained(saved).eval()
    plain = [image.convert("RGB") for image in images]  # transformers 5 would paint the transparent ones on white
    pixels = BlipImageProcessorPil(size={"height": SIDE, "width": SIDE})(plain, return_tensors="pt").pixel_values
    tokenizer = BertTokenizer.from_pretrained(saved)
    read = tokenizer(prompts, padding=True, truncation=True, max_length=35, return_tensors="pt")
    inputs = {"pixel_values": pixels, "input_ids": read.input_ids, "attention_mask": read.attention_mask}
    with torch.no_grad():
        wanted = {
            "blip_itm": model(**inputs).itm_score.softmax(-1)[:, 1],
            "blip_itc": model(**inputs, use_itm_head=False).itm_score.diagonal(),
        }
    found = score_all(evaluators(saved), images, prompts)
    for name, scores in wanted.items():
        assert scores.std() > 1e-3
        assert worst(found[name], scores) < CLOSE


def test_the_original_format_gives_the_scores_of_the_formulas(
    salesforce: Salesforce, pairs: tuple[list[Image.Image], list[str]]
) -> None:
    images, prompts = (each[::7] for each in pairs)
    model = maths.Maths(salesforce.tensors)
    words = (salesforce.file.parent / "bert" / "vocab.txt").read_text(encoding="utf-8").splitlines()
    matches, cosines = [], []
    for image, prompt in zip(images, prompts, strict=True):
        picture, ids = model.picture(maths.squashed_pixels(image, SIDE)), maths.token_ids(words, prompt)
        matches.append(model.linear("itm_head", model.prompt(ids, picture)[0]).softmax(-1)[1])
        cosines.append(
            cosine_similarity(
                model.linear("vision_proj", picture[0]), model.linear("text_proj", model.prompt(ids)[0]), dim=0
            )
        )
    found = score_all(evaluators(salesforce.file, salesforce.base), images, prompts)
    assert worst(found["blip_itm"], torch.stack(matches)) < CLOSE
    assert worst(found["blip_itc"], torch.stack(cosines)) < CLOSE


def test_one_family_runs_the_vision_tower_once(saved: Path, pairs: tuple[list[Image.Image], list[str]]) -> None:
    images, prompts = (each[:20] for each in pairs)
    both = evaluators(saved, batch_size=20)
    assert families(both) == [both]
    calls: list[int] = []
    first = both[0]
    assert isinstance(first, Blip)
    first.blip.vision_model.register_forward_hook(lambda *_: calls.append(1))
    together = score_all(both, images, prompts)
    assert calls == [1]
    for evaluator in evaluators(saved, batch_size=3):
        assert worst(evaluator.score(images, prompts), together[evaluator.name]) < CLOSE


def test_cosines_of_half_a_precision_do_not_tie(saved: Path, pairs: tuple[list[Image.Image], list[str]]) -> None:
    """In bfloat16 they would have three digits."""
    images, prompts = pairs
    exact = evaluators(saved)[1].score(images, prompts)
    found = evaluators(saved, dtype="bfloat16")[1].score(images, prompts)
    assert 0 < (found - exact).abs().mean() < 0.2 * exact.std()
    assert (found != found.bfloat16().float()).float().mean() > 0.9


def test_ranges(saved: Path, pairs: tuple[list[Image.Image], list[str]]) -> None:
    itm, itc = (each.score(*pairs) for each in evaluators(saved))
    assert itm.ge(0).all()
    assert itm.le(1).all()
    assert itc.abs().le(1 + 1e-6).all()


def test_no_config(saved: Path, tmp_path: Path) -> None:
    (tmp_path / "model.safetensors").write_bytes((saved / "model.safetensors").read_bytes())
    with pytest.raises(ScoreError, match=r"no config.json beside"):
        evaluators(tmp_path)


def test_a_config_of_another_model(saved: Path, tmp_path: Path) -> None:
    shutil.copytree(saved, tmp_path / "clip")
    config = json.loads((saved / "config.json").read_text()) | {"model_type": "clip"}
    (tmp_path / "clip" / "config.json").write_text(json.dumps(config))
    with pytest.raises(ScoreError, match="type 'clip'"):
        evaluators(tmp_path / "clip")


def test_heads_stay_in_float32(saved: Path, pairs: tuple[list[Image.Image], list[str]]) -> None:
    match = evaluators(saved, dtype="bfloat16")[0]
    found = match.score(*(each[::7] for each in pairs))
    assert (found != found.bfloat16().float()).float().mean() > 0.9


def test_a_config_of_another_size(saved: Path, tmp_path: Path) -> None:
    for each in saved.iterdir():
        (tmp_path / each.name).write_bytes(each.read_bytes())
    config = json.loads((saved / "config.json").read_text())
    config["vision_config"]["num_hidden_layers"] = 3
    (tmp_path / "config.json").write_text(json.dumps(config))
    with pytest.raises(ScoreError, match=r"missing \(vision_model.encoder.layers.2"):
        evaluators(tmp_path)[0].score([Image.new("RGB", (9, 9))], ["a cat"])


def test_keys_of_training_alone_are_left_out_and_no_others(salesforce: Salesforce, tmp_path: Path) -> None:
    torch.save(salesforce.tensors | {"temperature_m": torch.ones(1)}, tmp_path / "more.pth")
    del salesforce.tensors["text_proj.bias"]
    torch.save(salesforce.tensors, tmp_path / "fewer.pth")
    for file, told in {"more": r"1 unexpected \(temperature_m\)", "fewer": r"1 missing \(text_proj.bias\)"}.items():
        with pytest.raises(ScoreError, match=told):
            evaluators(tmp_path / f"{file}.pth", salesforce.base)[0].score([Image.new("RGB", (9, 9))], ["a cat"])


def test_captions_are_scored_as_pairs_and_a_picture_is_seen_once(salesforce: Salesforce) -> None:
    found = evaluators(salesforce.file, salesforce.base, batch_size=4)
    together, alone = scored_and_alone(found, list(world.pictures().values()), world.PROMPTS)
    for place in range(len(found)):
        assert worst(together[:, place], alone[:, place]) < CLOSE
