"""Cut a picture of the shapes world into blobs, and measure each blob softly.

Every pixel is read as ``ground + opacity * (colour - ground)`` for the palette colour whose ray from the
ground it is nearest to. That reading is linear, so that anti-aliased and blurred outlines are not mistaken
for other colours (half way from the ground to red lies nearer to the colour yellow than to red, but not
nearer to its ray). Blobs are the connected pixels of one colour above an opacity level; all their measures
come from the opacities themselves and are therefore continuous in the picture, up to pixels that join or
leave a blob.
"""

from __future__ import annotations

from dataclasses import dataclass, fields
from functools import lru_cache
from typing import TypeVar

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage

from probe_lab.shapes.captions import COLOURS, SHAPES, Shape
from probe_lab.shapes.render import GROUND, PALETTE, signed_distance

Float32Array = NDArray[np.float32]
Ints = NDArray[np.intp]
Number = TypeVar("Number", bound=np.generic)

SPECK_AREA = 12
"""Blobs of fewer pixels are specks: dropped here, and counted against the flatness of the ground."""

MAX_BLOBS = 12
"""Only the largest blobs are kept: a noisy picture has hundreds."""

COLOUR_SCALE = 80.0
"""RGB distance (Euclidean, 0..441) at which the colour match has fallen to 1/e; the palette's nearest pair is
117 apart."""

SHAPE_SHARPNESS = 0.013
"""Difference of two shapes' similarities that makes one e times as likely as the other."""

SHAPE_FLOOR, SHAPE_FULL = 0.84, 0.98
"""Similarity to the best template at which a blob begins to count as a shape, and from which it counts in
full."""

_GROUND = np.asarray(GROUND, np.float32)
_RAYS = np.asarray([PALETTE[colour] for colour in COLOURS], np.float32) - _GROUND
_LENGTHS = np.linalg.norm(_RAYS, axis=1)
_IN_PLANE = np.zeros((3, 3, 3), bool)  # connects a pixel with its 4 neighbours of the same colour
_IN_PLANE[1] = ndimage.generate_binary_structure(2, 1)

_GRID = 24  # samples per side of a blob's normalised patch
_REACH = 1.05  # half the patch's side over the square root of the blob's area: a triangle's apex fits in


@dataclass(frozen=True)
class Pixels:
    """What each pixel shows, before any grouping.

    Attributes:
        offset: float32 [H, W, 3], RGB minus the ground.
        colour: intp [H, W], index into ``COLOURS`` of the nearest ray, read from the slightly smoothed
            picture.
        opacity: float32 [H, W, 6] in 0..1, how far along each colour's ray the pixel lies.
    """

    offset: Float32Array
    colour: Ints
    opacity: Float32Array


@dataclass(frozen=True)
class Blobs:
    """The K blobs of a picture at one opacity level; every array's first axis is the blob, in no meaningful
    order.

    Attributes:
        x, y: float32 [K], centroid in pixels, y down.
        area: float32 [K], pixels, the sum of opacities.
        colour: float32 [K, 6] in 0..1, match of the mean colour with each of ``COLOURS``.
        shape: float32 [K, 4] in 0..1, match of the outline with each of ``SHAPES``.
        contact: float32 [K] in 0..1, share of the outline that touches other blobs.
    """

    x: Float32Array
    y: Float32Array
    area: Float32Array
    colour: Float32Array
    shape: Float32Array
    contact: Float32Array

    def __len__(self) -> int:
        return len(self.x)

    def take(self, order: Ints) -> Blobs:
        """The blobs ``order`` (intp [n]), in that order."""
        return Blobs(*(getattr(self, field.name)[order] for field in fields(self)))


@dataclass(frozen=True)
class SegmentedPicture:
    """A picture cut into blobs.

    Attributes:
        labels: intp [H, W], the number (from 1) of the blob whose solid part covers the pixel; 0 for none.
        owner: intp [H, W], the same with each blob's faint outer edge.
        mask: float32 [H, W] in 0..1, the pixel's opacity relative to its owner's; 0 outside all blobs.
        of_blob: intp [K], the palette colour of blob ``number`` at ``number - 1``.
        blobs: the measures of the K blobs, in the same order.
    """

    labels: Ints
    owner: Ints
    mask: Float32Array
    of_blob: Ints
    blobs: Blobs


@dataclass(frozen=True)
class Surface:
    """How cleanly a picture is painted.

    Attributes:
        ground_error: mean RGB distance of the pixels outside all blobs from the ground's colour.
        inside_error: mean RGB distance of the blobs' inner pixels from their palette colour.
        edge_width: in-between pixels per pixel of outline: 0.5 to 0.9 as drawn, growing with the
            blur.
    """

    ground_error: float
    inside_error: float
    edge_width: float


def read_pixels(image: NDArray[np.uint8]) -> Pixels:
    """Read every pixel of ``image`` (uint8 [H, W, 3]) as a colour and opacities."""
    offset = image.astype(np.float32) - _GROUND
    # The colour is decided on a 3 x 3 binomial mean: one noisy pixel must not tear a hole into a blob.
    padded = np.pad(offset, ((1, 1), (1, 1), (0, 0)), mode="edge")
    rows = padded[:-2] + 2 * padded[1:-1] + padded[2:]
    smooth = rows[:, :-2] + 2 * rows[:, 1:-1] + rows[:, 2:]
    units = (_RAYS / _LENGTHS[:, None]).T
    opacity = np.clip(offset @ (units / _LENGTHS), 0, 1)
    return Pixels(offset, (smooth @ units).argmax(2), opacity)


def segment(pixels: Pixels, level: float) -> SegmentedPicture:
    """Cut out the blobs of opacity above ``level`` (0..1)."""
    height, width = pixels.colour.shape
    flat = pixels.opacity.reshape(-1, len(COLOURS))
    labels, of_blob = _label(pixels, flat[np.arange(len(flat)), pixels.colour.ravel()] > level)
    count = len(of_blob)
    # Two more rings of pixels belong to the blob that they touch: its faint outer edge.
    owner = _grow(_grow(labels))
    at = np.flatnonzero(owner)
    number = owner.ravel()[at]
    own = flat[at, of_blob[number - 1]]
    solid = np.where(labels.ravel()[at] > 0, own, 0)

    square = solid * solid
    typical = _sums(number, square * solid, count) / _sums(number, square, count)
    # A pale blob is still a whole shape: opacities are relative to the blob's own.
    soft = np.clip(own / typical[number - 1], 0, 1)
    mask = np.zeros((height, width), np.float32)
    mask.ravel()[at] = soft
    area = _sums(number, soft, count)
    x = _sums(number, soft * (at % width + np.float32(0.5)), count) / area
    y = _sums(number, soft * (at // width + np.float32(0.5)), count) / area

    weight = square * square  # the anti-aliased rim says little about the paint
    paint = weight[:, None] * pixels.offset.reshape(-1, 3)[at]
    mean = np.stack([_sums(number, channel, count) for channel in paint.T], axis=1)
    distance = np.linalg.norm((mean / _sums(number, weight, count)[:, None])[:, None] - _RAYS, axis=2)
    blobs = Blobs(
        x=x,
        y=y,
        area=area,
        colour=np.exp(-((distance / COLOUR_SCALE) ** 2)),
        shape=_match_shapes(mask, owner, x, y, area),
        contact=np.clip(_contact(labels, count) / (2 * np.sqrt(np.pi * area)), 0, 1),
    )
    return SegmentedPicture(labels, owner, mask, of_blob, blobs)


def surface(pixels: Pixels, cut: SegmentedPicture) -> Surface:
    """How cleanly the blobs of ``cut`` and the ground around them are painted."""
    ground = np.linalg.norm(pixels.offset[cut.owner == 0], axis=1)
    padded = _framed(cut.labels)
    inner = cut.labels > 0
    for side in (padded[:-2, 1:-1], padded[2:, 1:-1], padded[1:-1, :-2], padded[1:-1, 2:]):
        inner &= side == cut.labels
    wanted = _RAYS[cut.of_blob[cut.labels[inner] - 1]]
    paint = np.linalg.norm(pixels.offset[inner] - wanted, axis=1)
    # The outline's length is the total variation of the mask, which blur leaves as it is: the band widens.
    across, down = np.diff(cut.mask, axis=1)[1:], np.diff(cut.mask, axis=0)[:, 1:]
    outline = float(np.hypot(across, down).sum())
    between = float((4 * cut.mask * (1 - cut.mask)).sum())
    # One imagined pixel at distance 100 keeps the means defined, and continuous, where there are no pixels.
    return Surface(
        ground_error=float((ground.sum() + 100) / (len(ground) + 1)),
        inside_error=float((paint.sum() + 100) / (len(paint) + 1)),
        edge_width=(between + 1) / (outline + 1),
    )


def _label(pixels: Pixels, solid: NDArray[np.bool_]) -> tuple[Ints, Ints]:
    """Blob numbers from 1 (0: none) as intp [H, W], and the colour index of each blob, intp [K]."""
    shape = pixels.colour.shape
    planes = (pixels.colour == np.arange(len(COLOURS))[:, None, None]) & solid.reshape(shape)
    numbered, count = ndimage.label(planes, _IN_PLANE)
    labels = numbered.max(axis=0)
    sizes = np.bincount(labels.ravel(), minlength=count + 1)
    sizes[0] = 0
    kept = np.argsort(-sizes, kind="stable")[:MAX_BLOBS]
    kept = kept[sizes[kept] >= SPECK_AREA]
    renumber = np.zeros(count + 1, np.intp)
    renumber[kept] = np.arange(1, len(kept) + 1)
    labels = renumber[labels]
    of_blob = np.zeros(len(kept) + 1, np.intp)
    of_blob[labels.ravel()] = pixels.colour.ravel()
    return labels, of_blob[1:]


def _framed(values: NDArray[Number]) -> NDArray[Number]:
    """``values`` with a frame of zeros, one pixel wide; np.pad takes ten times as long."""
    framed = np.zeros((values.shape[0] + 2, values.shape[1] + 2), values.dtype)
    framed[1:-1, 1:-1] = values
    return framed


def _grow(labels: Ints) -> Ints:
    """Give unowned pixels to a blob among their 4 neighbours."""
    padded = _framed(labels)
    near = np.maximum(np.maximum(padded[:-2, 1:-1], padded[2:, 1:-1]), np.maximum(padded[1:-1, :-2], padded[1:-1, 2:]))
    return np.where(labels > 0, labels, near)


def _sums(labels: Ints, values: Float32Array, count: int) -> Float32Array:
    """Sum of ``values`` over the pixels of each blob: float32 [K]."""
    return np.bincount(labels, values, minlength=count + 1)[1:].astype(np.float32)


def _contact(labels: Ints, count: int) -> Float32Array:
    """Pixels of outline at which each blob meets another, at most one pixel away: float32 [K]."""
    total = np.zeros(count + 1)
    if count < 2:
        return total[1:].astype(np.float32)
    for gap in (1, 2):
        for first, second in ((labels[:, gap:], labels[:, :-gap]), (labels[gap:], labels[:-gap])):
            meets = (first != second) & (first > 0) & (second > 0)
            if not meets.any():
                continue
            for side in (first, second):
                total += 0.5 * np.bincount(side[meets], minlength=count + 1)
    return total[1:].astype(np.float32)


@lru_cache(maxsize=1)
def _templates() -> Float32Array:
    """Unit vectors, float32 [4, variants, grid * grid]: each shape slightly stretched, scaled and moved."""
    fine = np.linspace(-1, 1, 241, dtype=np.float32)
    fx, fy = np.meshgrid(fine, fine)
    gx, gy = np.meshgrid(_ticks(), _ticks())

    def drawn(shape: Shape, radius: float, cx: float, cy: float, stretch: float) -> Float32Array:
        wide, high = gx * np.float32(stretch) + np.float32(cx), gy / np.float32(stretch) + np.float32(cy)
        distance = signed_distance(shape, wide, high, radius)
        soft: Float32Array = np.clip(0.5 - distance / 0.09, 0, 1).ravel()  # about one pixel of a shape of 11 x 11
        return soft

    bank = []
    for shape in SHAPES:
        body = signed_distance(shape, fx, fy, 0.9) < 0
        radius = 0.9 / float(np.sqrt(body.sum() / 120**2))  # of the shape whose area is 1
        middle = float(fy[body].mean()) * radius / 0.9
        bank.append(
            [
                drawn(shape, radius * scale, dx, middle + dy, stretch)
                for scale in (0.94, 1.0, 1.06)
                for stretch in (0.92, 1.0, 1.08)
                for dx in (-0.05, 0.0, 0.05)
                for dy in (-0.05, 0.0, 0.05)
            ]
        )
    stacked = np.asarray(bank, np.float32)
    stacked /= np.linalg.norm(stacked, axis=2, keepdims=True)
    return stacked


def _ticks() -> Float32Array:
    """Where a patch is sampled along either axis, in units of the square root of the blob's area."""
    return np.linspace(-_REACH, _REACH, _GRID, dtype=np.float32)


def shape_similarity(
    mask: Float32Array, owner: Ints, x: Float32Array, y: Float32Array, area: Float32Array
) -> Float32Array:
    """Cosine of each blob's mask with the best template of each shape, at its centroid and area: [K, 4]."""
    ticks = _ticks()
    side = np.sqrt(area)
    padded, owners = _framed(mask), _framed(owner)
    # Pixel 0, whose centre is at 0.5, is pixel 1 of the padded mask.
    column, fx = _split(x[:, None] + side[:, None] * ticks + np.float32(0.5), mask.shape[1])
    row, fy = _split(y[:, None] + side[:, None] * ticks + np.float32(0.5), mask.shape[0])
    number = np.arange(1, len(x) + 1)[:, None, None]
    patch = np.zeros((len(x), _GRID, _GRID), np.float32)
    for dy, wy in ((0, 1 - fy), (1, fy)):
        for dx, wx in ((0, 1 - fx), (1, fx)):
            index = (row + dy)[:, :, None], (column + dx)[:, None, :]
            patch += wy[:, :, None] * wx[:, None, :] * np.where(owners[index] == number, padded[index], 0)
    vectors = patch.reshape(len(x), -1)
    vectors /= np.maximum(np.linalg.norm(vectors, axis=1, keepdims=True), 1e-6)
    bank = _templates()
    similarity: Float32Array = (vectors @ bank.reshape(-1, _GRID * _GRID).T).reshape(len(x), len(SHAPES), -1).max(2)
    return similarity


def _split(position: NDArray[np.floating], size: int) -> tuple[Ints, Float32Array]:
    """Whole and fractional part of positions in an axis of ``size`` pixels padded by one on either side."""
    clipped = np.clip(position, 0, size + 0.999)
    whole = clipped.astype(np.intp)
    return np.minimum(whole, size), (clipped - whole).astype(np.float32)


def _match_shapes(
    mask: Float32Array, owner: Ints, x: Float32Array, y: Float32Array, area: Float32Array
) -> Float32Array:
    if not len(x):
        return np.zeros((0, len(SHAPES)), np.float32)
    similarity = shape_similarity(mask, owner, x, y, area)
    best = similarity.max(axis=1, keepdims=True)
    share = np.exp((similarity - best) / SHAPE_SHARPNESS)
    quality = np.clip((similarity - SHAPE_FLOOR) / (SHAPE_FULL - SHAPE_FLOOR), 0, 1)
    matched: Float32Array = quality * share / share.sum(axis=1, keepdims=True)
    return matched
