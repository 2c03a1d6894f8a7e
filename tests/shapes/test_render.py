from __future__ import annotations

import random

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from probe_lab.shapes.captions import SHAPES, Object, sample_scene
from probe_lab.shapes.render import GAP, GROUND, MARGIN, PALETTE, SIZE, Placed, coverage, draw, place, render


@settings(max_examples=60, deadline=None)
@given(st.integers(0, 2**32))
def test_layouts_hold_what_the_caption_says(seed: int) -> None:
    rng = random.Random(seed)
    scene = sample_scene(rng)
    placed = place(scene, rng)
    assert [p.item for p in placed] == list(scene.objects)
    for p in placed:
        assert p.x - p.radius >= GAP
        assert p.x + p.radius <= SIZE - GAP
        assert p.y - p.radius >= GAP
        assert p.y + p.radius <= SIZE - GAP
    for i, a in enumerate(placed):
        for b in placed[:i]:
            assert max(abs(a.x - b.x), abs(a.y - b.y)) >= a.radius + b.radius + GAP
    for relation in scene.relations:
        a, b = placed[relation.subject], placed[relation.reference]
        assert (b.x - a.x if relation.kind == "left of" else b.y - a.y) >= MARGIN


@pytest.mark.parametrize("shape", SHAPES)
def test_area_and_colour_are_exact(shape: str) -> None:
    placed = Placed(Object("blue", shape), 32.0, 32.0, 10.0)  # type: ignore[arg-type]
    area = {"circle": np.pi * 100, "square": 17.6**2, "triangle": 200, "cross": 2 * 20 * 7.2 - 7.2**2}[shape]
    assert coverage(placed).sum() == pytest.approx(area, rel=0.02)
    picture = draw([placed])
    assert tuple(picture[34, 32]) == PALETTE["blue"]
    assert tuple(picture[2, 2]) == GROUND


def test_later_objects_cover_earlier_ones_and_the_seed_fixes_the_picture() -> None:
    under, over = Placed(Object("red", "square"), 30, 30, 10), Placed(Object("cyan", "circle"), 30, 30, 6)
    assert tuple(draw([under, over])[30, 30]) == PALETTE["cyan"]
    scene = sample_scene(random.Random(1))
    assert np.array_equal(render(scene, random.Random(2)), render(scene, random.Random(2)))
    assert not np.array_equal(render(scene, random.Random(2)), render(scene, random.Random(3)))
