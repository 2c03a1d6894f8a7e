"""Edits of the words of any prompt: a content word replaced by one of the vocabulary, two swapped, one dropped."""

from __future__ import annotations

import random
import re
from collections.abc import Callable, Iterable, Mapping, Sequence

_WORD = re.compile(r"\w+(?:['’-]\w+)*")
_LEAST = 3
"""Letters of a content word."""
_LIST = (
    "about above across after against all along also although among and another any are around because been before "
    "behind being below beneath beside between both but can could did does down during each either for from had has "
    "have her here hers him his how into its itself just many may might more most much must near neither nor not off "
    "onto other our out over own same she should since some such than that the their them then there these they this "
    "those though through under until upon very was were what when where which while who whom whose why will with "
    "within without would you your"
)
_FUNCTION_WORDS = frozenset(_LIST.split())
"""English words that say little about what a picture shows; those of one or two letters are left out anyway."""

WordEdit = Callable[[str, Sequence[str], random.Random], str | None]
"""(prompt, vocabulary, random) -> the edited prompt; None where it cannot be edited so."""


def content_words(prompt: str) -> list[re.Match[str]]:
    """Where the words stand that say what a picture shows."""
    return [word for word in _WORD.finditer(prompt) if _is_content(word[0].casefold())]


def vocabulary(prompts: Iterable[str]) -> list[str]:
    """Every content word of the prompts, in lower case and in order."""
    return sorted({word[0].casefold() for prompt in prompts for word in content_words(prompt)})


def edited(prompt: str, edit: str, known: Sequence[str], rng: random.Random) -> str | None:
    """The prompt after one of ``EDITS``, with the vocabulary ``known``; None where it cannot be made."""
    return EDITS[edit](prompt, known, rng)


def _is_content(word: str) -> bool:
    return len(word) >= _LEAST and word not in _FUNCTION_WORDS and not word.isdecimal()


def _replace(prompt: str, known: Sequence[str], rng: random.Random) -> str | None:
    words = content_words(prompt)
    if not words or len(known) < 2:
        return None
    word = rng.choice(words)
    return _spliced(prompt, {word: rng.choice([each for each in known if each != word[0].casefold()])})


def _swap(prompt: str, known: Sequence[str], rng: random.Random) -> str | None:
    words = content_words(prompt)
    if len(words) < 2:
        return None
    first, second = rng.sample(words, 2)
    return _spliced(prompt, {first: second[0], second: first[0]})


def _drop(prompt: str, known: Sequence[str], rng: random.Random) -> str | None:
    words = content_words(prompt)
    return _spliced(prompt, {rng.choice(words): ""}) if len(words) > 1 else None


def _spliced(prompt: str, texts: Mapping[re.Match[str], str]) -> str:
    """The prompt with other texts in the places of some words."""
    for word, text in sorted(texts.items(), key=lambda item: -item[0].start()):
        prompt = prompt[: word.start()] + text + prompt[word.end() :]
    return " ".join(prompt.split())


EDITS: Mapping[str, WordEdit] = {"replace": _replace, "swap": _swap, "drop": _drop}
