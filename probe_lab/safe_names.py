"""Names that become folders and files: of experiments, caches, evaluators and cells."""

from __future__ import annotations

import hashlib
import re
import unicodedata

MOST_BYTES = 200
"""Of a name in UTF-8: file systems take 255, and suffixes are added."""
_RULE = "a name has no slash, backslash, bracket or control character, no dot or blank at its start or end"


def problem_of(name: str) -> str:
    """Why a text cannot be a name, "" where it can.

    What separates folders would let a name leave its own, brackets are markup where names are printed, and what begins
    with a dot is hidden.
    """
    if not name:
        return "it is empty: write a name"
    if len(name.encode("utf-8", "surrogatepass")) > MOST_BYTES:
        return f"it has more than {MOST_BYTES} bytes: shorten it"
    unprintable = any(unicodedata.category(character) in ("Cc", "Cs", "Zl", "Zp") for character in name)
    if unprintable or re.search(r"[/\\\[\]]", name) or name != name.strip().strip("."):
        return _RULE
    return ""


def slug(name: str) -> str:
    """The name in letters, digits and underscores, for files and anchors; different names have different ones.

    Hyphens become underscores. Where anything else is replaced, or an underscore could have been a hyphen, a hash of
    the name follows.
    """
    plain = re.sub(r"[^A-Za-z0-9]+", "_", name).strip("_")
    if plain and plain.replace("_", "-") == name:
        return plain
    return "_".join(filter(None, (plain, hashlib.sha256(name.encode("utf-8", "surrogatepass")).hexdigest()[:8])))
