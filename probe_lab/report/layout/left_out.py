"""What a report has to leave out, and why: said where it would stand, at the head of the page and in the terminal."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from pathlib import Path

from probe_lab.errors import CacheError, ScoreError
from probe_lab.fonts import missing
from probe_lab.report.layout.material import Material, Section
from probe_lab.report.layout.style import save_figure, texts_of

_MOST_SIGNS = 12


@dataclass
class LeftOut:
    """Grows while a report is drawn. ``no_cache`` is why it has no cache, "" where it has one or shall have none."""

    no_cache: str = ""
    _titles: dict[str, list[str]] = field(default_factory=lambda: defaultdict(list))
    _signs: dict[str, None] = field(default_factory=dict)

    def section(self, family: Callable[[Material], Section], material: Material) -> Section:
        """What a family draws; where a file of the cache is gone or damaged, what it draws without the cache, and the
        file's name."""
        try:
            section = family(material)
        except (CacheError, ScoreError) as error:
            if material.cache is None:
                raise
            section = family(replace(material, cache=None))
            self._titles[_sentence(error)].append(section.title)
            return replace(section, skipped=(_sentence(error),))
        if self.no_cache and any("cache" in reason for reason in section.skipped):
            self._titles[self.no_cache].append(section.title)
        return section

    def saved(self, section: Section, folder: Path) -> Section:
        """Save a section's figures to ``folder/figures``; characters that no font has are added to what is skipped."""
        texts = ""
        for drawing in section.drawings:
            save_figure(drawing.figure, folder / "figures", drawing.name, photographic=drawing.photographic)
            texts += texts_of(drawing.figure)
        signs = missing(texts)
        self._signs |= dict.fromkeys(signs)
        return replace(section, skipped=(*section.skipped, _no_font(signs))) if signs else section

    def lines(self) -> list[str]:
        """A sentence per reason."""
        lines = [f"left out: {', '.join(titles)}: {reason}" for reason, titles in self._titles.items()]
        return [*lines, f"left out: {_no_font(''.join(self._signs))}"] if self._signs else lines


def _sentence(error: Exception) -> str:
    text = str(error)
    return text if text.endswith(".") else f"{text}."


def _no_font(signs: str) -> str:
    shown = " ".join(signs[:_MOST_SIGNS]) + (" …" if len(signs) > _MOST_SIGNS else "")
    return (
        f"the characters {shown}, for which a box stands in figures, as no font of this machine has them: install one "
        "(Noto Sans CJK or Noto Emoji, for instance) and report again."
    )
