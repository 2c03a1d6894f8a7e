"""Reads what a sweep wrote: results.parquet, every cell's metrics.json and predictions.parquet,
failures.json."""

from __future__ import annotations

import json
import math
from collections import Counter, defaultdict
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from functools import cache, cached_property, lru_cache
from pathlib import Path
from typing import Any, Literal

import pandas as pd
import pyarrow as pa

from probe_lab.cache.layout import valid_name
from probe_lab.cells import CONFIG, PREDICTIONS, read_metrics, read_predictions, require_files
from probe_lab.config.keys import leaf_keys
from probe_lab.data.inputs import is_split_otherwise
from probe_lab.errors import DataError, ReportError
from probe_lab.json_text import read_json
from probe_lab.metrics import METRICS, MetricName, measured_predictions
from probe_lab.metrics.bootstrap import resample
from probe_lab.names import problem_of
from probe_lab.regular import regular
from probe_lab.report.origin import Origin, origin_of, stated
from probe_lab.sweep.results import Failure, read_failures, read_table, require_cells

Split = Literal["val", "test"]

VARIANT = ["model", "step", "taps", "loss", "extra"]
"""What identifies a cell apart from its training seed; ``extra`` is the JSON of other swept keys."""

_COLUMNS = [
    "cell", "model", "step", "taps", "loss", "seed", "evaluator", "split",
    "metric", "estimate", "lower", "upper", "prompts", "tied", "axes",
]  # fmt: skip
_PREDICTIONS = ["sample_id", "prompt_id", "seed", "split", "evaluator", "target", "prediction"]
_NAMED_AXES = ("probe.model", "probe.step", "probe.taps", "probe.loss", "trainer.seed")
_PLAIN_SECTIONS = ("probe", "trainer")
"""Their keys are called by their last part even where another section has one like it."""
_SCORED = ["evaluator", "split", "metric", "estimate", "lower", "upper", "prompts", "tied"]
_HALVING = "halving"
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
    a mean of bounds is no interval of the mean, which :meth:`value` has. ``thresholds``: cell -> evaluator -> score
    above which its AUC counts an image as good. ``failures``: those of the whole experiment. ``elsewhere``: the same
    of the experiment's cells of other origins, whose numbers are of other images.
    """

    folder: Path
    cells: pd.DataFrame
    halved: pd.DataFrame
    scores: pd.DataFrame
    means: pd.DataFrame
    failures: tuple[Failure, ...]
    origin: Origin
    thresholds: Mapping[str, Mapping[str, float]] = field(default_factory=dict)
    elsewhere: tuple[Results, ...] = ()

    @cached_property
    def evaluators(self) -> list[str]:
        return list(dict.fromkeys(self.scores["evaluator"]))

    @cached_property
    def variants(self) -> dict[Variant, dict[int, str]]:
        """Every variant, in order of its first cell, with its training seeds in ascending order and their cells."""
        found: dict[Variant, dict[int, str]] = defaultdict(dict)
        rows = zip(_variants(self.cells), self.cells["seed"], self.cells["cell"], strict=True)
        for variant, seed, cell in sorted(rows, key=lambda row: int(row[1])):
            found[variant][int(seed)] = str(cell)
        return {variant: found[variant] for variant in dict.fromkeys(_variants(self.cells))}

    def value(self, variant: Variant, evaluator: str, metric: str, split: Split = "test") -> Value | None:
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

    def estimate(self, variant: Variant, evaluator: str, metric: str, split: Split = "test") -> float:
        """Of :meth:`value`, without the work for its interval; nan where it is None."""
        found = self._values.get((variant, evaluator, metric, split))
        return math.nan if found is None else found.estimate

    def seeds(self, variant: Variant) -> dict[int, str]:
        """Training seed -> cell, in order of the seeds."""
        return self.variants.get(variant, {})

    def scalars(self, variant: Variant) -> tuple[str, ...]:
        """The ``probe.scalars`` that it reads beside its taps."""
        return self._scalars[variant]

    def predictions(self, cell: str, evaluator: str, split: Split = "test") -> pd.DataFrame:
        """sample_id, prompt_id, seed, target, prediction of one cell by sample_id (index 0…). ReportError
        if damaged."""
        table = self._predictions(cell)
        rows = table[(table["evaluator"] == evaluator) & (table["split"] == split)]
        kept = rows[["sample_id", "prompt_id", "seed", "target", "prediction"]]
        return kept.sort_values("sample_id").reset_index(drop=True)

    def former_splits(self, cell: str) -> dict[int, str]:
        """prompt_id -> split of the prompts that a cell predicts, where it was trained on splits of a former rule;
        else empty. ReportError if damaged."""
        if not is_split_otherwise(read_metrics(self.folder / cell)):
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
        probes = {variant: self.stated(cell, "probe").get("probe") or {} for variant, cell in first.items()}
        return {variant: tuple(probe.get("scalars") or ()) for variant, probe in probes.items()}

    @cached_property
    def _values(self) -> dict[tuple[Variant, str, str, str], Value]:
        """``means`` by what it is asked for: a report looks up thousands of them."""
        rows = self.means
        names = (rows[name] for name in ("evaluator", "metric", "split"))
        numbers = rows[["estimate", "lower", "upper"]].to_numpy(float).tolist()
        keys = zip(_variants(rows), *names, strict=True)
        return {key: Value(*found) for key, found in zip(keys, numbers, strict=True)}

    @cached_property
    def _over_seeds(self) -> Callable[[Variant, str, str, str], Value | None]:
        """With the interval over prompts and training seeds; None where the predictions do not say it."""

        @cache
        def measure(variant: Variant, evaluator: str, metric: str, split: str) -> Value | None:
            thresholds = {self.thresholds.get(cell, {}).get(evaluator) for cell in self.seeds(variant).values()}
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
            table = _columns(self.folder / cell / PREDICTIONS, read_predictions(self.folder / cell), _PREDICTIONS)
            return table.astype({"split": "category", "evaluator": "category"})

        return read

    def config(self, cell: str) -> str:
        """The YAML text of a cell's configuration, "" when it has none."""
        return _config(self.folder, cell)

    def stated(self, cell: str, *names: str) -> dict[str, Any]:
        """The named sections of a cell's configuration; ReportError, with the file, where it is damaged."""
        with _reading(self.folder / cell / CONFIG):
            return stated(self.config(cell), *names)


def load_results(folder: Path) -> Results:
    """Read the folder ``runs/<experiment>`` of a sweep: the origin with most cells (of several such, that of the first
    cell), the others ``elsewhere``.

    Raises ReportError when there is no results.parquet, or one of another version or of other trainings than the cells
    beside it; when a file lacks a column, cannot be read, changed or is another cell's; when a cell of the table has
    lost its metrics.json, or when successive halving stopped every cell.
    """
    path = folder / "results.parquet"
    if not path.exists():
        raise ReportError(
            f"{path} does not exist: run `probe-lab sweep {folder.name}` first, a report reads what it writes"
        )
    arrow = read_table(path)
    table = _columns(path, arrow, _COLUMNS)
    table = table[table["split"] == "test"].reset_index(drop=True)
    if table.empty:
        raise ReportError(f"{path} has no rows of the test split: no cell was trained, see {folder / 'failures.json'}")
    _require_names(path, table)
    first = table.drop_duplicates("cell")
    metrics = {cell: read_metrics(folder / cell) for cell in first["cell"]}
    require_cells(path, arrow.schema.metadata, metrics)
    for cell, content in metrics.items():
        require_files(folder / cell, content, (CONFIG,))
    axes = _short([_axes(path, axes) for axes in first["axes"]])
    origins: dict[Origin, dict[str, dict[str, object]]] = defaultdict(dict)
    for cell, its in zip(first["cell"], axes, strict=True):
        with _reading(folder / cell / CONFIG):
            origin = origin_of(_config(folder, cell))
        origins[origin][cell] = its
    failures = tuple(read_failures(folder))
    read = [_part(folder, table, origin, cells, metrics, failures) for origin, cells in origins.items()]
    parts = [part for part in read if len(part.cells)]
    if not parts:
        raise ReportError(
            f"successive halving stopped every cell of {path}: run `probe-lab sweep {folder.name}` again with "
            "halving.first=0, which trains them whole"
        )
    main = max(parts, key=lambda part: len(part.cells))
    return replace(main, elsewhere=tuple(part for part in parts if part is not main))


def _require_names(path: Path, table: pd.DataFrame) -> None:
    """ReportError where a name that becomes a folder or a file would leave its own: others may have written it."""
    cells, evaluators = (list(map(str, table[column].unique())) for column in ("cell", "evaluator"))
    wrong = [name for name in cells if problem_of(name)] + [name for name in evaluators if not valid_name(name)]
    if wrong:
        raise ReportError(f"{path} has the cell or evaluator {wrong[0]!r}, which is no name: run the sweep again")


def _part(
    folder: Path,
    table: pd.DataFrame,
    origin: Origin,
    axes: dict[str, dict[str, object]],
    metrics: Mapping[str, dict[str, Any]],
    failures: tuple[Failure, ...],
) -> Results:
    """The results of some cells, the keys of ``axes``, with the ``metrics`` of all. What all of them share goes without
    saying among them."""
    table = table[table["cell"].isin(axes)].reset_index(drop=True)
    table["extra"] = table["cell"].map(dict(zip(axes, _extras(list(axes.values())), strict=True)))
    table = _told_apart(table.astype({"taps": str, "loss": str}).drop(columns="axes"))
    cells = table.drop_duplicates("cell")[["cell", *VARIANT, "seed"]].reset_index(drop=True)
    read = [metrics[cell] for cell in cells["cell"]]
    cells["seconds"] = [float(content.get("seconds") or 0.0) for content in read]
    cells["stopped"] = [_stopped(content) for content in read]
    cells["shuffles"] = [int(content.get("shuffles") or 1) for content in read]
    validation = _validation(cells, [[row for row in content["metrics"] if row["split"] == "val"] for content in read])
    scores = pd.concat([table, validation], ignore_index=True)[[*_scores_columns()]]
    halved = cells["stopped"].str.startswith(_HALVING)
    whole = cells[~halved].reset_index(drop=True)
    means = _mean_over_seeds(scores[scores["cell"].isin(whole["cell"])])
    thresholds = {cell: content.get("thresholds", {}) for cell, content in zip(cells["cell"], read, strict=True)}
    return Results(folder, whole, cells[halved].reset_index(drop=True), scores, means, failures, origin, thresholds)


def _stopped(content: dict[str, Any]) -> str:
    """ "halving, epoch 3" where a training ended early, else ""."""
    stopped = content.get("stopped")
    return f"{stopped['by']}, epoch {stopped['epochs']}" if stopped else ""


def _told_apart(table: pd.DataFrame) -> pd.DataFrame:
    """Cells of one variant and training seed differ in a key outside the sweep (``train`` with overrides adds such):
    the later ones get their own variant, named by the hash that ends the cell's name."""
    cells = table.drop_duplicates("cell")
    later = cells[cells.duplicated([*VARIANT, "seed"])]
    named = {
        cell: json.dumps(read_json(extra) | {"cell": cell[-8:]})
        for cell, extra in zip(later["cell"], later["extra"], strict=True)
    }
    pairs = zip(table["cell"], table["extra"], strict=True)
    return table.assign(extra=[named.get(cell, extra) for cell, extra in pairs])


def _scores_columns() -> list[str]:
    return ["cell", *VARIANT, "seed", *_SCORED]


def _variants(frame: pd.DataFrame) -> list[Variant]:
    """The variant of every row."""
    columns = (frame[name].tolist() for name in VARIANT)
    return [Variant(*row) for row in zip(*columns, strict=True)]


def _mean_over_seeds(scores: pd.DataFrame) -> pd.DataFrame:
    key = [*VARIANT, "evaluator", "split", "metric"]
    grouped = scores.groupby(key, sort=False, dropna=False)
    means = grouped[["estimate", "lower", "upper", "prompts", "tied"]].mean()
    means["seeds"] = grouped["seed"].nunique()
    return means.reset_index()


def _validation(cells: pd.DataFrame, found: list[list[dict[str, Any]]]) -> pd.DataFrame:
    """The rows of the validation split, which only the cells' own files hold; ``found`` has a list per cell."""
    rows = pd.DataFrame([row for part in found for row in part], columns=_SCORED)
    known = cells[["cell", *VARIANT, "seed"]].loc[cells.index.repeat([len(part) for part in found])]
    frame = pd.concat([known.reset_index(drop=True), rows], axis=1)
    return frame.astype({"estimate": float, "lower": float, "upper": float})


def _config(folder: Path, cell: str) -> str:
    path = folder / cell / CONFIG
    with _reading(path):
        return regular(path).read_text(encoding="utf-8") if path.exists() else ""


@contextmanager
def _reading(path: Path) -> Iterator[None]:
    """ReportError that names the configuration for whatever it does not say as it should."""
    try:
        yield
    except (OSError, ValueError, ReportError) as error:
        raise ReportError(
            f"{path} cannot be read ({error}): delete its folder and sweep again, which trains it"
        ) from error


def _axes(path: Path, axes: object) -> dict[str, object]:
    """The swept keys that have no column of their own."""
    try:
        content = read_json(str(axes)) if axes else {}
        return {key: content[key] for key in sorted(content.keys() - set(_NAMED_AXES))}
    except (ValueError, AttributeError) as error:
        raise ReportError(f"{path} has the axes {axes!r}, which is no JSON object: run the sweep again") from error


def _short(axes: list[dict[str, object]]) -> list[dict[str, object]]:
    """Keys under the last part of their name where that says which is meant, else under the whole name."""
    swept = dict.fromkeys(key for row in axes for key in row)
    ends = Counter(key.rpartition(".")[2] for key in (*swept, *_NAMED_AXES))
    known = Counter(key.rpartition(".")[2] for key in leaf_keys())

    def name(key: str) -> str:
        end = key.rpartition(".")[2]
        return end if ends[end] == 1 and (key.split(".")[0] in _PLAIN_SECTIONS or known[end] <= 1) else key

    names = {key: name(key) for key in swept}
    return [{names[key]: value for key, value in row.items()} for row in axes]


def _extras(axes: list[dict[str, object]]) -> list[str]:
    """JSON of each cell's axes without what goes without saying: a key that all cells have, at its commonest
    value."""
    usual = set()
    for key in dict.fromkeys(key for row in axes for key in row):
        if all(key in row for row in axes):
            usual.add((key, Counter(json.dumps(row[key]) for row in axes).most_common(1)[0][0]))
    return [
        json.dumps({key: value for key, value in row.items() if (key, json.dumps(value)) not in usual}) for row in axes
    ]


def _columns(path: Path, table: pa.Table | pd.DataFrame, columns: list[str]) -> pd.DataFrame:
    """These columns of what was read from a file."""
    present = table.columns if isinstance(table, pd.DataFrame) else table.column_names
    missing = [name for name in columns if name not in present]
    if missing:
        raise ReportError(
            f"{path} lacks the columns {', '.join(missing)}: it is of another version, run `probe-lab sweep` again"
        )
    frame: pd.DataFrame = table[columns] if isinstance(table, pd.DataFrame) else table.select(columns).to_pandas()
    return frame
