"""The finished cells of an experiment side by side, the table behind ``probe-lab compare``."""

from __future__ import annotations

from collections.abc import Collection, Hashable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import yaml
from rich.markup import escape

from probe_lab.errors import ReportError, nearest
from probe_lab.fitting import Fitting, natural_width
from probe_lab.sweep.results import estimate_of, read_metrics

if TYPE_CHECKING:
    import pandas as pd
    from rich.table import Table

_SHOWN = ("model", "step", "taps", "loss", "seed")
_ELSEWHERE = (
    "name",
    "runs",
    "reports",
    "tracking",
    "workers",
    "sweep",
    "capture",
    "evaluators",
    "probe.evaluators",
)
_ELSEWHERE_KEYS = {"probe.model", "probe.step", "probe.taps", "probe.loss", "trainer.seed", "cache.root"}


def compare(
    runs_folder: Path,
    *,
    metric: str = "srcc_within",
    evaluator: str | None = None,
    sort: bool = True,
    limit: int | None = None,
    average_seeds: bool = False,
    cells: Collection[str] | None = None,
) -> pd.DataFrame:
    """One row per finished cell of an experiment's runs folder, with one metric on the test split.

    Columns: cell, model, step, taps (joined by "+"), loss, seed, then every config key in which the cells
    differ, then per evaluator ``<evaluator>``, ``<evaluator>/lower`` and ``<evaluator>/upper`` (NaN where a
    cell has none). All cells in the folder are shown, also those of earlier sweeps and of ``train``.
    ``sort``: the best by the first evaluator comes first. ``average_seeds``: cells that differ only in
    their training seed become one row with the means of estimates and bounds, and ``seeds``, their number,
    in place of cell and seed. ``cells``: only these.

    Raises:
        ReportError: no finished cell, or no cell has this metric or evaluator.
    """
    import pandas as pd

    folders = [
        path.parent
        for path in sorted(runs_folder.glob("*/metrics.json"))
        if (path.parent.name in cells if cells is not None else not path.parent.name.startswith("."))
    ]
    contents = [read_metrics(folder) for folder in folders]
    if not contents:
        raise ReportError(f"no cell in {runs_folder} is finished: run `probe-lab sweep` or `probe-lab train` first")
    evaluators = _evaluators(contents, metric, evaluator, runs_folder)
    differing = _differing([_config(folder) for folder in folders])
    rows = []
    for content, changes in zip(contents, differing, strict=True):
        row = {
            "cell": content["cell"],
            **{key: content[key] for key in _SHOWN},
            "taps": "+".join(content["taps"]),
        }
        row |= changes
        for name in evaluators:
            entry = estimate_of(content, metric, name) or {}
            row |= {
                name: entry.get("estimate"),
                f"{name}/lower": entry.get("lower"),
                f"{name}/upper": entry.get("upper"),
            }
        rows.append(row)
    table = pd.DataFrame(rows)
    values = [column for name in evaluators for column in (name, f"{name}/lower", f"{name}/upper")]
    table[values] = table[values].astype("float64")
    if average_seeds:
        keys = [column for column in table.columns if column not in (*values, "cell", "seed")]
        groups = table.groupby(keys, dropna=False, sort=False)
        table = groups[values].mean().assign(seeds=groups.size()).reset_index()[[*keys, "seeds", *values]]
    if sort:
        table = table.sort_values(evaluators[0], ascending=False, na_position="last", kind="stable")
    return table.head(limit if limit is not None else len(table)).reset_index(drop=True)


def comparison_table(
    runs_folder: Path,
    *,
    metric: str = "srcc_within",
    evaluator: str | None = None,
    limit: int | None = None,
    average_seeds: bool = False,
    cells: Collection[str] | None = None,
) -> Fitting:
    """``compare`` for a terminal: "estimate [lower, upper]" per evaluator, the best first.

    A line per cell and a column per evaluator where there is room, else a line per tap; in narrow terminals a line
    per evaluator, beside what the cell is.
    """
    frame = compare(
        runs_folder,
        metric=metric,
        evaluator=evaluator,
        limit=limit,
        average_seeds=average_seeds,
        cells=cells,
    )
    evaluators = [c.removesuffix("/lower") for c in frame.columns if c.endswith("/lower")]
    keys = [c for c in frame.columns if c != "cell" and c.partition("/")[0] not in evaluators]
    title = f"{metric} on unseen prompts, with 95 % intervals over prompts"
    wide = [_by_column(frame, keys, evaluators, title, between) for between in ("+", "+\n")]
    forms = tuple((natural_width(table), table) for table in wide)
    return Fitting(forms, _by_line(frame, keys, evaluators, title))


def _by_column(frame: pd.DataFrame, keys: list[str], evaluators: list[str], title: str, between: str) -> Table:
    table = _table(title)
    for key in keys:
        table.add_column(key)
    for name in evaluators:
        table.add_column(name, justify="right", no_wrap=True)
    for row in frame.to_dict("records"):
        told = (str(row[key]).replace("+", between) if key == "taps" else str(row[key]) for key in keys)
        table.add_row(*map(escape, told), *(_value(row, name) for name in evaluators))
    return table


def _by_line(frame: pd.DataFrame, keys: list[str], evaluators: list[str], title: str) -> Table:
    """What a cell is in one column, with its taps below each other; its evaluators beside, one on each line."""
    table = _table(title, edge=False)
    table.add_column("cell", overflow="fold")
    table.add_column("evaluator", overflow="fold")
    table.add_column("estimate", justify="right", no_wrap=True)
    for row in frame.to_dict("records"):
        told = [str(row[key]) if key in ("model", "loss") else f"{key} {row[key]}" for key in keys if key != "taps"]
        taps = str(row["taps"]).split("+") if row["taps"] else []
        values = [_value(row, name) for name in evaluators]
        table.add_row(escape("\n".join([", ".join(told), *taps])), "\n".join(evaluators), "\n".join(values))
        table.add_section()
    return table


def _table(title: str, *, edge: bool = True) -> Table:
    from rich.table import Table

    return Table(title=title, title_justify="left", show_edge=edge, pad_edge=edge)


def _value(row: Mapping[Hashable, Any], name: str) -> str:
    return _interval(row[name], row[f"{name}/lower"], row[f"{name}/upper"])


def _interval(estimate: float, lower: float, upper: float) -> str:
    return escape(f"{estimate:.3f} [{lower:.3f}, {upper:.3f}]") if estimate == estimate else "-"


def _evaluators(cells: list[dict[str, Any]], metric: str, wanted: str | None, folder: Path) -> list[str]:
    """The evaluators that some cell has the metric for, in the order of the files, or the wanted one."""
    tested = [entry for content in cells for entry in content["metrics"] if entry["split"] == "test"]
    metrics = dict.fromkeys(entry["metric"] for entry in tested)
    if metric not in metrics:
        raise ReportError(f"no cell in {folder} has the metric '{metric}': {nearest(metric, metrics)}")
    evaluators = list(dict.fromkeys(entry["evaluator"] for entry in tested if entry["metric"] == metric))
    if wanted is not None and wanted not in evaluators:
        raise ReportError(f"no cell in {folder} predicts the evaluator '{wanted}': {nearest(wanted, evaluators)}")
    return evaluators if wanted is None else [wanted]


def _config(folder: Path) -> dict[str, Hashable]:
    """Flat config of a cell; its own file says it, whatever the sweep was called with."""
    loader = getattr(yaml, "CSafeLoader", yaml.SafeLoader)  # ten times faster, where PyYAML has it
    return dict(_flat(yaml.load((folder / "config.yaml").read_bytes(), Loader=loader)))


def _differing(configs: list[dict[str, Hashable]]) -> list[dict[str, Hashable]]:
    """Of each config, the keys that do not have one value everywhere; those with columns of their own left
    out."""
    keys = dict.fromkeys(key for config in configs for key in config)
    swept = [key for key in keys if len({config.get(key) for config in configs}) > 1 and not _is_elsewhere(key)]
    return [{key: config.get(key) for key in swept} for config in configs]


def _is_elsewhere(key: str) -> bool:
    return key in _ELSEWHERE_KEYS or any(key == name or key.startswith(f"{name}.") for name in _ELSEWHERE)


def _flat(content: Mapping[str, Any], prefix: str = "") -> list[tuple[str, Hashable]]:
    found: list[tuple[str, Hashable]] = []
    for key, value in content.items():
        if isinstance(value, Mapping):
            found += _flat(value, f"{prefix}{key}.")
        else:
            found.append((prefix + key, "+".join(map(str, value)) if isinstance(value, list) else value))
    return found
