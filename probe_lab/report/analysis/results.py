"""What a report knows of one experiment: its settings and their numbers, averaged over training seeds."""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import cache, cached_property, lru_cache
from pathlib import Path
from typing import Literal

import pandas as pd
import pyarrow as pa

from probe_lab.data.provenance import is_split_otherwise
from probe_lab.errors import DataError, ReportError
from probe_lab.metrics import METRICS, MetricName, measured_predictions
from probe_lab.metrics.bootstrap import resample
from probe_lab.report.analysis.origin import Origin
from probe_lab.runs import PREDICTIONS, FinishedCell
from probe_lab.runs.configs import Flat
from probe_lab.runs.failures import Failure

ReportedSplit = Literal["val", "test"]

VARIANT = ["model", "step", "taps", "loss", "extra"]
"""What identifies a cell apart from its training seed; ``extra`` is the JSON of other swept keys."""

_PREDICTIONS = ["sample_id", "prompt_id", "seed", "split", "evaluator", "target", "prediction"]
RESAMPLES = 1000
CONFIDENCE = 0.95
_CELLS_KEPT = 256
"""Cells whose predictions stay in memory, under a megabyte each."""


@dataclass(frozen=True)
class Value:
    """An estimate with its 95 % interval, nan where it is undefined; ``p`` is that of the truth being 0, nan where
    nobody asks."""

    estimate: float
    lower: float
    upper: float
    p: float = math.nan


@dataclass(frozen=True)
class Variant:
    """A probe or baseline as configured, whatever its training seed. ``taps`` joined by "+", ``extra``
    JSON."""

    model: str
    step: int
    taps: str
    loss: str
    extra: str


@dataclass(frozen=True)
class Results:
    """Everything that a report needs of one experiment, on the images of one origin.

    ``cells``: one row per trained cell (cell, VARIANT, seed, seconds, stopped: by what and when, "" at its end,
    shuffles: how often it was trained on shuffled labels).
    ``halved``: the same of the cells that successive halving stopped, which are no ``cells`` and part of no mean:
    they would pull a setting down by having been trained less. ``scores``: one row per cell of both ×
    evaluator × split (val, test) × metric (cell, VARIANT, seed, evaluator, split, metric, estimate, lower,
    upper, prompts, tied). ``means``: those of ``cells`` averaged over training seeds, with ``seeds``, their number;
    a mean of bounds is no interval of the mean, which :meth:`value` has. ``trained``: the finished cells of both by
    name. ``failures``: those of the whole experiment. ``elsewhere``: the same
    of the experiment's cells of other origins, whose numbers are of other images.
    """

    folder: Path
    cells: pd.DataFrame
    halved: pd.DataFrame
    scores: pd.DataFrame
    means: pd.DataFrame
    failures: tuple[Failure, ...]
    origin: Origin
    trained: Mapping[str, FinishedCell]
    elsewhere: tuple[Results, ...] = ()

    @cached_property
    def evaluators(self) -> list[str]:
        return list(dict.fromkeys(self.scores["evaluator"]))

    @cached_property
    def variants(self) -> dict[Variant, dict[int, str]]:
        """Every variant, in order of its first cell, with its training seeds in ascending order and their cells."""
        found: dict[Variant, dict[int, str]] = defaultdict(dict)
        rows = zip(variants_of(self.cells), self.cells["seed"], self.cells["cell"], strict=True)
        for variant, seed, cell in sorted(rows, key=lambda row: int(row[1])):
            found[variant][int(seed)] = str(cell)
        return {variant: found[variant] for variant in dict.fromkeys(variants_of(self.cells))}

    def value(self, variant: Variant, evaluator: str, metric: str, split: ReportedSplit = "test") -> Value | None:
        """Mean over training seeds, or None when this variant was not scored so.

        The interval of several is over prompts and training seeds, from their predictions; that of one is its own, of
        other prompts alone. ReportError for damaged predictions.
        """
        found = self._values.get((variant, evaluator, metric, split))
        if found is None or len(self.seeds(variant)) < 2 or self.shuffles(variant) > 1:
            return found
        return self._over_seeds(variant, evaluator, metric, split) or found

    def shuffles(self, variant: Variant) -> int:
        """How often each of its cells was trained on shuffled labels, of which its bounds are the range; else 1."""
        return self._shuffles.get(next(iter(self.seeds(variant).values()), ""), 1)

    @cached_property
    def _shuffles(self) -> dict[str, int]:
        return dict(zip(self.cells["cell"], self.cells["shuffles"].tolist(), strict=True))

    def estimate(self, variant: Variant, evaluator: str, metric: str, split: ReportedSplit = "test") -> float:
        """Of :meth:`value`, without the work for its interval; nan where it is None."""
        found = self._values.get((variant, evaluator, metric, split))
        return math.nan if found is None else found.estimate

    def seeds(self, variant: Variant) -> dict[int, str]:
        """Training seed -> cell, in order of the seeds."""
        return self.variants.get(variant, {})

    def scalars(self, variant: Variant) -> tuple[str, ...]:
        """The ``probe.scalars`` that it reads beside its taps."""
        return self._scalars[variant]

    def predictions(self, cell: str, evaluator: str, split: ReportedSplit = "test") -> pd.DataFrame:
        """sample_id, prompt_id, seed, target, prediction of one cell by sample_id (index 0…). ReportError
        if damaged."""
        table = self._predictions(cell)
        rows = table[(table["evaluator"] == evaluator) & (table["split"] == split)]
        kept = rows[["sample_id", "prompt_id", "seed", "target", "prediction"]]
        return kept.sort_values("sample_id").reset_index(drop=True)

    def former_splits(self, cell: str) -> dict[int, str]:
        """prompt_id -> split of the prompts that a cell predicts, where it was trained on splits of a former rule;
        else empty. ReportError if damaged."""
        if not is_split_otherwise(self.trained[cell].content):
            return {}
        rows = self._predictions(cell).drop_duplicates("prompt_id")
        return dict(zip(rows["prompt_id"].tolist(), rows["split"].astype(str).tolist(), strict=True))

    def tables(self, variant: Variant) -> list[pd.DataFrame]:
        """The whole predictions.parquet of every training seed, in order of the seeds. ReportError if damaged."""
        return [self._predictions(cell) for cell in self.seeds(variant).values()]

    @cached_property
    def _scalars(self) -> dict[Variant, tuple[str, ...]]:
        """Whether swept or not, so from the configuration of a variant's first cell."""
        first = {variant: next(iter(seeds.values())) for variant, seeds in self.variants.items()}
        scalars = {variant: self.written(cell).get("probe.scalars") for variant, cell in first.items()}
        return {variant: names if isinstance(names, tuple) else () for variant, names in scalars.items()}

    @cached_property
    def _values(self) -> dict[tuple[Variant, str, str, str], Value]:
        """``means`` by what it is asked for: a report looks up thousands of them."""
        rows = self.means
        names = (rows[name] for name in ("evaluator", "metric", "split"))
        numbers = rows[["estimate", "lower", "upper"]].to_numpy(float).tolist()
        keys = zip(variants_of(rows), *names, strict=True)
        return {key: Value(*found) for key, found in zip(keys, numbers, strict=True)}

    @cached_property
    def _over_seeds(self) -> Callable[[Variant, str, str, str], Value | None]:
        """With the interval over prompts and training seeds; None where the predictions do not say it."""

        @cache
        def measure(variant: Variant, evaluator: str, metric: str, split: str) -> Value | None:
            thresholds = {self.trained[cell].thresholds.get(evaluator) for cell in self.seeds(variant).values()}
            if metric not in METRICS or (metric == "auc" and (len(thresholds) > 1 or None in thresholds)):
                return None
            tables = {variant: self.tables(variant)}
            names: list[MetricName] = [metric]
            try:
                measured = measured_predictions(
                    tables, names, evaluator=evaluator, split=split, threshold=thresholds.pop()
                )
            except DataError:  # seeds that were not tested on the same images
                return None
            statistic = measured[variant][names[0]]
            found = statistic.interval(resample(len(statistic.influence), RESAMPLES, seed=0), CONFIDENCE)
            return Value(found.estimate, found.lower, found.upper, found.p)

        return measure

    @cached_property
    def _predictions(self) -> Callable[[str], pd.DataFrame]:
        """All predictions of a cell. The same cells are asked for again and again, so the last ones are kept."""

        @lru_cache(maxsize=_CELLS_KEPT)
        def read(cell: str) -> pd.DataFrame:
            finished = self.trained[cell]
            table = columns_of(finished.folder / PREDICTIONS, finished.predictions(), _PREDICTIONS)
            return table.astype({"split": "category", "evaluator": "category"})

        return read

    def config(self, cell: str) -> str:
        """The YAML text of a cell's configuration, "" when it has none."""
        return self.trained[cell].config_text

    def written(self, cell: str) -> Flat:
        """What a cell's configuration says, as dotted keys. ReportError, with the file, where it is damaged."""
        return self.trained[cell].written


def variants_of(frame: pd.DataFrame) -> list[Variant]:
    """The variant of every row."""
    columns = (frame[name].tolist() for name in VARIANT)
    return [Variant(*row) for row in zip(*columns, strict=True)]


def columns_of(path: Path, table: pa.Table | pd.DataFrame, columns: list[str]) -> pd.DataFrame:
    """These columns of what was read from a file."""
    present = table.columns if isinstance(table, pd.DataFrame) else table.column_names
    missing = [name for name in columns if name not in present]
    if missing:
        raise ReportError(
            f"{path} lacks the columns {', '.join(missing)}: it is of another version, run `probe-lab sweep` again"
        )
    frame: pd.DataFrame = table[columns] if isinstance(table, pd.DataFrame) else table.select(columns).to_pandas()
    return frame
