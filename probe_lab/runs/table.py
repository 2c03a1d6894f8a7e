"""From the files of finished cells to one table: ``results.parquet`` of an experiment."""

from __future__ import annotations

import contextlib
import hashlib
import io
import json
from collections.abc import Collection, Iterable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

from probe_lab.errors import ReportError
from probe_lab.json_text import read_json
from probe_lab.regular_files import regular
from probe_lab.runs.cell import FinishedCell
from probe_lab.runs.failures import write_file
from probe_lab.runs.files import METRICS, finished_names, read_metrics, stored_digest

if TYPE_CHECKING:
    import pandas as pd
    import pyarrow as pa

RESULTS = "results.parquet"
RESULTS_VERSION = 1
_VERSION_KEY = b"probe_lab.results_version"
_CELLS_KEY = b"probe_lab.cells"
_CONTENT_KEY = b"probe_lab.sha256"

_COLUMNS: dict[str, str] = {
    "cell": "string",
    "model": "string",
    "step": "int64",
    "taps": "string",
    "loss": "string",
    "seed": "int64",
    "evaluator": "string",
    "split": "string",
    "metric": "string",
    "estimate": "float64",
    "lower": "float64",
    "upper": "float64",
    "prompts": "int64",
    "tied": "int64",
    "axes": "string",
}
_ORDER = ["step", "model", "taps", "loss", "seed", "cell", "evaluator", "metric"]


class Planned(Protocol):
    """A cell of a sweep, trained or not: its name, and the value of every swept key."""

    @property
    def name(self) -> str: ...
    @property
    def axes(self) -> Mapping[str, Any]: ...


def result_rows(metrics: Mapping[str, Any], axes: Mapping[str, Any]) -> list[dict[str, Any]]:
    """One row per evaluator and metric of the test split of one cell."""
    shared = {
        **{key: metrics[key] for key in ("cell", "model", "step", "loss", "seed")},
        "taps": "+".join(metrics["taps"]),
        "axes": json.dumps(dict(axes), sort_keys=True),
    }
    entries = (entry for entry in metrics["metrics"] if entry["split"] == "test")
    return [shared | {key: entry.get(key) for key in _COLUMNS if key not in shared} for entry in entries]


def collect(folder: Path, cells: Sequence[Planned], *, without: Collection[str] = ()) -> pd.DataFrame:
    """The results of all finished cells in ``folder``, columns as in ``results.parquet``, sorted.

    Those of ``cells`` have their axes; others, of earlier sweeps and trainings, those of the ``results.parquet`` that
    is there, or none. ``without`` names cells to leave out. Of a cell of an earlier sweep whose files are damaged, the
    rows of that table stay, so that its readers name it.

    Raises:
        ReportError: one of ``cells`` is damaged.
    """
    import pandas as pd

    earlier, planned = _earlier(folder), {cell.name for cell in cells}
    axes = _axes_of(earlier) | {cell.name: cell.axes for cell in cells}
    rows: list[dict[str, Any]] = []
    damaged: list[str] = []
    for name in finished_names(folder):
        if name in without:
            continue
        try:
            rows += result_rows(read_metrics(folder / name), axes.get(name, {}))
        except (ReportError, KeyError, TypeError):
            if name in planned:
                raise
            damaged.append(name)
    table, kept = _frame(rows), earlier[earlier["cell"].isin(damaged)]
    if len(kept):
        table = pd.concat([kept, table])
    return table.sort_values(_ORDER, ignore_index=True)


def _earlier(folder: Path) -> pd.DataFrame:
    """The ``results.parquet`` that a folder holds; an empty one where there is none that can be read."""
    try:
        table = read_results(folder)
    except ReportError:
        return _frame([])
    return table if set(_COLUMNS) <= set(table) else _frame([])


def _axes_of(table: pd.DataFrame) -> dict[str, Mapping[str, Any]]:
    """The axes of each cell of a ``results.parquet``."""
    first = table.drop_duplicates("cell")
    axes: dict[str, Mapping[str, Any]] = {}
    for name, text in zip(first["cell"], first["axes"], strict=True):
        with contextlib.suppress(ValueError, TypeError):  # its report says so
            axes[str(name)] = dict(read_json(text))
    return axes


def _frame(rows: Sequence[Mapping[str, Any]]) -> pd.DataFrame:
    """Rows with the columns and types of ``results.parquet``."""
    import pandas as pd

    table = pd.DataFrame(rows, columns=list(_COLUMNS))
    counts = ["prompts", "tied"]
    table[counts] = table[counts].fillna(0)
    return table.astype(_COLUMNS)


def write_results(folder: Path, table: pd.DataFrame) -> Path:
    """Write ``results.parquet`` whole or not at all. Its metadata hold the format version, a checksum, and the digest
    of each cell that it is of."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    arrow = pa.Table.from_pandas(table, preserve_index=False)
    digests = {str(name): stored_digest(folder / str(name)) for name in dict.fromkeys(table["cell"])}
    metadata = {
        _VERSION_KEY: str(RESULTS_VERSION).encode(),
        _CELLS_KEY: json.dumps({name: digest for name, digest in digests.items() if digest}).encode(),
    }
    arrow = arrow.replace_schema_metadata({**(arrow.schema.metadata or {}), **metadata})
    arrow = arrow.replace_schema_metadata({**arrow.schema.metadata, _CONTENT_KEY: _content(arrow).encode()})
    content = io.BytesIO()
    pq.write_table(arrow, content, write_page_checksum=True)
    return write_file(folder / RESULTS, content.getvalue())


def _content(table: pa.Table) -> str:
    """SHA-256 of all that a ``results.parquet`` says."""
    import pyarrow as pa

    digest = hashlib.sha256()
    for key, value in sorted((table.schema.metadata or {}).items()):
        if key != _CONTENT_KEY:
            digest.update(key + b"=" + value + b"\n")
    for name in table.column_names:
        column = table.column(name)
        if pa.types.is_floating(column.type) or pa.types.is_integer(column.type):
            content = column.to_numpy().tobytes()
        else:
            content = "\0".join("" if value is None else str(value) for value in column.to_pylist()).encode()
        digest.update(name.encode() + b"=" + content + b"\n")
    return digest.hexdigest()


def read_results(folder: Path) -> pd.DataFrame:
    """``results.parquet`` of an experiment's runs. ReportError when there is none, or one of another
    version."""
    path = folder / RESULTS
    if not path.exists():
        raise ReportError(f"there is no {path}: run `probe-lab sweep` on the experiment first")
    return read_table(path).to_pandas()


def read_table(path: Path) -> pa.Table:
    """A ``results.parquet`` as it was written. ReportError when it is damaged, changed, or of another version."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    again = "run `probe-lab sweep` again, it only writes the file anew"
    try:
        with pq.ParquetFile(regular(path), page_checksum_verification=True) as file:
            table = file.read(use_threads=False)  # small files, and many of them
        metadata = table.schema.metadata or {}
        changed = metadata.get(_CONTENT_KEY, b"").decode() not in ("", _content(table))
    except (OSError, ValueError, KeyError, IndexError, pa.ArrowException) as error:
        raise ReportError(f"{path} cannot be read ({str(error).strip() or type(error).__name__}): {again}") from error
    require_version(path, metadata)
    if changed:
        raise ReportError(f"{path} changed since it was written (sha256 differs): {again}")
    return table


def require_cells(path: Path, metadata: Mapping[bytes, bytes] | None, cells: Iterable[FinishedCell]) -> None:
    """ReportError where a ``results.parquet`` is of other trainings of these cells."""
    digests = _digests(metadata)
    for cell in cells:
        if digests.get(cell.name) and digests[cell.name] != cell.digest:
            raise ReportError(
                f"{path} holds other results of {cell.name} than its {METRICS}, those of before or of another runs "
                "folder: run `probe-lab sweep` again, it only writes the file anew"
            )


def _digests(metadata: Mapping[bytes, bytes] | None) -> dict[str, str]:
    """The digest of each training that a ``results.parquet`` with this metadata is of; none of an older one."""
    try:
        return dict(read_json((metadata or {}).get(_CELLS_KEY, b"{}")))
    except (ValueError, TypeError):
        return {}


def require_version(path: Path, metadata: Mapping[bytes, bytes] | None) -> None:
    """ReportError when a ``results.parquet`` with this metadata is of another version."""
    version = (metadata or {}).get(_VERSION_KEY, b"none").decode(errors="replace")
    if version != str(RESULTS_VERSION):
        raise ReportError(
            f"{path} is of version {version} and this is version {RESULTS_VERSION}: "
            "run `probe-lab sweep` again, it only writes the file anew"
        )
