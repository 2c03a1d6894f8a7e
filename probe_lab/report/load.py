"""Reads what a sweep wrote: results.parquet, every cell's metrics.json and predictions.parquet,
failures.json."""

from __future__ import annotations

import json
from collections import Counter
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq

from probe_lab.errors import ReportError

Split = Literal["val", "test"]

VARIANT = ["model", "step", "taps", "loss", "extra"]
"""What identifies a cell apart from its training seed; ``extra`` is the JSON of other swept keys."""

_COLUMNS = [
    "cell", "model", "step", "taps", "loss", "seed", "evaluator", "split",
    "metric", "estimate", "lower", "upper", "prompts", "tied", "axes",
]  # fmt: skip
_PREDICTIONS = ["sample_id", "prompt_id", "seed", "split", "evaluator", "target", "prediction"]
_NAMED_AXES = ("model", "step", "taps", "loss", "seed")


@dataclass(frozen=True)
class Value:
    """An estimate with its 95 % interval; nan where it is undefined."""

    estimate: float
    lower: float
    upper: float


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
class Failure:
    """A cell that could not be trained."""

    cell: str
    error: str


@dataclass(frozen=True)
class Results:
    """Everything that a report needs of one experiment.

    ``cells``: one row per trained cell (cell, VARIANT, seed, seconds). ``scores``: one row per cell ×
    evaluator × split (val, test) × metric (cell, VARIANT, seed, evaluator, split, metric, estimate, lower,
    upper, prompts, tied). ``means``: the same averaged over training seeds, with ``seeds``, their number.
    The mean of the bounds is reported as the interval: it is that of a typical training run, over prompts,
    and does not shrink with the number of seeds.
    """

    folder: Path
    cells: pd.DataFrame
    scores: pd.DataFrame
    means: pd.DataFrame
    failures: tuple[Failure, ...]

    @property
    def evaluators(self) -> list[str]:
        return list(dict.fromkeys(self.scores["evaluator"]))

    def value(self, variant: Variant, evaluator: str, metric: str, split: Split = "test") -> Value | None:
        """Mean over training seeds, or None when this variant was not scored so."""
        rows = self.means[
            of(self.means, variant)
            & (self.means["evaluator"] == evaluator)
            & (self.means["metric"] == metric)
            & (self.means["split"] == split)
        ]
        if rows.empty:
            return None
        row = rows.iloc[0]
        return Value(float(row["estimate"]), float(row["lower"]), float(row["upper"]))

    def seeds(self, variant: Variant) -> dict[int, str]:
        """Training seed -> cell, in order of the seeds."""
        rows = self.cells[of(self.cells, variant)].sort_values("seed")
        return dict(zip(rows["seed"].astype(int), rows["cell"], strict=True))

    def predictions(self, cell: str, evaluator: str, split: Split = "test") -> pd.DataFrame:
        """sample_id, prompt_id, seed, target, prediction of one cell by sample_id (index 0…). ReportError
        if damaged."""
        path = self.folder / cell / "predictions.parquet"
        table = _read_parquet(path, _PREDICTIONS)
        rows = table[(table["evaluator"] == evaluator) & (table["split"] == split)]
        kept = rows[["sample_id", "prompt_id", "seed", "target", "prediction"]]
        return kept.sort_values("sample_id").reset_index(drop=True)

    def config(self, cell: str) -> str:
        """The YAML text of a cell's configuration, "" when it has none."""
        path = self.folder / cell / "config.yaml"
        return path.read_text() if path.exists() else ""


def of(frame: pd.DataFrame, variant: Variant) -> pd.Series[bool]:
    """Mask of the rows that belong to one variant."""
    mask = frame["model"] == variant.model
    for name in VARIANT[1:]:
        mask &= frame[name] == getattr(variant, name)
    return mask


def variants(frame: pd.DataFrame) -> list[Variant]:
    """The distinct variants among the rows, in their order."""
    rows = frame[VARIANT].drop_duplicates().itertuples(index=False, name=None)
    return [Variant(str(m), int(s), str(t), str(lo), str(x)) for m, s, t, lo, x in rows]


def load_results(folder: Path) -> Results:
    """Read the folder ``runs/<experiment>`` of a sweep.

    Raises ReportError when there is no results.parquet, when a file lacks a column or cannot be read, or
    when a cell of the table has lost its metrics.json.
    """
    path = folder / "results.parquet"
    if not path.exists():
        raise ReportError(
            f"{path} does not exist: run `probe-lab sweep {folder.name}` first, a report reads what it writes"
        )
    table = _read_parquet(path, _COLUMNS)
    table = table[table["split"] == "test"].reset_index(drop=True)
    if table.empty:
        raise ReportError(f"{path} has no rows of the test split: no cell was trained, see {folder / 'failures.json'}")
    table["extra"] = _extras([_axes(path, axes) for axes in table["axes"]])
    table = _told_apart(table.astype({"taps": str, "loss": str}).drop(columns="axes"))
    cells = table.drop_duplicates("cell")[["cell", *VARIANT, "seed"]].reset_index(drop=True)
    metrics = {cell: _read_metrics(folder, cell) for cell in cells["cell"]}
    cells["seconds"] = [float(metrics[cell].get("seconds") or 0.0) for cell in cells["cell"]]  # type: ignore[arg-type]
    scores = pd.concat([table, _validation(cells, metrics)], ignore_index=True)[[*_scores_columns()]]
    return Results(folder, cells, scores, _mean_over_seeds(scores), _failures(folder))


def _told_apart(table: pd.DataFrame) -> pd.DataFrame:
    """Cells of one variant and training seed differ in a key outside the sweep (``train`` with overrides adds such):
    the later ones get their own variant, named by the hash that ends the cell's name."""
    cells = table.drop_duplicates("cell")
    later = set(cells.loc[cells.duplicated([*VARIANT, "seed"]), "cell"])
    named = (table["extra"] + " cell " + table["cell"].str[-8:]).str.strip()
    return table.assign(extra=table["extra"].where(~table["cell"].isin(later), named))


def _scores_columns() -> list[str]:
    numbers = ["estimate", "lower", "upper", "prompts", "tied"]
    return ["cell", *VARIANT, "seed", "evaluator", "split", "metric", *numbers]


def _mean_over_seeds(scores: pd.DataFrame) -> pd.DataFrame:
    key = [*VARIANT, "evaluator", "split", "metric"]
    grouped = scores.groupby(key, sort=False, dropna=False)
    means = grouped[["estimate", "lower", "upper", "prompts", "tied"]].mean()
    means["seeds"] = grouped["seed"].nunique()
    return means.reset_index()


def _validation(cells: pd.DataFrame, metrics: dict[str, dict[str, object]]) -> pd.DataFrame:
    """The rows of the validation split, which only the cells' own files hold."""
    rows = []
    for cell in cells.to_dict("records"):
        found = metrics[cell["cell"]]["metrics"]
        known = {name: cell[name] for name in ("cell", *VARIANT, "seed")}
        rows += [known | row for row in found if row["split"] == "val"]  # type: ignore[attr-defined]
    frame = pd.DataFrame(rows, columns=_scores_columns())
    return frame.astype({"estimate": float, "lower": float, "upper": float})


def _read_metrics(folder: Path, cell: str) -> dict[str, object]:
    path = folder / cell / "metrics.json"
    try:
        content = json.loads(path.read_text())
    except (OSError, ValueError) as error:
        raise ReportError(
            f"{path} cannot be read ({error}): run `probe-lab sweep {folder.name}` again, it trains what is missing"
        ) from error
    if not isinstance(content, dict) or "metrics" not in content:
        raise ReportError(f"{path} has no 'metrics': run `probe-lab sweep {folder.name}` again with this version")
    return content


def _failures(folder: Path) -> tuple[Failure, ...]:
    path = folder / "failures.json"
    if not path.exists():
        return ()
    try:
        return tuple(Failure(str(item["cell"]), str(item["error"])) for item in json.loads(path.read_text()))
    except (ValueError, TypeError, KeyError) as error:
        raise ReportError(
            f"{path} is not a list of {{cell, error}} ({error}): run `probe-lab sweep {folder.name}` again"
        ) from error


def _axes(path: Path, axes: object) -> dict[str, object]:
    """The swept keys that have no column of their own, under the last part of their name."""
    try:
        content = json.loads(str(axes)) if axes else {}
        found = {key.rpartition(".")[2]: value for key, value in content.items()}
    except (ValueError, AttributeError) as error:
        raise ReportError(f"{path} has the axes {axes!r}, which is no JSON object: run the sweep again") from error
    return {key: found[key] for key in sorted(found) if key not in _NAMED_AXES}


def _extras(axes: list[dict[str, object]]) -> list[str]:
    """JSON of each row's axes without what goes without saying: a key that all rows have, at its commonest
    value."""
    usual = set()
    for key in dict.fromkeys(key for row in axes for key in row):
        if all(key in row for row in axes):
            usual.add((key, Counter(json.dumps(row[key]) for row in axes).most_common(1)[0][0]))
    return [
        json.dumps({key: value for key, value in row.items() if (key, json.dumps(value)) not in usual}) for row in axes
    ]


def _read_parquet(path: Path, columns: list[str]) -> pd.DataFrame:
    try:
        table = pq.read_table(path, partitioning=None)
    except (OSError, pa.ArrowException) as error:
        raise ReportError(f"{path} cannot be read ({error}): run `probe-lab sweep` again") from error
    missing = [name for name in columns if name not in table.column_names]
    if missing:
        raise ReportError(
            f"{path} lacks the columns {', '.join(missing)}: it is of another version, run `probe-lab sweep` again"
        )
    frame: pd.DataFrame = table.select(columns).to_pandas()
    return frame
