"""Captions of the shapes world: what may stand in a picture, as text and as a parsed scene.

Grammar: ``object (link object){0,3}``, with ``object = "a" colour shape`` and ``link = "and" | "left of" | "above"``.
A link speaks of its two neighbours only: in "a red circle and a blue square left of a green cross" the square is left
of the cross, and the circle may be anywhere. No two objects of a caption share both colour and shape.
"""

from __future__ import annotations

import random
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Literal, cast, get_args

from probe_lab.errors import ConfigError, nearest

Colour = Literal["red", "green", "blue", "yellow", "purple", "cyan"]
Shape = Literal["circle", "square", "triangle", "cross"]
Link = Literal["and", "left of", "above"]

COLOURS: tuple[Colour, ...] = get_args(Colour)
SHAPES: tuple[Shape, ...] = get_args(Shape)
LINKS: tuple[Link, ...] = get_args(Link)
MAX_OBJECTS = 4
_MIRRORED = {"left of": "right of", "right of": "left of", "above": "below", "below": "above"}
"""What says the same of two objects in the other order; ``right of`` and ``below`` are no links of the grammar."""


@dataclass(frozen=True)
class Object:
    """One thing that a caption asks for."""

    colour: Colour
    shape: Shape

    def __str__(self) -> str:
        return f"a {self.colour} {self.shape}"


_OBJECTS = tuple(Object(colour, shape) for colour in COLOURS for shape in SHAPES)


@dataclass(frozen=True)
class Relation:
    """``objects[subject]`` is ``kind`` of ``objects[reference]``; the distance is measured between centres."""

    subject: int
    kind: Literal["left of", "above"]
    reference: int


@dataclass(frozen=True)
class Scene:
    """A parsed caption: 1 to 4 objects and the link between each one and the next (``len(objects) - 1`` of them)."""

    objects: tuple[Object, ...]
    links: tuple[Link, ...]

    @property
    def caption(self) -> str:
        words = [str(self.objects[0])]
        for link, item in zip(self.links, self.objects[1:], strict=True):
            words += [link, str(item)]
        return " ".join(words)

    @property
    def relations(self) -> tuple[Relation, ...]:
        return tuple(Relation(i, link, i + 1) for i, link in enumerate(self.links) if link != "and")


def parse_caption(caption: str) -> Scene:
    """The scene that a caption describes.

    Raises:
        ConfigError: the text is not of the grammar above.
    """
    objects, links = _parsed(caption, LINKS)
    return Scene(tuple(objects), cast(tuple[Link, ...], tuple(links)))


def canonical_caption(caption: str) -> str:
    """The alphabetically first text with the same objects and relations; "" for what is no caption.

    Beside the links of the grammar, "right of" and "below" are understood. "and" parts a caption into chains of related
    objects: neither the order of the chains nor the end from which one is read changes the picture.
    """
    try:
        objects, links = _parsed(caption, (*LINKS, *sorted({*_MIRRORED} - {*LINKS})))
    except ConfigError:
        return ""
    starts = [0, *(place + 1 for place, link in enumerate(links) if link == "and")]
    ends = [*starts[1:], len(objects)]
    chains = [_chain(objects[start:end], links[start : end - 1]) for start, end in zip(starts, ends, strict=True)]
    return " and ".join(sorted(chains))


def _chain(objects: Sequence[Object], links: Sequence[str]) -> str:
    forward = [str(objects[0])]
    backward = [str(objects[-1])]
    for link, item in zip(links, objects[1:], strict=True):
        forward += [link, str(item)]
    for link, item in zip(reversed(links), reversed(objects[:-1]), strict=True):
        backward += [_MIRRORED[link], str(item)]
    return min(" ".join(forward), " ".join(backward))


def _parsed(caption: str, allowed: Sequence[str]) -> tuple[list[Object], list[str]]:
    """Objects and the links between them. ConfigError for what is no caption with the ``allowed`` links."""
    words = caption.lower().replace(",", " ").split()
    objects: list[Object] = []
    links: list[str] = []
    while words:
        if objects:
            length = 2 if words[1:2] == ["of"] else 1
            link = " ".join(words[:length])
            if link not in allowed:
                raise ConfigError(f"'{link}' in the caption '{caption}' is no link: {nearest(link, allowed)}")
            links.append(link)
            words = words[length:]
        if words[:1] not in (["a"], ["an"]) or len(words) < 3:
            raise ConfigError(f"'{caption}' is no shapes caption: an object reads 'a COLOUR SHAPE'")
        colour, shape = words[1:3]
        if colour not in COLOURS:
            raise ConfigError(f"'{colour}' in the caption '{caption}' is no colour: {nearest(colour, COLOURS)}")
        if shape not in SHAPES:
            raise ConfigError(f"'{shape}' in the caption '{caption}' is no shape: {nearest(shape, SHAPES)}")
        objects.append(Object(colour, shape))
        words = words[3:]
    if not 1 <= len(objects) <= MAX_OBJECTS:
        raise ConfigError(f"'{caption}' names {len(objects)} objects, allowed are 1 to {MAX_OBJECTS}")
    return objects, links


def sample_scene(rng: random.Random) -> Scene:
    """A random scene: 1 to 4 objects (weights 1 : 3 : 3 : 3), distinct in (colour, shape), links uniform."""
    count = rng.choices(range(1, MAX_OBJECTS + 1), weights=(1, 3, 3, 3))[0]
    return Scene(tuple(rng.sample(_OBJECTS, count)), tuple(rng.choice(LINKS) for _ in range(count - 1)))


def sample_captions(seed: int) -> Iterator[str]:
    """Endless distinct captions, the same for the same seed: the first ``n`` of a longer list are the list of ``n``."""
    rng = random.Random(seed)
    seen: set[str] = set()
    while True:
        caption = sample_scene(rng).caption
        if caption not in seen:
            seen.add(caption)
            yield caption
