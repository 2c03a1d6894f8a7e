"""Which captions of a source become prompts: distinct ones, as they are written."""

from __future__ import annotations

import hashlib
from collections.abc import Container, Iterable
from dataclasses import dataclass

from probe_lab.data.canonical import canonical, meaning
from probe_lab.errors import ConfigError
from probe_lab.generation.prompt_text import Caption, is_valid


@dataclass(frozen=True)
class PromptSet:
    """Distinct prompts, none empty, and how many captions of the source did not become one.

    ``left_out`` counts the distinct prompts beyond ``prompts.count``, ``excluded`` those of ``prompts.exclude``.
    ``image_ids`` name the image that each prompt describes; "" where the source does not say.
    """

    prompts: tuple[str, ...]
    empty: int = 0
    duplicates: int = 0
    left_out: int = 0
    excluded: int = 0
    image_ids: tuple[str, ...] = ()

    def note(self, wanted: int) -> str:
        """One line for the terminal; empty when the source gave what was asked for and nothing was dropped."""
        counts = ((self.empty, "empty"), (self.duplicates, "duplicate"), (self.excluded, "excluded"))
        dropped = [f"{n} {what}" for n, what in counts if n]
        parts = [f"dropped {' and '.join(dropped)}"] if dropped else []
        if len(self.prompts) < wanted:
            parts.append(f"the source has no more (prompts.count={wanted})")
        elif self.left_out and parts:
            parts.append(f"{self.left_out} more left out")
        return f"prompts: {len(self.prompts)} kept, {', '.join(parts)}" if parts else ""


def choose_prompts(
    captions: Iterable[str | Caption], count: int, shuffle: int | None = None, excluded: Container[str] = ()
) -> PromptSet:
    """At most ``count`` distinct captions, the first of each, in their order or in one that ``shuffle`` seeds.

    Captions with one canonical form are one prompt, as it is first written, but for white space, which is one blank
    everywhere, as text encoders read it. None has a meaning (see ``data.canonical``) that is ``excluded``.

    Raises:
        ConfigError: a caption that is no valid Unicode or holds a NUL character.
    """
    read = [_cleaned(number, caption) for number, caption in enumerate(captions, start=1)]
    filled = [(form, caption) for caption in read if (form := canonical(caption.text))]
    distinct: dict[str, Caption] = {}
    for form, caption in filled:
        distinct.setdefault(form, caption)
    wanted = {form: caption for form, caption in distinct.items() if not excluded or meaning(form) not in excluded}
    order = list(wanted)
    if shuffle is not None:
        # By a hash of each prompt: which ones are drawn does not depend on how the source is ordered.
        order.sort(key=lambda form: hashlib.sha256(f"shuffle\n{shuffle}\n{form}".encode()).digest())
    chosen = [wanted[form] for form in order[:count]]
    return PromptSet(
        prompts=tuple(caption.text for caption in chosen),
        empty=len(read) - len(filled),
        duplicates=len(filled) - len(distinct),
        left_out=max(0, len(wanted) - count),
        excluded=len(distinct) - len(wanted),
        image_ids=tuple(caption.image_id for caption in chosen),
    )


def _cleaned(number: int, caption: str | Caption) -> Caption:
    given = caption if isinstance(caption, Caption) else Caption(caption)
    if not is_valid(given.text):
        raise ConfigError(
            f"prompt {number} of the source, {given.text!r}, is no valid Unicode or holds a NUL: write it anew"
        )
    return Caption(" ".join(given.text.split()), given.image_id)
