"""Captions of the shapes world with one mistake, and whether a caption is true of a picture.

A caption is true when it names everything that is there and nothing else, and all its relations hold: the notion of
the exact rewards.
"""

from __future__ import annotations

import itertools
import random
from collections import Counter
from collections.abc import Sequence
from dataclasses import replace
from functools import lru_cache
from typing import Literal, get_args

from probe_lab.shapes.captions import COLOURS, LINKS, MAX_OBJECTS, SHAPES, Link, Object, Scene, sample_captions
from probe_lab.shapes.render import Placed

HELD_OUT_SEED, HELD_OUT = 1_000_000, 2000
"""The prompts of the repository's experiments: the first captions of this seed, of which the largest experiment takes
2000. All captions of a single object are among them."""

Mistake = Literal["recolour", "reshape", "swap", "drop", "add", "double", "repeat", "relation"]
MISTAKES: tuple[Mistake, ...] = get_args(Mistake)
OFTEN: dict[Mistake, float] = {
    "recolour": 1,
    "reshape": 2,
    "swap": 2,
    "drop": 1,
    "add": 0.5,
    "double": 1,
    "repeat": 1,
    "relation": 6,
}


def describes(scene: Scene, placed: Sequence[Placed]) -> bool:
    """Whether the caption is true of a picture of these objects, in whatever order they are listed."""
    if Counter(scene.objects) != Counter(each.item for each in placed):
        return False
    where = {each.item: each for each in placed}
    ends = ((where[scene.objects[r.subject]], r.kind, where[scene.objects[r.reference]]) for r in scene.relations)
    return all((a.x < b.x) if kind == "left of" else (a.y < b.y) for a, kind, b in ends)


@lru_cache(maxsize=1)
def held_out() -> frozenset[str]:
    """Captions that training never sees, neither right nor wrong."""
    return frozenset(itertools.islice(sample_captions(HELD_OUT_SEED), HELD_OUT))


def is_caption(scene: Scene) -> bool:
    """Whether the grammar has the scene: 1 to 4 objects, no two alike."""
    return len(set(scene.objects)) == len(scene.objects) <= MAX_OBJECTS


def make_mistake(scene: Scene, mistake: Mistake, rng: random.Random) -> Scene | None:
    """The scene with one mistake; None where it cannot be made. The grammar need not have the result.

    Another relation, or two colours swapped, can be as true of a picture as before: ask ``describes``.
    """
    objects, links = list(scene.objects), list(scene.links)
    one = rng.randrange(len(objects))
    colour, shape = objects[one].colour, objects[one].shape
    if mistake == "recolour":
        objects[one] = Object(rng.choice([other for other in COLOURS if other != colour]), shape)
    elif mistake == "reshape":
        objects[one] = Object(colour, rng.choice([other for other in SHAPES if other != shape]))
    elif mistake == "add":
        objects.append(Object(rng.choice(COLOURS), rng.choice(SHAPES)))
        links.append(rng.choice(LINKS))
    elif mistake == "double":
        objects.append(objects[one])
        links.append("and")
    elif len(objects) == 1:
        return None
    elif mistake == "drop":
        del objects[one], links[min(one, len(links) - 1)]
    elif mistake == "relation":
        _relate_otherwise(objects, links, rng)
    else:
        other = rng.choice([index for index in range(len(objects)) if index != one])
        if mistake == "swap":
            objects[one] = replace(objects[one], colour=objects[other].colour)
            objects[other] = replace(objects[other], colour=colour)
        else:  # one object stands twice, in the place of another
            objects[other] = objects[one]
    return Scene(tuple(objects), tuple(links))


def _relate_otherwise(objects: list[Object], links: list[Link], rng: random.Random) -> None:
    """Turn a relation round, mostly, or put another link in its place."""
    at = rng.randrange(len(links))
    if links[at] != "and" and rng.random() < 0.7:
        objects[at], objects[at + 1] = objects[at + 1], objects[at]
    else:
        links[at] = rng.choice([link for link in LINKS if link != links[at]])


def any_mistake(rng: random.Random) -> Mistake:
    """The hard ones more often: positions take a model the longest to learn."""
    return rng.choices(MISTAKES, [OFTEN[mistake] for mistake in MISTAKES])[0]


def wrong_caption(scene: Scene, placed: Sequence[Placed], mistake: Mistake, rng: random.Random) -> Scene | None:
    """A caption close to ``scene`` that is not true of the picture; None if the mistake made none."""
    wrong = make_mistake(scene, mistake, rng)
    return wrong if wrong and is_caption(wrong) and not describes(wrong, placed) else None
