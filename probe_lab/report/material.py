"""What every figure family is given, and what it gives back."""

from __future__ import annotations

from dataclasses import dataclass

from matplotlib.figure import Figure

from probe_lab.cache import Cache
from probe_lab.report.choice import Choice
from probe_lab.report.load import Results


@dataclass(frozen=True)
class Material:
    """One experiment, read and decided upon. ``cache`` is None where the report is made without it."""

    results: Results
    choice: Choice
    cache: Cache | None

    @property
    def step_text(self) -> str:
        """Label of an axis of steps."""
        return f"denoiser call (of {self.cache.manifest.steps})" if self.cache else "denoiser call (step)"


@dataclass(frozen=True)
class Drawing:
    """One figure, not yet saved. ``name`` is its file stem, ``alt`` what a reader who cannot see it is
    told."""

    name: str
    alt: str
    figure: Figure
    photographic: bool = False


@dataclass(frozen=True)
class Section:
    """A family of figures under one heading, with one explanation, and what is missing of it with the
    reason."""

    key: str
    title: str
    explanation: str
    drawings: tuple[Drawing, ...] = ()
    skipped: tuple[str, ...] = ()
