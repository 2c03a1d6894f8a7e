"""Altered captions: what each edit does, that they repeat for a seed, and that none gives a held-out prompt away."""

from __future__ import annotations

import hashlib
import itertools
import random
from collections import Counter

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from probe_lab.data.canonical import meaning
from probe_lab.data.splits import SplitFractions, split_of
from probe_lab.errors import ConfigError
from probe_lab.labels import grammar, words
from probe_lab.labels.alteration import Alteration, HeldOut, alter
from probe_lab.shapes.captions import LINKS, parse_caption, sample_captions

THIRDS = SplitFractions(0.4, 0.3, 0.3)
NOTHING = HeldOut(frozenset(), SplitFractions(1.0, 0.0, 0.0))
PHOTOS = (
    "A man riding a brown horse along the beach",
    "two small dogs asleep on a blue sofa",
    "a slice of pizza, with olives, on a white plate",
    "an old bus parked beside a red building",
)


@settings(max_examples=15, deadline=None)
@given(seed=st.integers(0, 10**6), how=st.sampled_from(["grammar", "prompts", "words and prompts"]))
def test_no_caption_says_what_a_held_out_prompt_does(seed: int, how: Alteration) -> None:
    """Nor what its prompt or another caption of it does. The small world has many held-out neighbours."""
    prompts = list(itertools.islice(sample_captions(seed), 60))
    train = [prompt for prompt in prompts if split_of(prompt, THIRDS) == "train"]
    held = {meaning(prompt) for prompt in prompts} - {meaning(prompt) for prompt in train}
    captions = alter(train, 4, how, HeldOut(held, THIRDS), seed=seed)
    assert list(captions) == train
    for prompt, altered in captions.items():
        said = {meaning(prompt), *(meaning(each.text) for each in altered)}
        assert len(said) == 5
        assert not said & held
        # Whatever cache they stand in, they are no prompts of its validation or test split.
        assert {split_of(each.text, THIRDS) for each in altered} == {"train"}


def test_a_held_out_prompt_is_not_reached_by_its_image() -> None:
    """Splits may go by image: a text that hashes to training can be held out, and only the list of meanings tells."""
    own = "a red circle"
    free = alter([own], 20, "grammar", NOTHING, seed=0)[own]
    held = {meaning(each.text) for each in free[:10]}
    others = alter([own], 20, "grammar", HeldOut(held, NOTHING.fractions), seed=0)[own]
    assert not held & {meaning(each.text) for each in others}
    assert [each for each in others if each in free] == list(free[10:])


def test_captions_repeat_for_a_seed_and_a_longer_list_begins_like_a_shorter() -> None:
    prompts = list(itertools.islice(sample_captions(3), 4))
    few = alter(prompts[:2], 3, "grammar", NOTHING, seed=1)
    many = alter(prompts, 8, "grammar", NOTHING, seed=1)
    assert {prompt: altered[:3] for prompt, altered in many.items() if prompt in few} == few
    assert alter(prompts[:2], 3, "grammar", NOTHING, seed=2) != few


PARTS = {"single": 1, "pair": 2}
"""Edits that keep so many of the objects."""


@pytest.mark.parametrize("edit", [edit for edit in grammar.EDITS if edit not in PARTS])
def test_an_edit_changes_one_thing(edit: str) -> None:
    scene = parse_caption("a red circle left of a blue square and a green cross")
    colours, shapes = ([getattr(item, name) for item in scene.objects] for name in ("colour", "shape"))
    rng = random.Random(0)
    for _ in range(20):
        changed = grammar.edited(scene, edit, rng)
        assert changed is not None
        objects, links = changed.objects, changed.links
        assert (objects == scene.objects) == (edit == "link")
        assert (links == scene.links) == (edit not in ("link", "drop", "add"))
        assert len(objects) - 3 == {"drop": -1, "add": 1}.get(edit, 0) == len(links) - 2
        if edit == "swap":
            assert set(objects) == set(scene.objects)
        if edit == "rebind":
            assert [item.shape for item in objects] == shapes
            assert sorted(item.colour for item in objects) == sorted(colours)


@pytest.mark.parametrize(("edit", "kept"), PARTS.items())
def test_a_part_is_of_the_objects_that_are_asked_for(edit: str, kept: int) -> None:
    scene = parse_caption("a red circle left of a blue square and a green cross")
    rng = random.Random(0)
    parts = [part for _ in range(60) if (part := grammar.edited(scene, edit, rng))]
    assert len(parts) == 60
    assert all(len(part.objects) == kept and set(part.objects) <= set(scene.objects) for part in parts)
    assert len({part.objects for part in parts}) == (3 if kept == 1 else 6)  # in either order
    assert {link for part in parts for link in part.links} == (set() if kept == 1 else set(LINKS))


def test_what_cannot_be_edited_is_left() -> None:
    alone, full = parse_caption("a red circle"), parse_caption(" and ".join(f"a red {s}" for s in ("circle", "cross")))
    rng = random.Random(0)
    assert [name for name in grammar.EDITS if grammar.edited(alone, name, rng) in (None, alone)] == [
        "link", "swap", "rebind", "drop", "single", "pair",
    ]  # fmt: skip
    assert grammar.edited(full, "rebind", rng) == full
    twins = [grammar.edited(full, "shape", rng) for _ in range(50)]
    assert None in twins  # a red circle and a red circle
    assert all(len(set(scene.objects)) == 2 for scene in twins if scene)


def test_an_edit_that_changes_nothing_is_not_named() -> None:
    """Nor does it change which captions are drawn: the texts are those of before."""
    alone, alike = "a red circle", "a red circle above a red cross"
    captions = alter([alone, alike], 80, "grammar", NOTHING, seed=0)
    edits = {caption.edit for caption in captions[alone]}
    assert {"colour", "shape", "add", "add+single"} <= edits
    assert all(edit.startswith("add") for edit in edits if "single" in edit)  # of one object alone it changes nothing
    assert not any(caption.edit.startswith("rebind") for caption in captions[alike])
    texts = "\n".join(caption.text for altered in captions.values() for caption in altered)
    assert hashlib.sha256(texts.encode()).hexdigest()[:16] == "aac8f3c4659a7d50"


def test_short_captions_are_drawn_more_often() -> None:
    prompts = [text for text in itertools.islice(sample_captions(0), 2000) if len(parse_caption(text).objects) == 3]
    drawn = Counter(altered[0].edit for altered in alter(prompts, 1, "grammar", NOTHING, seed=0).values())
    others = np.mean([drawn[edit] for edit in ("shape", "link", "swap", "drop")])
    assert drawn["pair"] > 4 * others
    assert drawn["single"] > 1.5 * others


def test_words_are_content_words_of_the_vocabulary() -> None:
    assert [word[0] for word in words.content_words(PHOTOS[2])] == ["slice", "pizza", "olives", "white", "plate"]
    known = words.vocabulary(PHOTOS)
    assert {"man", "horse", "pizza"} < set(known)
    assert not {"a", "the", "with", "beside", "A"} & set(known)
    rng = random.Random(0)
    before = PHOTOS[2].split()
    replaced = words.edited(PHOTOS[2], "replace", known, rng)
    assert replaced is not None
    (change,) = [(old, new) for old, new in zip(before, replaced.split(), strict=True) if old != new]
    assert change[1].strip(",") in known
    swapped = words.edited(PHOTOS[2], "swap", known, rng)
    assert swapped is not None
    assert swapped != PHOTOS[2]
    assert sorted(swapped.replace(",", "").split()) == sorted(PHOTOS[2].replace(",", "").split())
    dropped = words.edited(PHOTOS[2], "drop", known, rng)
    assert dropped is not None
    assert len(dropped.split()) == len(before) - 1
    assert [words.edited("on it", edit, known, rng) for edit in words.EDITS] == [None] * 3


def test_prompts_of_any_source_are_altered_by_words_and_prompts() -> None:
    captions = alter(PHOTOS, 6, "words and prompts", NOTHING, seed=0)
    edits = {edit for altered in captions.values() for each in altered for edit in each.edit.split("+")}
    assert edits == {"replace", "swap", "drop", "prompt"}
    assert all(each.text in PHOTOS for altered in captions.values() for each in altered if each.edit == "prompt")


def test_too_few_captions_are_an_error() -> None:
    with pytest.raises(ConfigError, match=r"'labels.captions' is 4, and 'A man.*' can be altered to 3 other captions"):
        alter(PHOTOS, 4, "prompts", NOTHING, seed=0)
    with pytest.raises(ConfigError, match=r"'labels.alter' is grammar, and .*'A man.*choose words or prompts"):
        alter(PHOTOS, 4, "grammar", NOTHING, seed=0)
