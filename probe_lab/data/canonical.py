"""When two prompts are the same one, and when they say the same."""

from __future__ import annotations

import re
import unicodedata
from functools import lru_cache

from probe_lab.shapes.captions import canonical_caption

_INVISIBLE = re.compile(
    "[\u00ad\u034f\u061c\u115f\u1160\u17b4\u17b5\u180b-\u180f\u200b-\u200f\u202a-\u202e\u2060-\u206f\u3164\ufe00-\ufe0f"
    "\ufeff\uffa0]"
)
"""Zero-width characters, direction marks and variation selectors, which change nothing that a reader reads."""

_APOSTROPHE = re.compile(r"(?<=\w)['’ʼ＇](?=\w)")
_SPELT = frozenset("#%&@*/\\")
"""Punctuation that is read aloud: "C#" and "C" are two words."""
_QUOTES = frozenset("`´<>")
_UNSPACED = "[\u3040-\u30ff\u3400-\u9fff\uf900-\ufaff]"
_BETWEEN_UNSPACED = re.compile(f"(?<={_UNSPACED}) | (?={_UNSPACED})")
"""Blanks beside Chinese or Japanese characters, which are written without them."""


def canonical(text: str) -> str:
    """The form in which the same prompt is always written: Unicode's NFC without zero-width characters, runs of white
    space as one blank, none at the ends."""
    return " ".join(unicodedata.normalize("NFC", _INVISIBLE.sub("", text)).split())


@lru_cache(maxsize=1 << 16)
def meaning(text: str) -> str:
    """A text that all prompts with the same meaning share, as far as it can be told without a model.

    Case and punctuation are folded. For captions of the shapes world it is the alphabetically first caption with the
    same objects and relations, see ``canonical_caption``. It is never empty where the canonical form is not.
    """
    plain = canonical(text)
    folded = _folded(plain)
    return canonical_caption(folded) or folded or plain


def _folded(plain: str) -> str:
    joined = _APOSTROPHE.sub("", unicodedata.normalize("NFC", plain.casefold()))
    words = " ".join("".join(" " if _is_punctuation(sign) else sign for sign in joined).split())
    return _BETWEEN_UNSPACED.sub("", words)


def _is_punctuation(sign: str) -> bool:
    return sign in _QUOTES or (sign not in _SPELT and unicodedata.category(sign).startswith("P"))
