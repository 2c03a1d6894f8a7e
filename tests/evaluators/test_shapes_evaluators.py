"""The registry, the shapes family, and the example in docs/evaluators.md."""

from __future__ import annotations

import random
import re
import sys
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

import probe_lab.evaluators.shapes as shapes_family
from probe_lab.errors import ConfigError, ScoreError
from probe_lab.evaluators import Evaluator, available, base, create, register, score_all
from probe_lab.evaluators.base import prepared, score_all_captions
from probe_lab.shapes import rewards as rewards_module
from probe_lab.shapes.captions import Scene, parse_caption, sample_scene
from probe_lab.shapes.render import render
from probe_lab.shapes.rewards import REWARDS, Rewards, rewards, scene_rewards
from probe_lab.shapes.segment import surface

sys.path.insert(0, str(Path(__file__).parent))
from captions_world import scored_and_alone

NAMES = ("shapes_binding", "shapes_fidelity", "shapes_layout", "shapes_presence", "shapes_reward")
DOCS = Path(__file__).parents[2] / "docs" / "evaluators.md"


@pytest.fixture
def examples() -> tuple[list[Image.Image], list[str]]:
    rng = random.Random(0)
    scenes = [sample_scene(rng) for _ in range(6)]
    pictures = [Image.fromarray(render(scene, rng)) for scene in scenes]
    return pictures[1:] + pictures[:1], [scene.caption for scene in scenes]  # of other captions: varied scores


@pytest.fixture
def registry(monkeypatch: pytest.MonkeyPatch) -> None:
    """What a test registers is forgotten after it."""
    monkeypatch.setattr(base.EVALUATORS, "_entries", dict(base.EVALUATORS._entries))


def test_the_five_rewards_are_registered() -> None:
    assert set(NAMES) <= set(available())
    assert available() == tuple(sorted(available()))


def test_every_evaluator_gives_its_own_reward(examples: tuple[list[Image.Image], list[str]]) -> None:
    images, prompts = examples
    found = [rewards(np.asarray(image), parse_caption(prompt)) for image, prompt in zip(images, prompts, strict=True)]
    for reward in REWARDS:
        name = reward if reward == "shapes_reward" else f"shapes_{reward}"
        scores = create(name).score(images, prompts)
        assert scores.dtype == torch.float32
        assert scores.tolist() == pytest.approx([getattr(each, reward) for each in found])


def test_joint_scores_are_the_single_ones_with_one_segmentation_per_image(
    examples: tuple[list[Image.Image], list[str]], monkeypatch: pytest.MonkeyPatch
) -> None:
    images, prompts = examples
    evaluators = [create(name) for name in NAMES]
    alone = {each.name: each.score(images, prompts) for each in evaluators}
    calls: list[str] = []

    def counted(image: np.ndarray, scenes: list[Scene]) -> list[Rewards]:
        calls.extend(scene.caption for scene in scenes)
        return scene_rewards(image, scenes)

    monkeypatch.setattr(shapes_family, "scene_rewards", counted)
    together = score_all(evaluators, images, prompts)
    assert list(together) == list(NAMES)
    assert all(torch.equal(together[name], alone[name]) for name in NAMES)
    assert calls == prompts


def test_scores_do_not_depend_on_the_batch_or_the_mode(
    examples: tuple[list[Image.Image], list[str]],
) -> None:
    images, prompts = examples
    evaluator = create("shapes_reward")
    single = [evaluator.score([i], [p]).item() for i, p in zip(images, prompts, strict=True)]
    assert evaluator.score([image.convert("RGBA") for image in images], prompts).tolist() == single
    assert evaluator.score([], []).shape == (0,)


def test_metadata_says_what_a_score_depends_on() -> None:
    assert create("shapes_layout").metadata() == {
        "evaluator": "shapes_layout",
        "version": "1",
        "checkpoint_sha256": "none",
        "preprocessing": "RGB uint8, not resized",
    }


def test_a_prompt_of_another_world_is_named() -> None:
    with pytest.raises(ScoreError, match="'a photo of a dog'"):
        create("shapes_reward").score([Image.new("RGB", (64, 64))], ["a photo of a dog"])


def test_unknown_evaluator_names_the_nearest() -> None:
    with pytest.raises(ConfigError, match=r"'shapes_bindings'.*did you mean 'shapes_binding'"):
        create("shapes_bindings")


@pytest.mark.usefixtures("registry")
def test_a_name_is_registered_once() -> None:
    with pytest.raises(ConfigError, match="'shapes_reward' is registered twice"):
        register("shapes_reward", lambda settings: create("shapes_reward"))


@pytest.mark.usefixtures("registry")
def test_the_documented_example_works(examples: tuple[list[Image.Image], list[str]]) -> None:
    blocks = re.findall(r"```python\n(.*?)```", DOCS.read_text(), re.S)
    names: dict[str, object] = {"__name__": "example"}
    exec(blocks[0], names)
    images, prompts = examples
    evaluators: list[Evaluator] = [create("warmth"), create("coolness"), create("shapes_reward")]
    scores = score_all(evaluators, images, prompts)
    assert list(scores) == ["warmth", "coolness", "shapes_reward"]
    assert torch.equal(scores["warmth"], -scores["coolness"])
    assert scores["warmth"].dtype == torch.float32
    red, blue = Image.new("RGB", (8, 8), "red"), Image.new("RGB", (8, 8), "blue")
    assert evaluators[0].score([red, blue], ["", ""]).tolist() == [1.0, -1.0]


def test_captions_are_scored_as_pairs_to_the_bit_with_one_segmentation_per_image(
    examples: tuple[list[Image.Image], list[str]], monkeypatch: pytest.MonkeyPatch
) -> None:
    evaluators = [create(name) for name in NAMES]
    together, alone = scored_and_alone(evaluators, *examples)
    assert torch.equal(together, alone)
    images, prompts = examples
    surfaces: list[object] = []
    monkeypatch.setattr(rewards_module, "surface", lambda *each: surfaces.append(each) or surface(*each))
    score_all_captions(evaluators, [prepared(evaluators, images[0])], [prompts])
    assert len(surfaces) == 1


class Loud(Evaluator):
    """The length of the prompt; nothing is overridden but ``score``."""

    name, family, version, preprocessing = "loud", "loud", "1", "none"

    def score(self, images: Sequence[Image.Image], prompts: Sequence[str]) -> torch.Tensor:
        return torch.tensor([float(len(prompt)) for prompt in prompts])


def test_an_evaluator_of_ones_own_scores_captions_by_its_score(examples: tuple[list[Image.Image], list[str]]) -> None:
    together, alone = scored_and_alone([Loud()], *examples)
    assert torch.equal(together, alone)
    assert together[0].unique().numel() > 1
