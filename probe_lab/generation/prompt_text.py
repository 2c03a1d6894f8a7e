"""Captions as a source gives them, and the text of a file in whichever Unicode encoding it says it is."""

from __future__ import annotations

import codecs
from dataclasses import dataclass
from pathlib import Path

from probe_lab.errors import ConfigError
from probe_lab.regular_files import regular

_MARKS = (
    (codecs.BOM_UTF8, "utf-8-sig"),
    (codecs.BOM_UTF32_LE, "utf-32"),  # before UTF-16, whose mark it begins with
    (codecs.BOM_UTF32_BE, "utf-32"),
    (codecs.BOM_UTF16_LE, "utf-16"),
    (codecs.BOM_UTF16_BE, "utf-16"),
)


@dataclass(frozen=True)
class Caption:
    """One caption, and the image that it describes where the source names it: captions of one image stay in one
    split."""

    text: str
    image_id: str = ""


def read_text(path: Path) -> str:
    """The text of a file: UTF-8, or what its byte order mark says.

    Raises:
        ConfigError: it is not valid in that encoding, or holds NUL characters, as UTF-16 without a mark does. The
            sentence names the line.
        OSError: it is not there or cannot be opened.
    """
    content = regular(path).read_bytes()
    encoding = next((name for mark, name in _MARKS if content.startswith(mark)), "utf-8")
    try:
        text = content.decode(encoding)
    except UnicodeDecodeError as error:
        name = encoding.removesuffix("-sig").upper()
        line = content[: error.start].decode(encoding, "ignore").count("\n") + 1
        raise ConfigError(
            f"prompts.path '{path}' cannot be read (it is not {name}): save it as UTF-8; line {line} breaks first"
        ) from error
    if "\0" in text:
        line = text[: text.index("\0")].count("\n") + 1
        raise ConfigError(
            f"prompts.path '{path}' holds a NUL character in line {line}, as UTF-16 without a byte order mark does: "
            "save it as UTF-8"
        )
    return text


def is_valid(text: str) -> bool:
    """Whether a prompt can be stored and shown: no NUL, and no half of a surrogate pair, which JSON may spell."""
    return "\0" not in text and text == text.encode(errors="ignore").decode()
