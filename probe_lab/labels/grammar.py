"""Edits of a scene of the shapes world that change what its caption asks for."""

from __future__ import annotations

import random
from collections.abc import Callable, Mapping
from dataclasses import replace

from probe_lab.shapes.captions import COLOURS, LINKS, MAX_OBJECTS, SHAPES, Object, Scene

SceneEdit = Callable[[Scene, random.Random], Scene | None]
"""None where the scene cannot be edited so."""


def edited(scene: Scene, edit: str, rng: random.Random) -> Scene | None:
    """The scene after one of ``EDITS``, the same scene where that changes nothing: two objects of one colour exchange
    their colours, say. None where it cannot be made, or two objects would be alike."""
    changed = EDITS[edit](scene, rng)
    return changed if changed and len(set(changed.objects)) == len(changed.objects) else None


def _colour(scene: Scene, rng: random.Random) -> Scene:
    place = rng.randrange(len(scene.objects))
    own = scene.objects[place]
    return _with(scene, {place: replace(own, colour=rng.choice([each for each in COLOURS if each != own.colour]))})


def _shape(scene: Scene, rng: random.Random) -> Scene:
    place = rng.randrange(len(scene.objects))
    own = scene.objects[place]
    return _with(scene, {place: replace(own, shape=rng.choice([each for each in SHAPES if each != own.shape]))})


def _link(scene: Scene, rng: random.Random) -> Scene | None:
    if not scene.links:
        return None
    links = list(scene.links)
    place = rng.randrange(len(links))
    links[place] = rng.choice([each for each in LINKS if each != links[place]])
    return replace(scene, links=tuple(links))


def _swap(scene: Scene, rng: random.Random) -> Scene | None:
    """Two objects change places."""
    if len(scene.objects) < 2:
        return None
    first, second = rng.sample(range(len(scene.objects)), 2)
    return _with(scene, {first: scene.objects[second], second: scene.objects[first]})


def _rebind(scene: Scene, rng: random.Random) -> Scene | None:
    """Two objects exchange their colours."""
    if len(scene.objects) < 2:
        return None
    first, second = rng.sample(range(len(scene.objects)), 2)
    one, other = scene.objects[first], scene.objects[second]
    return _with(scene, {first: Object(other.colour, one.shape), second: Object(one.colour, other.shape)})


def _drop(scene: Scene, rng: random.Random) -> Scene | None:
    if len(scene.objects) < 2:
        return None
    objects, links = list(scene.objects), list(scene.links)
    place = rng.randrange(len(objects))
    del objects[place], links[min(place, len(links) - 1)]
    return Scene(tuple(objects), tuple(links))


def _add(scene: Scene, rng: random.Random) -> Scene | None:
    if len(scene.objects) == MAX_OBJECTS:
        return None
    kinds = [Object(colour, shape) for colour in COLOURS for shape in SHAPES]
    further = rng.choice([kind for kind in kinds if kind not in scene.objects])
    return Scene((*scene.objects, further), (*scene.links, rng.choice(LINKS)))


def _single(scene: Scene, rng: random.Random) -> Scene:
    """One of the objects alone."""
    return Scene((rng.choice(scene.objects),), ())


def _pair(scene: Scene, rng: random.Random) -> Scene | None:
    """Two of the objects, in either order and with any link: of the longer captions, few say how these two lie."""
    if len(scene.objects) < 2:
        return None
    first, second = rng.sample(scene.objects, 2)
    return Scene((first, second), (rng.choice(LINKS),))


def _with(scene: Scene, objects: Mapping[int, Object]) -> Scene:
    return replace(scene, objects=tuple(objects.get(place, own) for place, own in enumerate(scene.objects)))


EDITS: Mapping[str, SceneEdit] = {
    "colour": _colour,
    "shape": _shape,
    "link": _link,
    "swap": _swap,
    "rebind": _rebind,
    "drop": _drop,
    "add": _add,
    "single": _single,
    "pair": _pair,
}

DRAWN = (*EDITS, *("pair",) * 4, "single")
"""Edits as they are drawn. Short captions are drawn more often: what one object looks like has to be learnt before
anything else can be, and how two of them lie is what is learnt last."""
