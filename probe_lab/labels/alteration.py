"""Altered captions: for each training prompt, texts that ask for something else and give no held-out prompt away."""

from __future__ import annotations

import random
from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass
from typing import Literal

from probe_lab.data.canonical import canonical, meaning
from probe_lab.data.splits import SplitFractions, split_of
from probe_lab.errors import ConfigError
from probe_lab.labels import grammar, words
from probe_lab.shapes.captions import parse_caption

MADE_BY = "4"
"""Raised whenever the same prompt may get other captions."""
PROMPT = "prompt"
"""The edit of a caption that is another prompt."""
_TWICE = 0.4
"""Share of the captions that are edited a second time."""
_TRIES = 100
"""For each caption that is wanted of a prompt, before it is said that there are no more."""

Alteration = Literal["grammar", "words", "prompts", "words and prompts"]
Editor = Callable[[str, random.Random], "Altered | None"]


@dataclass(frozen=True)
class Altered:
    """A caption, and the edits that changed the prompt to it: ``colour+swap``."""

    text: str
    edit: str


@dataclass(frozen=True)
class HeldOut:
    """What no altered caption may say: ``meanings`` of prompts that are kept for validation and test.

    Nor may a text that is no training prompt be one that would itself be held out by the ``fractions`` of the splits,
    so that it is no held-out prompt of another cache either. This says nothing about prompts with image ids, COCO's for
    instance, which are split by image: of those, only ``meanings`` are kept out.
    """

    meanings: Collection[str]
    fractions: SplitFractions

    def allows(self, altered: Altered) -> bool:
        if meaning(altered.text) in self.meanings:
            return False
        return altered.edit == PROMPT or split_of(altered.text, self.fractions) == "train"


def alter(
    prompts: Sequence[str], count: int, how: Alteration, held_out: HeldOut, *, seed: int
) -> dict[str, tuple[Altered, ...]]:
    """``count`` altered captions of each of the training ``prompts``, the same for the same arguments.

    No two captions of a prompt say the same, nor does one say what the prompt does (``data.canonical.meaning``). Of
    edits of the prompt alone (``grammar``), those of one prompt depend on no other prompt, and the first ones of a
    higher ``count`` are those of a lower.

    Raises:
        ConfigError: a prompt has fewer such captions, or is no caption of the shapes world (``grammar``).
    """
    editor = _editor(how, prompts)
    return {prompt: _captions(prompt, count, editor, held_out, seed) for prompt in prompts}


def _captions(prompt: str, count: int, editor: Editor, held_out: HeldOut, seed: int) -> tuple[Altered, ...]:
    rng = random.Random(f"{seed}\n{canonical(prompt)}")
    captions: dict[str, Altered] = {meaning(prompt): Altered(prompt, "")}
    for _ in range(_TRIES * count):
        if len(captions) > count:
            break
        altered = editor(prompt, rng)
        if altered and meaning(altered.text) and meaning(altered.text) not in captions and held_out.allows(altered):
            captions[meaning(altered.text)] = altered
    if len(captions) <= count:
        raise ConfigError(
            f"'labels.captions' is {count}, and '{prompt}' can be altered to {len(captions) - 1} other captions that "
            "give no held-out prompt away: lower it, choose another labels.alter, or give more prompts"
        )
    return tuple(captions.values())[1:]


def _editor(how: Alteration, prompts: Sequence[str]) -> Editor:
    if how == "grammar":
        return _by_grammar
    known = words.vocabulary(prompts)

    def by_words(prompt: str, rng: random.Random) -> Altered | None:
        return _edited(prompt, list(words.EDITS), lambda text, edit: words.edited(text, edit, known, rng), rng)

    def by_prompts(prompt: str, rng: random.Random) -> Altered:
        return Altered(rng.choice(prompts), PROMPT)

    def by_turns(prompt: str, rng: random.Random) -> Altered | None:
        return by_words(prompt, rng) if rng.random() < 0.5 else by_prompts(prompt, rng)

    return {"words": by_words, "prompts": by_prompts}.get(how, by_turns)


def _by_grammar(prompt: str, rng: random.Random) -> Altered | None:
    try:
        parse_caption(prompt)
    except ConfigError as error:
        raise ConfigError(f"'labels.alter' is grammar, and {error}: choose words or prompts") from error

    def edit_scene(text: str, edit: str) -> str | None:
        scene = grammar.edited(parse_caption(text), edit, rng)
        return scene.caption if scene else None

    return _edited(prompt, grammar.DRAWN, edit_scene, rng)


def _edited(
    prompt: str, edits: Sequence[str], make: Callable[[str, str], str | None], rng: random.Random
) -> Altered | None:
    """The prompt after one edit or two, drawn from ``edits``; None where one of them cannot be made, or none changes
    anything."""
    names = [rng.choice(edits) for _ in range(2 if rng.random() < _TWICE else 1)]
    text, changes = prompt, []
    for name in names:
        changed = make(text, name)
        if not changed:
            return None
        if changed != text:
            changes.append(name)
        text = changed
    return Altered(text, "+".join(changes)) if changes else None
