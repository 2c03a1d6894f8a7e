from __future__ import annotations

import itertools
import random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from probe_lab.errors import ConfigError
from probe_lab.shapes.captions import COLOURS, LINKS, SHAPES, Relation, parse_caption, sample_captions, sample_scene


def test_the_example_of_the_design_parses() -> None:
    scene = parse_caption("a red circle and a blue square left of a green cross")
    assert [str(item) for item in scene.objects] == ["a red circle", "a blue square", "a green cross"]
    assert scene.relations == (Relation(1, "left of", 2),)


@given(st.integers(0, 2**32))
def test_caption_and_scene_are_inverse(seed: int) -> None:
    scene = sample_scene(random.Random(seed))
    assert parse_caption(scene.caption) == scene
    assert len(set(scene.objects)) == len(scene.objects) <= 4


def test_captions_are_distinct_seeded_and_a_prefix_of_longer_lists() -> None:
    first = list(itertools.islice(sample_captions(3), 500))
    assert len(set(first)) == 500
    assert first[:100] == list(itertools.islice(sample_captions(3), 100))
    assert first != list(itertools.islice(sample_captions(4), 500))
    text = " ".join(first)
    assert all(word in text for word in (*COLOURS, *SHAPES, *LINKS))
    assert {len(parse_caption(caption).objects) for caption in first} == {1, 2, 3, 4}


@pytest.mark.parametrize(
    ("caption", "message"),
    [
        ("a rad circle", "did you mean 'red'"),
        ("a red cirle", "did you mean 'circle'"),
        ("a red circle beside a blue square", "is no link"),
        ("red circle", "is no shapes caption"),
        ("", "names 0 objects"),
        (" and ".join(["a red circle"] * 5), "names 5 objects"),
    ],
)
def test_other_text_is_refused(caption: str, message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        parse_caption(caption)
