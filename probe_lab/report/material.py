"""What every figure family is given, and what it gives back."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

import pandas as pd
from matplotlib.figure import Figure

from probe_lab.cache import Cache
from probe_lab.data.splits import SplitFractions, splits_of
from probe_lab.report.choice import Choice
from probe_lab.report.load import Results
from probe_lab.report.origin import stated
from probe_lab.report.tables import Table


@dataclass(frozen=True)
class Material:
    """One experiment, read and decided upon. ``cache`` is None where the report is made without it.

    ``others`` are the runs folders of the experiments that stand beside it, by name.
    """

    results: Results
    choice: Choice
    cache: Cache | None
    others: Mapping[str, Path] = field(default_factory=dict)

    @property
    def step_text(self) -> str:
        """Label of an axis of steps."""
        return f"denoiser call (of {self.cache.manifest.steps})" if self.cache else "denoiser call (step)"

    def splits(self, samples: pd.DataFrame) -> pd.Series[str]:
        """The split in which the best probe was trained or tested on each of the cache's ``samples``, which are whole
        prompts: that of its predictions. Those without are split by its ``data.split``, or are training prompts where
        it was trained before prompts were split by what they say."""
        cell = next(iter(self.results.seeds(self.choice.best).values()))
        data = stated(self.results.config(cell), "data").get("data") or {}
        predicted = self.results.prompt_splits(cell)
        split = splits_of(samples, SplitFractions(**data["split"])) if "split" in data else samples["split"]
        recorded = samples["prompt_id"].map(predicted)
        if (recorded.notna() & (recorded != split)).any():
            split = split.where(recorded.notna(), "train")
        return recorded.fillna(split)


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
    reason. ``lead`` is the answer in one sentence, above the figures; ``tables`` follow them."""

    key: str
    title: str
    explanation: str
    drawings: tuple[Drawing, ...] = ()
    skipped: tuple[str, ...] = ()
    tables: tuple[Table, ...] = ()
    lead: str = ""
