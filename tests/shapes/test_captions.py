from __future__ import annotations

import itertools
import random
import re
from collections import Counter

import pytest
from hypothesis import given
from hypothesis import strategies as st

from probe_lab.errors import ConfigError
from probe_lab.shapes.captions import (
    COLOURS,
    LINKS,
    SHAPES,
    Object,
    Relation,
    Scene,
    canonical_caption,
    parse_caption,
    sample_captions,
    sample_scene,
)


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


def _described(scene: Scene) -> tuple[Counter[str], Counter[tuple[str, str, str]]]:
    objects = [str(item) for item in scene.objects]
    return Counter(objects), Counter((objects[r.subject], r.kind, objects[r.reference]) for r in scene.relations)


@given(st.integers(0, 2**32), st.integers(0, 2**32), st.randoms())
def test_a_canonical_caption_says_what_all_its_permutations_say(seed: int, other: int, rng: random.Random) -> None:
    scene = sample_scene(random.Random(seed))
    chains = re.split(r" and ", scene.caption)
    rng.shuffle(chains)
    turned = [_turned(chain) if rng.random() < 0.5 else chain for chain in chains]
    assert canonical_caption(" and ".join(turned)) == canonical_caption(scene.caption)
    # Captions of few kinds of objects, so that equal ones are common.
    few = [Scene(tuple(Object("red", shape) for shape in ("circle", "cross", "square")), links) for links in _LINKS]
    one, another = few[seed % len(few)], few[other % len(few)]
    same = canonical_caption(one.caption) == canonical_caption(another.caption)
    assert same == (_described(one) == _described(another))
    assert canonical_caption("a cat left of a dog") == ""


_LINKS = list(itertools.product(LINKS, repeat=2))


def _turned(chain: str) -> str:
    """The same from its other end."""
    mirrored = {"left of": "right of", "above": "below"}
    return " ".join(mirrored.get(part, part) for part in reversed(re.split(r" (left of|above) ", chain)))
