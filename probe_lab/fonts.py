"""Fonts for what users write: the installed families with other scripts, and the characters that none of them has."""

from __future__ import annotations

from functools import cache

from matplotlib.font_manager import FontProperties, findfont, fontManager, get_font

FIRST = "DejaVu Sans"
"""Matplotlib brings it along: Latin, Greek, Cyrillic, Arabic and many signs."""
_OTHERS = (
    *(f"Noto Sans CJK {region}" for region in ("SC", "JP", "KR", "TC")),
    *(f"Noto Sans {region}" for region in ("SC", "JP", "KR", "TC")),
    *("Source Han Sans SC", "Source Han Sans", "WenQuanYi Zen Hei", "WenQuanYi Micro Hei", "Droid Sans Fallback"),
    *("IPAexGothic", "IPAGothic", "NanumGothic", "Arial Unicode MS", "PingFang SC", "Hiragino Sans"),
    *("Microsoft YaHei", "SimHei", "MS Gothic", "Yu Gothic", "Malgun Gothic"),
    *("Noto Emoji", "Symbola", "Segoe UI Emoji", "Segoe UI Symbol", "Noto Sans Symbols2", "Noto Sans Symbols"),
    *(f"Noto Sans {script}" for script in ("Devanagari", "Bengali", "Tamil", "Thai", "Hebrew", "Arabic", "Ethiopic")),
    *("FreeSans", "Unifont"),
)
"""Tried in this order. Fonts of coloured bitmaps, Noto Color Emoji for instance, cannot be drawn with matplotlib."""


@cache
def families() -> tuple[str, ...]:
    """``FIRST``, then the installed families that are asked for characters that it lacks."""
    installed = {font.name for font in fontManager.ttflist}
    return (FIRST, *(name for name in _OTHERS if name in installed))


def missing(text: str) -> str:
    """The characters of a text that none of ``families`` has, each once."""
    left = dict.fromkeys(character for character in text if not character.isspace())
    for family in families():
        if left:
            left = dict.fromkeys(character for character in left if ord(character) not in _characters(family))
    return "".join(left)


def needs_others(text: str) -> bool:
    """Whether ``FIRST`` lacks one of its characters."""
    return any(ord(character) not in _characters(FIRST) for character in text if not character.isspace())


def file_for(text: str) -> str:
    """The font file that has most of a text's characters, ``FIRST`` before others: for what draws with one font."""
    lacking = {
        family: sum(ord(character) not in _characters(family) for character in text if not character.isspace())
        for family in (families() if needs_others(text) else (FIRST,))
    }
    return _file(min(lacking, key=lambda family: lacking[family]))


@cache
def _characters(family: str) -> frozenset[int]:
    return frozenset(get_font(_file(family)).get_charmap())


def _file(family: str) -> str:
    return str(findfont(FontProperties(family=[family]), fallback_to_default=False))
