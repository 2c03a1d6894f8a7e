"""What a contrastive model of the shapes world is trained on: pictures, their captions, and both made slightly wrong.

Whatever is called wrong here has been checked: no wrong caption is true of the picture, and the caption is true of no
wrong picture, but for those in which the right scene is badly painted.
"""

from __future__ import annotations

import itertools
import random
from collections.abc import Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass, replace

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from probe_lab.shapes.captions import COLOURS, MAX_OBJECTS, SHAPES, Object, Scene, sample_scene
from probe_lab.shapes.render import SIZE, Placed, draw, place
from tools.tiny_models.mistakes import any_mistake, describes, held_out, is_caption, make_mistake, wrong_caption

CHUNK = 500
"""Samples that one seed draws, in one process."""
CROWDED = 80
"""Side of the picture in which five objects find a place quickly; it is shrunk to ``SIZE``."""

SMEARED, TOUCHING = 0.1, 0.08
"""Shares of wrong pictures that show the right scene, but one object partly in another colour or shape, or one that
touches another."""


@dataclass(frozen=True)
class Contrast:
    """A picture (uint8 [SIZE, SIZE, 3]) and a caption true of it; a wrong caption, and a wrong picture.

    ``paired``: the wrong caption is true of the wrong picture, so these two are a sample as well.
    """

    caption: Scene
    placed: tuple[Placed, ...]
    picture: NDArray[np.uint8]
    wrong_caption: Scene
    wrong_placed: tuple[Placed, ...]
    wrong_picture: NDArray[np.uint8]
    paired: bool


def arrange(scene: Scene, rng: random.Random) -> tuple[Placed, ...]:
    """A random layout, also of one object more than a caption can name."""
    if len(scene.objects) <= MAX_OBJECTS:
        return tuple(place(scene, rng))
    crowd, scale = place(scene, rng, CROWDED), SIZE / CROWDED
    return tuple(Placed(each.item, each.x * scale, each.y * scale, each.radius * scale) for each in crowd)


def smeared(placed: Sequence[Placed], rng: random.Random) -> NDArray[np.uint8]:
    """A picture in which one object goes over into another colour or shape, along a random line through it."""
    at = rng.randrange(len(placed))
    one = placed[at]
    kind = Object(rng.choice([colour for colour in COLOURS if colour != one.item.colour]), one.item.shape)
    if rng.random() < 0.3:
        kind = Object(one.item.colour, rng.choice([shape for shape in SHAPES if shape != one.item.shape]))
    other = [*placed[:at], replace(one, item=kind), *placed[at + 1 :]]
    ys, xs = np.mgrid[0:SIZE, 0:SIZE] + 0.5
    angle, offset, softness = rng.uniform(0, 2 * np.pi), rng.uniform(-4, 4), rng.uniform(0.5, 4)
    along = (xs - one.x) * np.cos(angle) + (ys - one.y) * np.sin(angle) + offset
    share = 1 / (1 + np.exp(-along / softness))[..., None]
    mixed: NDArray[np.uint8] = np.round((1 - share) * draw(list(placed)) + share * draw(other)).astype(np.uint8)
    return mixed


def touching(placed: Sequence[Placed], rng: random.Random) -> NDArray[np.uint8]:
    """A picture in which one object is moved into another; ``placed`` are two or more."""
    moved, still = rng.sample(range(len(placed)), 2)
    a, b = placed[moved], placed[still]
    share = rng.uniform(0.5, 0.9) * (a.radius + b.radius) / np.hypot(a.x - b.x, a.y - b.y)
    beside = replace(a, x=b.x + share * (a.x - b.x), y=b.y + share * (a.y - b.y))
    return draw([*placed[:moved], beside, *placed[moved + 1 :]])


def draw_contrast(rng: random.Random) -> Contrast:
    """One random sample; neither caption is held out."""
    scene = next(found for found in _scenes(rng) if found.caption not in held_out())
    placed = arrange(scene, rng)
    text = _wrong_text(scene, placed, rng)
    spoilt = rng.random()
    if spoilt < SMEARED + TOUCHING:
        layout = arrange(scene, rng)
        spoil = smeared if spoilt < SMEARED or len(layout) == 1 else touching
        return Contrast(scene, placed, draw(list(placed)), text, layout, spoil(layout, rng), paired=False)
    while True:
        # Half of the wrong pictures show the wrong caption; the others need not be anything that can be said.
        shown = text if rng.random() < 0.5 else make_mistake(scene, any_mistake(rng), rng)
        if shown and not describes(scene, layout := arrange(shown, rng)):
            break
    paired = is_caption(shown) and shown.caption not in held_out() and not describes(shown, placed)
    return Contrast(
        scene, placed, draw(list(placed)), shown if paired else text, layout, draw(list(layout)), paired=paired
    )


def _scenes(rng: random.Random) -> itertools.starmap[Scene]:
    return itertools.starmap(sample_scene, itertools.repeat((rng,)))


def _wrong_text(scene: Scene, placed: Sequence[Placed], rng: random.Random) -> Scene:
    while True:
        found = wrong_caption(scene, placed, any_mistake(rng), rng)
        if found and found.caption not in held_out():
            return found


@dataclass(frozen=True)
class Pool:
    """n samples; the second axis of the tensors is right and wrong.

    ``pictures`` uint8 [n, 2, 3, SIZE, SIZE]; ``paired`` bool [n]; ``shown`` and ``named`` int64 [n, 2] number the
    collections of objects in the pictures and in the captions.
    """

    captions: tuple[tuple[str, str], ...]
    pictures: Tensor
    paired: Tensor
    shown: Tensor
    named: Tensor

    def __len__(self) -> int:
        return len(self.captions)


def _draw_all(job: tuple[int, int]) -> list[Contrast]:
    count, seed = job
    rng = random.Random(seed)
    return [draw_contrast(rng) for _ in range(count)]


def contrast_pool(count: int, seed: int, workers: int) -> Pool:
    """``count`` samples; the same for any number of workers."""
    jobs = [(min(CHUNK, count - start), seed * 1_000_003 + start) for start in range(0, count, CHUNK)]
    captions, pictures = list[tuple[str, str]](), torch.empty(count, 2, 3, SIZE, SIZE, dtype=torch.uint8)
    paired, shown, named = torch.empty(count, dtype=torch.bool), *torch.empty(2, count, 2, dtype=torch.int64)
    numbers: dict[tuple[str, ...], int] = {}
    with ProcessPoolExecutor(workers) as processes:
        for each in itertools.chain.from_iterable(processes.map(_draw_all, jobs)):
            row = len(captions)
            captions.append((each.caption.caption, each.wrong_caption.caption))
            drawn = np.stack([each.picture, each.wrong_picture])
            pictures[row] = torch.from_numpy(drawn).permute(0, 3, 1, 2)
            paired[row] = each.paired
            for side, objects in enumerate((each.placed, each.wrong_placed)):
                shown[row, side] = _number(numbers, [one.item for one in objects])
            for side, scene in enumerate((each.caption, each.wrong_caption)):
                named[row, side] = _number(numbers, scene.objects)
    return Pool(tuple(captions), pictures, paired, shown, named)


def _number(numbers: dict[tuple[str, ...], int], objects: Sequence[Object]) -> int:
    return numbers.setdefault(tuple(sorted(map(str, objects))), len(numbers))
