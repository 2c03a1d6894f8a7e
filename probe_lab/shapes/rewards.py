"""Exact rewards of a picture of the shapes world: what the caption asks against the blobs that are there.

All lie in 0..1, need no model and are, as far as counting things allows, continuous in the picture. With n
objects asked, A the area of a blob, and its ``colour`` and ``shape`` matches from ``segment``:

* ``presence``: sum of colour * plausible(A) * exp(-2 * contact) over the best one-to-one assignment of
  objects to blobs, divided by max(n, number of blobs). Missing, touching, merged and extra objects all lower
  it; the shape does not matter.
* ``binding``: mean over the objects of colour * shape in the best assignment: a swapped colour or shape is
  found nowhere, a missing object counts 0, extra ones do not matter.
* ``layout``: mean over the relations of sigmoid(margin / 2 px) * sqrt(colour match of both), where the margin
  is how far the centroids stand as asked. A missing object makes its relations 0. A caption without relations
  asks for free-standing objects: "lies inside the frame" averaged over the objects and, with two or more,
  "keeps its distance" averaged over the pairs, half each; both are sigmoids of the free pixels.
* ``fidelity``: sqrt(flat ground * flat paint * sharp outlines), whatever is painted; see ``_fidelity``.
* ``shapes_reward``: 0.3 presence + 0.35 binding + 0.2 layout + 0.15 fidelity.

Which blob is which object may be ambiguous (two red shapes, half formed): layout is the expectation over all
assignments, weighted by their evidence. Whether two shapes of one colour are one blob or two is a jump by
nature, so all but fidelity are means over three opacity levels at which the picture is cut.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, fields
from functools import lru_cache
from itertools import combinations, permutations

import numpy as np
from numpy.typing import NDArray
from scipy.optimize import linear_sum_assignment

from probe_lab.shapes.captions import COLOURS, SHAPES, Scene
from probe_lab.shapes.segment import Blobs, Float32Array, Ints, Surface, read_pixels, segment, surface

LEVELS = (0.5, 0.4, 0.6)
"""Opacities at which the picture is cut; fidelity is measured on the first cut."""

WEIGHTS = {"presence": 0.3, "binding": 0.35, "layout": 0.2, "fidelity": 0.15}
"""The blend ``shapes_reward``."""

SMALL, FULL, LARGE, HUGE = 20.0, 80.0, 450.0, 1000.0
"""Areas in pixels: the renderer draws 98 to 380. Between ``SMALL`` and ``FULL`` an object begins to count;
between ``LARGE`` and ``HUGE`` it stops being one object."""

RELATION_SOFTNESS = 2.0
"""Pixels of margin per unit of the layout sigmoid; the renderer leaves at least 9."""

MAX_CANDIDATES = 6
"""Blobs that may be an object, when layout weighs all assignments: 6 blobs and 4 objects have 360."""


@dataclass(frozen=True)
class Rewards:
    """The five rewards of one picture, each in 0..1."""

    presence: float
    binding: float
    layout: float
    fidelity: float
    shapes_reward: float


REWARDS: tuple[str, ...] = tuple(field.name for field in fields(Rewards))


def rewards(image: NDArray[np.uint8], scene: Scene) -> Rewards:
    """Score ``image`` (uint8 [H, W, 3] RGB, any size; sizes of objects are pixels) against ``scene``."""
    return scene_rewards(image, [scene])[0]


def scene_rewards(image: NDArray[np.uint8], scenes: Sequence[Scene]) -> list[Rewards]:
    """As ``rewards``, against each of ``scenes``: the picture is segmented once."""
    pixels = read_pixels(image)
    cuts = [segment(pixels, level) for level in LEVELS]
    fidelity = _fidelity(surface(pixels, cuts[0]))
    scored = []
    for scene in scenes:
        scores = np.mean([blob_rewards(cut.blobs, scene, image.shape[:2]) for cut in cuts], axis=0)
        presence, binding, layout = (float(score) for score in scores)
        parts = {"presence": presence, "binding": binding, "layout": layout, "fidelity": fidelity}
        scored.append(Rewards(**parts, shapes_reward=sum(WEIGHTS[name] * score for name, score in parts.items())))
    return scored


def blob_rewards(blobs: Blobs, scene: Scene, size: tuple[int, ...]) -> tuple[float, float, float]:
    """Presence, binding and layout of one cut of a picture of ``size`` (height, width)."""
    colour = blobs.colour[:, [COLOURS.index(item.colour) for item in scene.objects]].T
    shape = blobs.shape[:, [SHAPES.index(item.shape) for item in scene.objects]].T
    there = _smooth((blobs.area - SMALL) / (FULL - SMALL))  # [K]: 0 for a speck, 1 for an object
    count = len(scene.objects)

    single = there * _smooth((HUGE - blobs.area) / (HUGE - LARGE)) * np.exp(-2 * blobs.contact)
    presence = _assigned(colour * single) / max(count, float(there.sum()))
    binding = _assigned(colour * shape * there) / count
    return presence, binding, _layout(blobs, colour * there, shape, scene, size)


def _smooth(value: Float32Array) -> NDArray[np.floating]:
    """Smooth step: 0 up to 0, 1 from 1, without a kink."""
    clipped = np.clip(value, 0, 1)
    stepped: NDArray[np.floating] = clipped * clipped * (3 - 2 * clipped)
    return stepped


def _sigmoid(value: Float32Array) -> NDArray[np.floating]:
    curve: NDArray[np.floating] = 1 / (1 + np.exp(-np.clip(value, -30, 30)))
    return curve


def _assigned(credit: Float32Array) -> float:
    """The largest sum of ``credit`` [objects, blobs] when each object gets a blob of its own."""
    return float(credit[linear_sum_assignment(credit, maximize=True)].sum())


@lru_cache(maxsize=32)
def _assignments(count: int, blobs: int) -> Ints:
    """Every way to give each of ``count`` objects its own blob: intp [ways, count]."""
    return np.asarray(list(permutations(range(blobs), count)), np.intp)


def _layout(blobs: Blobs, colour: Float32Array, shape: Float32Array, scene: Scene, size: tuple[int, ...]) -> float:
    """Expected layout.

    ``colour`` and ``shape`` are the matches [objects, blobs], colour weighted by the size.
    """
    count = len(scene.objects)
    # The colour tells the objects apart; the shape decides only between blobs of one colour.
    evidence = colour * (0.2 + 0.8 * shape)
    likely = np.argsort(-evidence.max(axis=0), kind="stable")[:MAX_CANDIDATES]
    blobs, absent = blobs.take(likely), max(0, count - len(likely))
    # The last ``absent`` blobs stand for "not in the picture".
    ways = _assignments(count, len(likely) + absent)
    objects = np.arange(count)
    chosen = _with_absent(evidence[:, likely], absent)[objects, ways]
    weight = np.prod(chosen + 1e-3, axis=1) ** 2
    weight /= weight.sum()
    present = _with_absent(colour[:, likely], absent)[objects, ways]  # [ways, objects]
    x, y, area = (_with_absent(values, absent)[ways] for values in (blobs.x, blobs.y, blobs.area))

    if scene.relations:
        held = np.zeros(len(ways))
        for relation in scene.relations:
            i, j = relation.subject, relation.reference
            margin = x[:, j] - x[:, i] if relation.kind == "left of" else y[:, j] - y[:, i]
            held += np.sqrt(present[:, i] * present[:, j]) * _sigmoid(margin / RELATION_SOFTNESS)
        return float(weight @ held) / len(scene.relations)

    radius = np.sqrt(area / np.pi)
    height, width = size
    border = np.minimum(np.minimum(x, width - x), np.minimum(y, height - y)) - radius
    standing = (present * _sigmoid(border + 2)).mean(axis=1)
    pairs = list(combinations(range(count), 2))
    if pairs:
        i, j = np.asarray(pairs).T
        free = np.hypot(x[:, i] - x[:, j], y[:, i] - y[:, j]) - radius[:, i] - radius[:, j]
        apart = np.sqrt(present[:, i] * present[:, j]) * _sigmoid((free + 3) / 2)
        standing = (standing + apart.mean(axis=1)) / 2
    return float(weight @ standing)


def _with_absent(values: Float32Array, absent: int) -> Float32Array:
    """``values`` of blobs (last axis) followed by zeros for ``absent`` blobs that are not there."""
    return np.concatenate([values, np.zeros((*values.shape[:-1], absent), np.float32)], axis=-1)


def _fidelity(found: Surface) -> float:
    """Square root of flatness times sharpness.

    Flatness falls to 1/e at a mean RGB error of 40 (ground) or 60 (paint), sharpness to 1/2 at an edge width
    of 2, where 0.5 to 0.9 is drawn.
    """
    flat = np.exp(-found.ground_error / 40 - found.inside_error / 60)
    sharp = 1 / (1 + (found.edge_width / 2) ** 4)
    return float(np.sqrt(flat * sharp))
