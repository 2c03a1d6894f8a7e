"""What every figure family is given, and what it gives back."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

import pandas as pd
from matplotlib.figure import Figure

from probe_lab.cache import Cache
from probe_lab.data.splits import SPLITS, SplitFractions, splits_of
from probe_lab.report.analysis.chosen import HeadlineChoice
from probe_lab.report.analysis.results import Results
from probe_lab.report.layout.table_forms import Table


@dataclass(frozen=True)
class Material:
    """One experiment, read and decided upon. ``cache`` is None where the report is made without it.

    ``others`` are the runs folders of the experiments that stand beside it, by name.
    """

    results: Results
    choice: HeadlineChoice
    cache: Cache | None
    others: Mapping[str, Path] = field(default_factory=dict)

    @property
    def step_text(self) -> str:
        """Label of an axis of steps."""
        return f"denoiser call (of {self.cache.manifest.steps})" if self.cache else "denoiser call (step)"

    def splits(self, samples: pd.DataFrame) -> pd.Series[str]:
        """The split in which the best probe was trained or tested on each of the cache's ``samples``: that of its
        ``data.split``, while the cache has the one of generation. Where it was trained on splits of a former rule,
        those of its predictions; the prompts that it does not predict are the training's."""
        cell = next(iter(self.results.seeds(self.choice.best).values()))
        former = self.results.former_splits(cell)
        if former:
            return samples["prompt_id"].map(former).fillna("train")
        written = self.results.written(cell)
        shares = {split: float(str(written[key])) for split in SPLITS if (key := f"data.split.{split}") in written}
        return splits_of(samples, SplitFractions(**shares)) if shares else samples["split"]


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
