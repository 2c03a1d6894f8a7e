"""ImageReward against formulas written out once more, and against the package where it is installed."""

from __future__ import annotations

import importlib.util
import json
import os
import subprocess
import sys
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.torch import save_file
from torch import Tensor

from probe_lab.config import EvaluatorModel, Scoring
from probe_lab.errors import ScoreError
from probe_lab.evaluators import Evaluator, create
from probe_lab.evaluators import blip_original as original
from probe_lab.evaluators.base import prepared, score_all_captions
from probe_lab.evaluators.checkpoints import Checkpoint
from probe_lab.evaluators.image_reward import transform

sys.path.insert(0, str(Path(__file__).parent))
import blip_maths as maths
import blip_world as world
from captions_world import scored_and_alone

JUDGE = Path(__file__).parents[1] / "judges" / "image_reward_judge.py"

CLOSE = 1e-4
"""Of the standard deviation of the scores."""

needs_package = pytest.mark.skipif(
    not all(importlib.util.find_spec(each) for each in ("ImageReward", "fairscale", "timm")),
    reason="the package image-reward is not installed: make rewards",
)


@dataclass(frozen=True)
class Released:
    """A small ImageReward on disk, and every picture with every prompt."""

    folder: Path
    tensors: dict[str, Tensor]

    @property
    def vocabulary(self) -> Path:
        return self.folder / "bert" / "vocab.txt"

    def evaluator(self, file: str = "ImageReward.pt", base: str = "", backend: str = "native", **run) -> Evaluator:
        model = EvaluatorModel(str(self.folder / file), base or str(self.vocabulary.parent), backend=backend)
        return create("image_reward", Scoring(models={"image_reward": model}, **run))

    @cached_property
    def pairs(self) -> tuple[list[str], list[Image.Image], list[str]]:
        """Names and pictures, each with each prompt."""
        found = [(name, image, prompt) for name, image in world.pictures().items() for prompt in world.PROMPTS]
        names, images, prompts = zip(*found, strict=True)
        return list(names), list(images), list(prompts)

    @cached_property
    def native(self) -> Tensor:
        _, images, prompts = self.pairs
        return self.evaluator().score(images, prompts)

    def by_formula(self, eps: float = 1e-6, causal: bool = False, count: int | None = None) -> Tensor:
        """Of the first ``count`` pairs."""
        names, images, prompts = (each[:count] for each in self.pairs)
        images = [eight_bits(name, image) for name, image in zip(names, images, strict=True)]
        model = maths.Maths({key.removeprefix("blip."): each for key, each in self.tensors.items()}, eps, causal)
        words = self.vocabulary.read_text(encoding="utf-8").splitlines()
        ids = {prompt: maths.token_ids(words, prompt) for prompt in world.PROMPTS}
        return torch.tensor(
            [
                model.reward(maths.image_reward_pixels(image), ids[prompt])
                for image, prompt in zip(images, prompts, strict=True)
            ]
        )


@pytest.fixture(scope="module")
def released(tmp_path_factory: pytest.TempPathFactory) -> Released:
    return release(tmp_path_factory.mktemp("image_reward"), world.Sizes())


def release(folder: Path, sizes: world.Sizes, words: int = 0) -> Released:
    vocabulary = world.vocabulary(folder / "bert")
    missing = max(0, words - world.entries(vocabulary))
    vocabulary = world.vocabulary(folder / "bert", missing)
    tensors = world.image_reward(sizes, world.entries(vocabulary) + len(original.ADDED))
    torch.save(tensors, folder / "ImageReward.pt")
    return Released(folder, tensors)


def eight_bits(name: str, image: Image.Image) -> Image.Image:
    return world.pictures()["grey"] if name == "16 bit" else image


def worst(found: Tensor, wanted: Tensor) -> float:
    """Largest difference in standard deviations of what is wanted."""
    return ((found.double() - wanted).abs().max() / wanted.double().std()).item()


def test_scores_are_those_of_the_formulas(released: Released) -> None:
    wanted = released.by_formula()
    assert wanted.std() > 1e-3  # pictures and prompts both count
    assert worst(released.native, wanted) < CLOSE
    table = wanted.view(-1, len(world.PROMPTS))
    assert table.std(0).min() > 100 * CLOSE * wanted.std()
    assert table.std(1).min() > 100 * CLOSE * wanted.std()


def test_the_wrong_epsilon_is_seen(released: Released) -> None:
    assert worst(released.native[:20], released.by_formula(eps=1e-5, count=20)) > CLOSE


def test_causal_attention_is_seen(released: Released) -> None:
    assert worst(released.native[:20], released.by_formula(causal=True, count=20)) > CLOSE


@pytest.mark.parametrize("batch_size", [1, 3])
def test_batches_do_not_matter(released: Released, batch_size: int) -> None:
    _, images, prompts = released.pairs
    found = released.evaluator(batch_size=batch_size).score(images[:40], prompts[:40])
    assert worst(found, released.native[:40]) < CLOSE


def test_a_second_score_is_the_first(released: Released) -> None:
    """No dropout is left on."""
    evaluator = released.evaluator()
    _, images, prompts = released.pairs
    first = evaluator.score(images[:4], prompts[:4])
    evaluator.release()
    assert torch.equal(evaluator.score(images[:4], prompts[:4]), first)


@pytest.mark.parametrize(("dtype", "close"), [("bfloat16", 0.3), ("float16", 0.05)])
def test_half_precision(released: Released, dtype: str, close: float) -> None:
    _, images, prompts = released.pairs
    found = released.evaluator(dtype=dtype).score(images[:40], prompts[:40])
    assert found.dtype == torch.float32
    assert worst(found, released.native[:40]) < close


@pytest.mark.parametrize("name", list(world.pictures()))
def test_pictures_are_prepared_as_by_the_package(name: str) -> None:
    image = world.pictures()[name]
    found = transform().apply(image)
    assert found.dtype == torch.float32
    assert found.shape == (3, 224, 224)
    torch.testing.assert_close(found.double(), maths.image_reward_pixels(eight_bits(name, image)), atol=1e-6, rtol=0)


def test_prompts_are_read_as_by_bert(released: Released) -> None:
    words = released.vocabulary.read_text(encoding="utf-8").splitlines()
    by = original.tokenizer(Checkpoint(released.vocabulary), len(words) + 2)
    ids, mask = original.tokens(by, world.PROMPTS, torch.device("cpu"))
    assert ids.shape == (len(world.PROMPTS), 35)
    for row, here, prompt in zip(ids, mask.bool(), world.PROMPTS, strict=True):
        wanted = maths.token_ids(words, prompt)
        assert row[here].tolist() == wanted
        assert row[~here].eq(0).all()


def test_the_two_tokens_of_blip(released: Released) -> None:
    count = world.entries(released.vocabulary)
    ids, _ = original.tokens(
        original.tokenizer(Checkpoint(released.vocabulary), count + 2), ["[DEC] a [ENC]"], torch.device("cpu")
    )
    assert (ids[0, 1], ids[0, 3]) == (count, count + 1)


def test_safetensors(released: Released) -> None:
    save_file(released.tensors, released.folder / "ImageReward.safetensors")
    _, images, prompts = released.pairs
    found = released.evaluator("ImageReward.safetensors").score(images[:4], prompts[:4])
    assert torch.equal(found, released.evaluator().score(images[:4], prompts[:4]))


def spoilt(released: Released, change: str) -> str:
    tensors = dict(released.tensors)
    if change == "missing":
        del tensors["blip.text_encoder.encoder.layer.1.crossattention.self.key.bias"]
    elif change == "unexpected":
        tensors["blip.visual_encoder.blocks.0.attn.gate.weight"] = torch.zeros(3)
    else:
        tensors["mlp.layers.2.weight"] = torch.zeros(64, 1024)
    torch.save(tensors, released.folder / f"{change}.pt")
    return f"{change}.pt"


@pytest.mark.parametrize(
    ("change", "told"),
    [
        ("missing", r"1 missing \(text_encoder.encoder.layer.1.crossattention.self.key.bias\)"),
        ("unexpected", r"1 unexpected \(visual_encoder.blocks.0.attn.gate.weight\)"),
        ("shape", r"mlp.2.weight \[64, 1024\] instead of \[128, 1024\]"),
    ],
)
def test_other_keys_are_refused(released: Released, change: str, told: str) -> None:
    evaluator = released.evaluator(spoilt(released, change))
    with pytest.raises(ScoreError, match=told):
        evaluator.score([Image.new("RGB", (9, 9))], ["a cat"])


def test_a_checkpoint_of_something_else(released: Released) -> None:
    torch.save({"visual.conv1.weight": torch.zeros(3)}, released.folder / "clip.pt")
    with pytest.raises(ScoreError, match=r"not of ImageReward.*visual_encoder.pos_embed.*where it has visual.conv1"):
        released.evaluator("clip.pt").score([Image.new("RGB", (9, 9))], ["a cat"])


def test_a_model_for_other_pictures_is_refused(tmp_path: Path) -> None:
    other = release(tmp_path, world.Sizes(image=256, depth=1, text_depth=1))
    with pytest.raises(ScoreError, match="position_embedding"):
        other.evaluator().score([Image.new("RGB", (9, 9))], ["a cat"])


def test_the_vocabulary_of_another_model(released: Released, tmp_path: Path) -> None:
    world.vocabulary(tmp_path, longer_by=7)
    with pytest.raises(ScoreError, match=r"has \d+ entries, where the model was trained with.*bert-base-uncased"):
        released.evaluator(base=str(tmp_path)).score([Image.new("RGB", (9, 9))], ["a cat"])


def test_no_vocabulary(released: Released, tmp_path: Path) -> None:
    with pytest.raises(ScoreError, match=r"vocab.txt.*google-bert/bert-base-uncased"):
        released.evaluator(base=str(tmp_path))


def test_a_vocabulary_beside_the_weights_needs_no_setting(released: Released, tmp_path: Path) -> None:
    torch.save(released.tensors, tmp_path / "ImageReward.pt")
    (tmp_path / "vocab.txt").write_bytes(released.vocabulary.read_bytes())
    found = create("image_reward", Scoring(models={"image_reward": EvaluatorModel(str(tmp_path))}))
    assert found.metadata() == released.evaluator().metadata()
    assert torch.equal(
        found.score([Image.new("RGB", (9, 9))], ["a cat"]), found.score([Image.new("RGB", (9, 9))], ["A CAT"])
    )


def test_scores_depend_on_the_vocabulary(released: Released) -> None:
    by, file = released.evaluator(), Checkpoint(released.vocabulary)
    assert by.metadata()["vocabulary_sha256"] == file.sha256
    assert str(released.vocabulary.resolve()) in by.family


@needs_package
def test_scores_are_those_of_the_package(released: Released) -> None:
    _, images, prompts = released.pairs
    wanted = released.evaluator(backend="reference").score(images, prompts)
    assert worst(released.native, wanted) < CLOSE
    assert np.isfinite(wanted.numpy()).all()


def judged(uv: str, folder: Path, released: Released, sizes: world.Sizes) -> Tensor:
    """The judge's scores of all pairs; the picture of sixteen bits, which it clips, it is given as one of eight."""
    files = {}
    for index, (name, image) in enumerate(world.pictures().items()):
        files[name] = folder / f"{index}.{'tiff' if image.mode == 'CMYK' else 'png'}"
        eight_bits(name, image).save(files[name])
    words = {"vocab_size": world.entries(released.vocabulary) + len(original.ADDED), "pad_token_id": 0}
    job = {
        "weights": str(released.folder / "ImageReward.pt"),
        "vocabulary": str(released.vocabulary),
        "text": words
        | {
            "hidden_size": sizes.text_width,
            "num_hidden_layers": sizes.text_depth,
            "num_attention_heads": sizes.text_width // 64,
            "intermediate_size": 4 * sizes.text_width,
            "max_position_embeddings": sizes.positions,
            "layer_norm_eps": 1e-12,
            "add_cross_attention": True,
        },
        "vision": {
            "img_size": sizes.image,
            "patch_size": sizes.patch,
            "embed_dim": sizes.width,
            "depth": sizes.depth,
            "num_heads": sizes.width // 64,
        }
        if sizes != world.FULL
        else {},
        "pictures": [str(files[name]) for name in released.pairs[0]],
        "prompts": released.pairs[2],
    }
    (folder / "job.json").write_text(json.dumps(job), encoding="utf-8")
    command = [uv, "run", "--quiet", "--locked", "--script", JUDGE, folder / "job.json"]
    run = subprocess.run(command, capture_output=True, text=True, check=False)
    assert run.returncode == 0, run.stderr[-3000:]
    return torch.tensor(json.loads(run.stdout.splitlines()[-1])["scores"])


def test_scores_are_those_of_the_judge(uv: str, released: Released, tmp_path: Path) -> None:
    wanted = judged(uv, tmp_path, released, world.Sizes())
    told = f"{worst(released.native, wanted):.1e} of the standard deviation {wanted.std():.3g}"
    print(told)
    assert worst(released.native, wanted) < CLOSE, told


@pytest.mark.skipif(os.environ.get("PROBE_LAB_FULL_SIZE") != "1", reason="PROBE_LAB_FULL_SIZE=1: 2 GB, some minutes")
@needs_package
def test_full_size(tmp_path: Path) -> None:
    """The released sizes with random weights: ViT-L/16 and BERT base."""
    full = release(tmp_path, world.FULL, words=30522)
    images = [world.photograph(*size, seed) for seed, size in enumerate([(512, 512), (640, 360), (1, 30), (224, 300)])]
    images, prompts = images * 2, [*world.PROMPTS[:4], *world.PROMPTS[4:8]]
    found = full.evaluator().score(images, prompts)
    alone = full.evaluator(batch_size=1).score(images, prompts)
    wanted = full.evaluator(backend="reference").score(images, prompts)
    print(f"full size: {worst(found, wanted):.1e} in a batch, {worst(alone, wanted):.1e} alone, std {wanted.std():.3g}")
    assert worst(found, wanted) < CLOSE
    assert worst(alone, wanted) < CLOSE


def test_captions_are_scored_as_pairs_and_a_picture_is_seen_once(released: Released) -> None:
    pictures, evaluator = list(world.pictures().values()), released.evaluator(batch_size=4)
    together, alone = scored_and_alone([evaluator], pictures, world.PROMPTS)
    assert worst(together, alone) < CLOSE
    # The text encoder looks at a picture anew for each caption, and makes its keys of it once.
    keys: list[int] = []
    attention = evaluator.model.text_encoder.encoder.layer[0].crossattention.self  # type: ignore[attr-defined]
    attention.key.register_forward_hook(lambda module, arguments, output: keys.append(len(output)))
    score_all_captions(
        [evaluator], [prepared([evaluator], each) for each in pictures], [world.PROMPTS[:3]] * len(pictures)
    )
    assert sum(keys) == len(pictures)
