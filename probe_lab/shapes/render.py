"""Draw a scene: flat, anti-aliased shapes on a light ground, placed as the caption asks and never touching."""

from __future__ import annotations

import random
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from probe_lab.shapes.captions import Colour, Object, Scene, Shape

SIZE = 64
"""Side of a picture, in pixels."""

GROUND = (238, 238, 234)
PALETTE: dict[Colour, tuple[int, int, int]] = {
    "red": (214, 40, 40),
    "green": (34, 153, 60),
    "blue": (38, 70, 214),
    "yellow": (242, 196, 18),
    "purple": (146, 44, 176),
    "cyan": (28, 190, 206),
}

MIN_RADIUS, MAX_RADIUS = 8.0, 13.0
"""A shape's radius in pixels: half the side of the box that it fits in."""

GAP = 2.5
"""Free pixels between two shapes, and between a shape and the frame's border."""

MARGIN = 9.0
"""Pixels by which a relation must hold between the two centres."""


@dataclass(frozen=True)
class Placed:
    """An object with its centre (x to the right, y down) and radius, in pixels."""

    item: Object
    x: float
    y: float
    radius: float


def signed_distance(shape: Shape, x: NDArray[np.float32], y: NDArray[np.float32], radius: float) -> NDArray[np.float32]:
    """Distance in pixels of points ``(x, y)``, relative to the centre, from the outline: below zero is inside.

    Exact for the circle; exact near the outline, which is all that anti-aliasing needs, for the others.
    """
    if shape == "circle":
        return np.hypot(x, y) - np.float32(radius)
    if shape == "square":
        return np.maximum(np.abs(x), np.abs(y)) - np.float32(0.88 * radius)
    if shape == "triangle":  # apex up, fitting the box of side 2 * radius
        side = (2 * np.abs(x) - (y + radius)) / np.float32(np.sqrt(5.0))
        return np.maximum(side, y - np.float32(radius))
    arm = np.float32(0.36 * radius)  # cross: two bars, the union of two boxes
    bars = np.minimum(np.maximum(np.abs(x) - radius, np.abs(y) - arm), np.maximum(np.abs(y) - radius, np.abs(x) - arm))
    return bars.astype(np.float32)


def coverage(placed: Placed, size: int = SIZE) -> NDArray[np.float32]:
    """How much of each pixel the shape covers: float32 [size, size] in 0..1."""
    ys, xs = np.mgrid[0:size, 0:size].astype(np.float32) + 0.5
    return np.clip(0.5 - signed_distance(placed.item.shape, xs - placed.x, ys - placed.y, placed.radius), 0, 1)


def draw(objects: list[Placed], size: int = SIZE) -> NDArray[np.uint8]:
    """Paint the objects in order: uint8 [size, size, 3] RGB."""
    canvas = np.empty((size, size, 3), np.float32)
    canvas[:] = GROUND
    for placed in objects:
        alpha = coverage(placed, size)[..., None]
        canvas += alpha * (np.asarray(PALETTE[placed.item.colour], np.float32) - canvas)
    return np.round(canvas).astype(np.uint8)


def _fits(scene: Scene, placed: list[Placed]) -> bool:
    """Whether the newest object keeps its distance from the others and stands as its links ask."""
    new, index = placed[-1], len(placed) - 1
    for other in placed[:-1]:
        # Boxes, not circles: a square's corners reach further than its radius.
        if max(abs(new.x - other.x), abs(new.y - other.y)) < new.radius + other.radius + GAP:
            return False
    for relation in scene.relations:
        if relation.reference == index:
            before = placed[relation.subject]
            moved = new.x - before.x if relation.kind == "left of" else new.y - before.y
            if moved < MARGIN:
                return False
    return True


def place(scene: Scene, rng: random.Random, size: int = SIZE) -> list[Placed]:
    """A random layout that satisfies the caption, by rejection: objects that cannot be placed restart the layout."""
    while True:
        placed: list[Placed] = []
        # Four large shapes rarely fit: shrink the upper bound with the number of objects.
        largest = MAX_RADIUS - 1.2 * (len(scene.objects) - 1)
        for item in scene.objects:
            for _ in range(40):
                radius = rng.uniform(MIN_RADIUS, largest)
                low, high = radius + GAP, size - radius - GAP
                placed.append(Placed(item, rng.uniform(low, high), rng.uniform(low, high), radius))
                if _fits(scene, placed):
                    break
                placed.pop()
            else:
                break
        if len(placed) == len(scene.objects):
            return placed


def render(scene: Scene, rng: random.Random, size: int = SIZE) -> NDArray[np.uint8]:
    """A random picture of the scene: uint8 [size, size, 3] RGB."""
    return draw(place(scene, rng, size), size)
