"""Reads what a sweep wrote into what a report shows."""

from __future__ import annotations

import json
from collections import Counter, defaultdict
from collections.abc import Collection, Iterable, Mapping
from dataclasses import replace
from pathlib import Path

import pandas as pd

from probe_lab.cache.layout import valid_name
from probe_lab.config.keys import leaf_keys
from probe_lab.errors import ConfigError, ReportError
from probe_lab.json_text import read_json
from probe_lab.report.analysis.origin import Origin, origin_of
from probe_lab.report.analysis.results import VARIANT, Results, columns_of
from probe_lab.runs import FinishedCell, Runs
from probe_lab.runs.configs import differing
from probe_lab.runs.failures import Failure, read_failures
from probe_lab.runs.table import RESULTS, read_table, require_cells
from probe_lab.safe_names import problem_of
from probe_lab.sweep.normalise import unread_keys

_COLUMNS = [
    "cell", "model", "step", "taps", "loss", "seed", "evaluator", "split",
    "metric", "estimate", "lower", "upper", "prompts", "tied", "axes",
]  # fmt: skip
_NAMED_AXES = ("probe.model", "probe.step", "probe.taps", "probe.loss", "trainer.seed")
_PLAIN_SECTIONS = ("probe", "trainer")
"""Their keys are called by their last part even where another section has one like it."""
_SCORED = ["evaluator", "split", "metric", "estimate", "lower", "upper", "prompts", "tied"]

Axes = Mapping[str, object]
"""Swept keys that have no column of their own, and their values for one cell."""


def load_results(folder: Path) -> Results:
    """Read the folder ``runs/<experiment>`` of a sweep: the origin with most cells (of several such, that of the first
    cell), the others ``elsewhere``.

    Raises ReportError when there is no results.parquet, or one of another version or of other trainings than the cells
    beside it; when a file lacks a column, cannot be read, changed or is another cell's; when a cell of the table has
    lost its metrics.json, or when successive halving stopped every cell.
    """
    path = folder / RESULTS
    if not path.exists():
        raise ReportError(
            f"{path} does not exist: run `probe-lab sweep {folder.name}` first, a report reads what it writes"
        )
    arrow = read_table(path)
    table = columns_of(path, arrow, _COLUMNS)
    table = table[table["split"] == "test"].reset_index(drop=True)
    if table.empty:
        raise ReportError(f"{path} has no rows of the test split: no cell was trained, see {folder / 'failures.json'}")
    _require_names(path, table)
    first = table.drop_duplicates("cell")
    trained = {cell.name: cell for cell in Runs(folder).read(folder / name for name in first["cell"])}
    require_cells(path, arrow.schema.metadata, trained.values())
    axes = {str(name): _axes(path, axes) for name, axes in zip(first["cell"], first["axes"], strict=True)}
    failures = tuple(read_failures(folder))
    origins = _by_origin(axes, trained)
    read = [_part(folder, table, origin, own, trained, failures) for origin, own in origins.items()]
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
    axes: Mapping[str, Axes],
    trained: Mapping[str, FinishedCell],
    failures: tuple[Failure, ...],
) -> Results:
    """The results of some of the ``trained`` cells, the keys of ``axes``."""
    table = table[table["cell"].isin(axes)].reset_index(drop=True)
    table["extra"] = table["cell"].map({name: json.dumps(row) for name, row in axes.items()})
    table = _told_apart(table.astype({"taps": str, "loss": str}).drop(columns="axes"))
    cells = table.drop_duplicates("cell")[["cell", *VARIANT, "seed"]].reset_index(drop=True)
    read = [trained[name] for name in cells["cell"]]
    cells["seconds"] = [cell.seconds for cell in read]
    cells["stopped"] = [_stopped(cell) for cell in read]
    cells["shuffles"] = [cell.shuffles for cell in read]
    validation = _validation(cells, read)
    scores = pd.concat([table, validation], ignore_index=True)[[*_scores_columns()]]
    halved = pd.Series([cell.halved for cell in read], dtype=bool)
    whole = cells[~halved].reset_index(drop=True)
    means = _mean_over_seeds(scores[scores["cell"].isin(whole["cell"])])
    own = {cell.name: cell for cell in read}
    return Results(folder, whole, cells[halved].reset_index(drop=True), scores, means, failures, origin, own)


def _stopped(cell: FinishedCell) -> str:
    """ "halving, epoch 3" where a training ended early, else ""."""
    stopped = cell.content.get("stopped")
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


def _mean_over_seeds(scores: pd.DataFrame) -> pd.DataFrame:
    key = [*VARIANT, "evaluator", "split", "metric"]
    grouped = scores.groupby(key, sort=False, dropna=False)
    means = grouped[["estimate", "lower", "upper", "prompts", "tied"]].mean()
    means["seeds"] = grouped["seed"].nunique()
    return means.reset_index()


def _validation(cells: pd.DataFrame, trained: Iterable[FinishedCell]) -> pd.DataFrame:
    """The rows of the validation split, which only the files of the cells hold; ``trained`` are those of ``cells``."""
    entries = [[entry for entry in cell.content["metrics"] if entry["split"] == "val"] for cell in trained]
    rows = pd.DataFrame([entry for part in entries for entry in part], columns=_SCORED)
    names = cells[["cell", *VARIANT, "seed"]].loc[cells.index.repeat([len(part) for part in entries])]
    frame = pd.concat([names.reset_index(drop=True), rows], axis=1)
    return frame.astype({"estimate": float, "lower": float, "upper": float})


def _axes(path: Path, axes: object) -> Axes:
    """The swept keys that have no column of their own."""
    try:
        content = read_json(str(axes)) if axes else {}
        return {key: content[key] for key in sorted(content.keys() - set(_NAMED_AXES))}
    except (ValueError, AttributeError) as error:
        raise ReportError(f"{path} has the axes {axes!r}, which is no JSON object: run the sweep again") from error


def _by_origin(axes: Mapping[str, Axes], trained: Mapping[str, FinishedCell]) -> dict[Origin, dict[str, Axes]]:
    """The axes of the cells of each origin that have to be told, by short names of their keys."""
    origins: dict[Origin, dict[str, Axes]] = defaultdict(dict)
    for name, cell in trained.items():
        origins[origin_of(cell.written)][name] = axes[name]
    swept = {key for row in axes.values() for key in row}
    complete = {origin: _with_differences(own, trained) for origin, own in origins.items()}
    short = _names({key for own in complete.values() for row in own.values() for key in row})
    return {
        origin: {
            name: {short[key]: value for key, value in row.items()}
            for name, row in _unusual(own, trained, swept).items()
        }
        for origin, own in complete.items()
    }


def _with_differences(axes: Mapping[str, Axes], trained: Mapping[str, FinishedCell]) -> dict[str, Axes]:
    """Axes of cells of one origin that may be of several sweeps: each has a value of every key that one of the sweeps
    is over, and of every further one in which the configurations differ."""
    configs = {name: trained[name].config for name in axes if trained[name].written}
    swept = dict.fromkeys(key for row in axes.values() for key in row)
    further = [key for key in differing(list(configs.values())) if not {key, key.rpartition(".")[0]} & swept.keys()]
    complete: dict[str, Axes] = {}
    for name, row in axes.items():
        config, unread = configs.get(name, {}), _unread(trained[name])
        sections = {key.partition(".")[0] for key in trained[name].written}
        keys = [key for key in (*swept, *further) if key in config and key not in unread]
        stated = {key: _plain(config[key]) for key in keys if key.partition(".")[0] in sections}
        values = {**stated, **row}
        complete[name] = {key: values[key] for key in sorted(values)}
    return complete


def _unusual(axes: Mapping[str, Axes], trained: Mapping[str, FinishedCell], swept: Collection[str]) -> dict[str, Axes]:
    """Axes without the commonest value of each key that all cells state whose model reads it. The only value of a
    ``swept`` key that some models do not read stays: it belongs to those that do."""
    kept = {name: dict(row) for name, row in axes.items()}
    for key in dict.fromkeys(key for row in axes.values() for key in row):
        stated = {name: json.dumps(row[key]) for name, row in axes.items() if key in row}
        of_some = len(stated) < len(axes)
        if of_some and key in swept and len(set(stated.values())) == 1:
            continue
        if all(name in stated or key in _unread(trained[name]) for name in axes):
            usual = Counter(stated.values()).most_common(1)[0][0]
            for name in (name for name, value in stated.items() if value == usual):
                del kept[name][key]
    return dict(kept)


def _unread(cell: FinishedCell) -> frozenset[str]:
    """The keys that cannot have changed its result; none where a later version names its model or loss."""
    try:
        return unread_keys(cell.model, str(cell.content["loss"]))
    except ConfigError:
        return frozenset()


def _plain(value: object) -> object:
    return list(value) if isinstance(value, tuple) else value


def _names(swept: Collection[str]) -> dict[str, str]:
    """Keys by the last part of their name where that says which is meant, else by the whole name."""
    ends = Counter(key.rpartition(".")[2] for key in (*swept, *_NAMED_AXES))
    known = Counter(key.rpartition(".")[2] for key in leaf_keys())

    def name(key: str) -> str:
        end = key.rpartition(".")[2]
        return end if ends[end] == 1 and (key.split(".")[0] in _PLAIN_SECTIONS or known[end] <= 1) else key

    return {key: name(key) for key in swept}
