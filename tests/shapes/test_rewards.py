"""The order of the rewards on drawn pictures, their continuity, and their properties on random scenes."""

from __future__ import annotations

import random
from dataclasses import astuple

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray
from scipy import ndimage

from probe_lab.shapes.captions import COLOURS, SHAPES, Link, Object, Scene, parse_caption, sample_scene
from probe_lab.shapes.render import Placed, draw, place, render
from probe_lab.shapes.rewards import REWARDS, WEIGHTS, Rewards, blob_rewards, rewards
from probe_lab.shapes.segment import read_pixels, segment

Picture = NDArray[np.uint8]
RED_CIRCLE, BLUE_SQUARE, GREEN_CROSS = (
    Object("red", "circle"),
    Object("blue", "square"),
    Object("green", "cross"),
)
SCENE = parse_caption("a red circle left of a blue square")
PERFECT = [Placed(RED_CIRCLE, 16, 30, 9), Placed(BLUE_SQUARE, 45, 38, 9)]


def scored(objects: list[Placed], scene: Scene = SCENE) -> Rewards:
    return rewards(draw(objects), scene)


def blurred(picture: Picture, sigma: float) -> Picture:
    soft = ndimage.gaussian_filter(picture.astype(np.float32), (sigma, sigma, 0))
    return np.round(soft).astype(np.uint8)


def noisy(picture: Picture, sigma: float, seed: int = 0) -> Picture:
    grain = np.random.default_rng(seed).normal(0, sigma, picture.shape)
    return np.clip(picture + grain, 0, 255).astype(np.uint8)


def scenes_and_pictures(count: int, seed: int) -> list[tuple[Scene, Picture]]:
    rng = random.Random(seed)
    scenes = [sample_scene(rng) for _ in range(count)]
    return [(scene, render(scene, rng)) for scene in scenes]


def test_perfect_renders_score_at_least_nine_tenths_in_every_reward() -> None:
    for scene, picture in scenes_and_pictures(150, seed=1):
        assert min(astuple(rewards(picture, scene))) >= 0.9, scene.caption


def test_blend_is_the_documented_one() -> None:
    found = rewards(noisy(draw(PERFECT), 30), SCENE)
    assert sum(WEIGHTS.values()) == pytest.approx(1)
    assert found.shapes_reward == pytest.approx(sum(w * getattr(found, name) for name, w in WEIGHTS.items()))
    assert REWARDS == ("presence", "binding", "layout", "fidelity", "shapes_reward")


@pytest.mark.parametrize("missing", [0, 1])
def test_missing_object(missing: int) -> None:
    perfect, found = scored(PERFECT), scored([PERFECT[1 - missing]])
    assert found.presence == pytest.approx(perfect.presence / 2, abs=0.02)
    assert found.binding == pytest.approx(perfect.binding / 2, abs=0.02)
    assert found.layout < 0.02
    assert found.fidelity > 0.9
    assert found.shapes_reward < perfect.shapes_reward - 0.4


def test_swapped_colours_break_binding_and_keep_presence() -> None:
    swapped = scored(
        [
            Placed(Object("blue", "circle"), 16, 30, 9),
            Placed(Object("red", "square"), 45, 38, 9),
        ]
    )
    assert swapped.binding < 0.1
    assert swapped.presence > 0.95
    assert swapped.layout < 0.1  # the red one now stands right of the blue one
    assert swapped.shapes_reward < scored(PERFECT).shapes_reward - 0.4


@pytest.mark.parametrize("wrong", [shape for shape in SHAPES if shape != "circle"])
def test_wrong_shape_breaks_binding_only(wrong: str) -> None:
    found = scored([Placed(Object("red", wrong), 16, 30, 9), PERFECT[1]])  # type: ignore[arg-type]
    assert found.binding < 0.55
    assert found.presence > 0.95
    assert found.layout > 0.9


@pytest.mark.parametrize("wrong", [colour for colour in COLOURS if colour not in ("red", "blue")])
def test_wrong_colour_lowers_presence_and_binding(wrong: str) -> None:
    found = scored([Placed(Object(wrong, "circle"), 16, 30, 9), PERFECT[1]])  # type: ignore[arg-type]
    assert found.binding < 0.6
    assert found.presence < 0.65


def test_objects_that_merge_lower_presence_gradually() -> None:
    scene = parse_caption("a red circle and a blue square")
    ladder = [
        scored([Placed(RED_CIRCLE, 20, 32, 9), Placed(BLUE_SQUARE, 20 + distance, 32, 9)], scene).presence
        for distance in (24, 20, 18, 16, 14, 10)
    ]
    assert ladder[0] > 0.98
    assert ladder == sorted(ladder, reverse=True)
    assert ladder[3] < ladder[0] - 0.2
    assert ladder[5] < 0.5


def test_objects_of_one_colour_that_merge_lose_presence_and_binding() -> None:
    scene = parse_caption("a red circle and a red square")
    circle, square = Object("red", "circle"), Object("red", "square")
    apart = scored([Placed(circle, 16, 32, 9), Placed(square, 44, 32, 9)], scene)
    merged = scored([Placed(circle, 26, 32, 9), Placed(square, 40, 32, 9)], scene)
    assert merged.presence < 0.6 < 0.98 < apart.presence
    assert merged.binding < apart.binding - 0.4


def test_extra_object_lowers_presence_more_the_larger_it_is() -> None:
    found = [scored([*PERFECT, Placed(GREEN_CROSS, 16, 54, radius)]) for radius in (2.5, 3.5, 4.5, 5.5, 8.0)]
    ladder = [scored(PERFECT).presence, *(each.presence for each in found)]
    assert ladder == sorted(ladder, reverse=True)
    assert ladder[-1] == pytest.approx(2 / 3, abs=0.02)
    assert all(each.binding > 0.9 and each.layout > 0.9 for each in found)


@pytest.mark.parametrize("link", ["left of", "above"])
def test_layout_falls_smoothly_as_the_relation_is_violated(link: Link) -> None:
    scene = Scene((RED_CIRCLE, BLUE_SQUARE), (link,))
    found = []
    for margin in np.arange(24.0, -25.0, -4.0):
        along, across = (32 + margin / 2, 48.0)
        square = (along, across) if link == "left of" else (across, along)
        circle = (32 - margin / 2, 16.0) if link == "left of" else (16.0, 32 - margin / 2)
        found.append(scored([Placed(RED_CIRCLE, *circle, 9), Placed(BLUE_SQUARE, *square, 9)], scene))
    layouts = [each.layout for each in found]
    assert layouts == sorted(layouts, reverse=True)
    assert len(set(layouts)) == len(layouts)
    assert layouts[0] > 0.98
    assert layouts[6] == pytest.approx(0.5, abs=0.02)
    assert layouts[-1] < 0.02
    assert np.ptp([each.binding for each in found]) < 0.05
    assert min(each.presence for each in found) > 0.98


def test_layout_without_relations_wants_free_standing_objects_inside_the_frame() -> None:
    scene = parse_caption("a red circle and a blue square")

    def layout(x: float, gap: float) -> float:
        return scored([Placed(RED_CIRCLE, x, 32, 8), Placed(BLUE_SQUARE, x + 16 + gap, 32, 8)], scene).layout

    free, cropped, close = layout(16, 14), layout(2, 14), layout(16, -3)
    assert free > 0.95
    assert cropped < free - 0.1 < layout(6, 14)
    assert close < free - 0.1
    assert layout(16, 3) > layout(16, 1) > layout(16, -1) > close


def test_relation_reads_the_right_blob_of_two_with_one_colour() -> None:
    scene = parse_caption("a red circle left of a red square")
    circle, square = Object("red", "circle"), Object("red", "square")
    good = scored([Placed(circle, 16, 32, 9), Placed(square, 44, 32, 9)], scene)
    bad = scored([Placed(square, 16, 32, 9), Placed(circle, 44, 32, 9)], scene)
    assert good.layout > 0.95
    assert bad.layout < 0.1
    assert bad.binding == pytest.approx(good.binding, abs=0.02)


def test_pure_noise_scores_near_nothing() -> None:
    generator = np.random.default_rng(0)
    for scene, picture in scenes_and_pictures(30, seed=2):
        raw = generator.integers(0, 256, picture.shape, dtype=np.uint8)
        for static in (raw, blurred(raw, 2)):
            found = rewards(static, scene)
            assert found.shapes_reward < 0.2
            assert max(found.presence, found.binding) < 0.3
    grey = noisy(np.full((64, 64, 3), 128, np.uint8), 80)
    assert np.mean([rewards(grey, scene).shapes_reward for scene, _ in scenes_and_pictures(10, seed=3)]) < 0.1


def test_empty_ground_has_nothing_of_what_was_asked() -> None:
    found = scored([])
    assert max(found.presence, found.binding, found.layout) == 0
    assert found.shapes_reward < 0.1


def test_blur_lowers_every_reward_step_by_step() -> None:
    pictures = scenes_and_pictures(25, seed=4)
    means = np.array(
        [
            np.mean([astuple(rewards(blurred(p, sigma), s)) for s, p in pictures], axis=0)
            for sigma in (0, 0.6, 1, 1.5, 2, 3)
        ]
    )
    assert (np.diff(means, axis=0) < 0).all()
    assert means[2, 4] > 0.85  # what a small VAE's decoder does to a picture is no failure
    assert means[-1, 4] < 0.65


def test_noise_lowers_every_reward_step_by_step() -> None:
    pictures = scenes_and_pictures(25, seed=5)
    means = np.array(
        [
            np.mean([astuple(rewards(noisy(p, sigma), s)) for s, p in pictures], axis=0)
            for sigma in (0, 15, 35, 60, 90, 130)
        ]
    )
    assert (np.diff(means, axis=0) < 0.001).all()
    assert means[1, 4] > 0.85
    assert means[-1, 4] < 0.7


def test_off_colours_lower_the_rewards_gradually() -> None:
    pictures = scenes_and_pictures(15, seed=6)
    signs = np.array(np.meshgrid(*[(-1, 1)] * 3)).reshape(3, -1).T
    means = [
        np.mean(
            [
                rewards(np.clip(p.astype(int) + s * shift, 0, 255).astype(np.uint8), scene).shapes_reward
                for scene, p in pictures
                for s in signs
            ]
        )
        for shift in (0, 8, 16, 25, 40)
    ]
    assert means == sorted(means, reverse=True)
    assert means[3] > 0.55
    assert np.max(-np.diff(means)) < 0.35


def test_small_changes_of_the_picture_change_the_rewards_little() -> None:
    for seed, (scene, picture) in enumerate(scenes_and_pictures(30, seed=7)):
        base = noisy(blurred(picture, 1.2), 8, seed)
        change = np.abs(np.subtract(astuple(rewards(base, scene)), astuple(rewards(noisy(base, 2, seed + 1), scene))))
        assert change.max() < 0.05


def test_blurred_renders_of_one_caption_hardly_ever_tie() -> None:
    scene, rng = parse_caption("a red circle and a blue square left of a green cross"), random.Random(8)
    table = np.array([astuple(rewards(blurred(render(scene, rng), 1), scene)) for _ in range(60)])
    assert (table.std(axis=0) > 1e-4).all()
    assert all(len(np.unique(column.astype(np.float32))) >= 58 for column in table.T)


@pytest.mark.parametrize("size", [(1, 1), (40, 64), (200, 130)])
def test_any_size_is_scored(size: tuple[int, int]) -> None:
    picture = np.full((*size, 3), 238, np.uint8)
    picture[:20, :20] = (214, 40, 40)
    found = rewards(picture, parse_caption("a red square"))
    assert all(0 <= value <= 1 for value in astuple(found))
    assert (found.binding > 0.9) == (size != (1, 1))


def test_rewards_do_not_depend_on_the_order_of_the_blobs() -> None:
    for scene, picture in scenes_and_pictures(10, seed=9):
        blobs = segment(read_pixels(noisy(blurred(picture, 1), 20)), 0.5).blobs
        order = np.random.default_rng(0).permutation(len(blobs))
        assert blob_rewards(blobs.take(order), scene, (64, 64)) == pytest.approx(
            blob_rewards(blobs, scene, (64, 64)), abs=1e-6
        )


@settings(max_examples=40, deadline=None)
@given(seed=st.integers(0, 2**32), sigma=st.floats(0, 120), blur=st.floats(0, 4), other=st.booleans())
def test_rewards_are_probabilities_and_repeatable(seed: int, sigma: float, blur: float, other: bool) -> None:
    rng = random.Random(seed)
    scene = sample_scene(rng)
    picture = noisy(blurred(render(sample_scene(rng) if other else scene, rng), blur), sigma, seed)
    found = rewards(picture, scene)
    assert all(0 <= value <= 1 for value in astuple(found))
    assert found == rewards(picture.copy(), scene)


@settings(max_examples=30, deadline=None)
@given(seed=st.integers(0, 2**32))
def test_mirror_flips_left_of_and_nothing_else(seed: int) -> None:
    rng = random.Random(seed)
    kinds = rng.sample([Object(c, s) for c in COLOURS for s in SHAPES], 3)
    scene = Scene(tuple(kinds), ("left of", "left of"))
    placed = place(scene, rng)
    right, mirrored = scored(placed, scene), rewards(draw(placed)[:, ::-1], scene)
    assert right.layout + mirrored.layout == pytest.approx(1, abs=0.03)  # sigmoid(-m) = 1 - sigmoid(m)
    for name in ("presence", "binding", "fidelity"):
        assert getattr(mirrored, name) == pytest.approx(getattr(right, name), abs=0.02)
