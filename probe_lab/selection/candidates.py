"""What became of the candidates of a prompt, for the sheet and the record."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from PIL.Image import Image

from probe_lab.cache.faults import Fault


@dataclass(frozen=True)
class Candidate:
    """One seed of a prompt. ``place`` among the kept ones, 0 the best, or None with the step that it was ``pruned``
    at; ``image`` is the finished one, or where it is a ``preview`` what the prediction of that step decodes to;
    ``fault`` says why it is no choice, see ``Selection.faults``. Of ``unscaled`` evaluators only the order of what is
    predicted means something: its units are no true score's."""

    number: int
    seed: int
    predicted: Mapping[str, float]
    place: int | None = None
    pruned: int | None = None
    image: Image | None = None
    preview: bool = False
    true: Mapping[str, float] = field(default_factory=dict)
    fault: Fault | None = None
    unscaled: frozenset[str] = frozenset()

    @property
    def finished(self) -> bool:
        return self.image is not None and not self.preview

    @property
    def can_be_judged(self) -> bool:
        """Whether there is a finished image, and it is a picture of the prompt."""
        return self.finished and self.fault is None


@dataclass(frozen=True)
class PromptCandidates:
    """A prompt with all its candidates: the kept ones first, the best first, then the others as predicted."""

    prompt: str
    candidates: Sequence[Candidate]
    truncated: bool = False

    @property
    def kept(self) -> list[Candidate]:
        return [one for one in self.candidates if one.place is not None]


def file_names(rows: Sequence[PromptCandidates]) -> list[list[str]]:
    """Of each candidate's image: prompt and seed; prompts that begin alike are numbered."""
    slugs = [_slug(row.prompt) for row in rows]
    heads = [
        slug if slugs.count(slug) == 1 else f"{slug}-{slugs[:place].count(slug) + 1}"
        for place, slug in enumerate(slugs)
    ]
    return [[f"{head}-{one.seed}.png" for one in row.candidates] for head, row in zip(heads, rows, strict=True)]


def _slug(prompt: str, length: int = 40) -> str:
    return re.sub(r"\W+", "-", prompt.lower()).strip("-_")[:length].rstrip("-_") or "prompt"
