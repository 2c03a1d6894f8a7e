"""From the files of finished cells to one table: ``results.parquet`` and ``failures.json`` of a sweep."""

from __future__ import annotations

import errno
import hashlib
import io
import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from probe_lab.cache.files import write_whole
from probe_lab.cells import METRICS, read_metrics, stored_digest
from probe_lab.errors import ReportError, SweepError
from probe_lab.json_text import read_json
from probe_lab.names import problem_of
from probe_lab.regular import regular
from probe_lab.sweep.grid import Cell

if TYPE_CHECKING:
    import pandas as pd
    import pyarrow as pa

RESULTS = "results.parquet"
FAILURES = "failures.json"
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


@dataclass(frozen=True)
class Failure:
    """A cell that could not be trained: one sentence, and the traceback where there is one."""

    cell: str
    error: str
    trace: str = ""


def is_finished(cell_folder: Path) -> bool:
    """Whether a cell has been trained: its folder is renamed into place with ``metrics.json`` in it."""
    return (cell_folder / METRICS).is_file()


def was_stopped(metrics: Mapping[str, Any]) -> bool:
    """Whether successive halving ended the training of a finished cell early."""
    return bool(metrics.get("stopped", {}).get("by") == "halving")


def estimate_of(metrics: Mapping[str, Any], metric: str, evaluator: str, *, split: str) -> dict[str, Any] | None:
    """The entry of one metric on one split, with ``estimate``, ``lower`` and ``upper``; None when it has none."""
    for entry in metrics["metrics"]:
        if (entry["split"], entry["evaluator"], entry["metric"]) == (split, evaluator, metric):
            found: dict[str, Any] = entry
            return found if found["estimate"] is not None else None
    return None


def result_rows(metrics: Mapping[str, Any], axes: Mapping[str, Any]) -> list[dict[str, Any]]:
    """One row per evaluator and metric of the test split of one cell."""
    shared = {
        **{key: metrics[key] for key in ("cell", "model", "step", "loss", "seed")},
        "taps": "+".join(metrics["taps"]),
        "axes": json.dumps(dict(axes), sort_keys=True),
    }
    entries = (entry for entry in metrics["metrics"] if entry["split"] == "test")
    return [shared | {key: entry.get(key) for key in _COLUMNS if key not in shared} for entry in entries]


def collect(folder: Path, cells: Sequence[Cell], *, keep_others: bool = False) -> pd.DataFrame:
    """The results of the finished ones of ``cells``, columns as in ``results.parquet``, sorted.

    ``keep_others``: rows of ``folder``/results.parquet of other cells that are still on disk stay; those of a cell that
    was trained again since are made anew from its files.
    """
    import pandas as pd

    rows: list[dict[str, Any]] = []
    for cell in cells:
        if is_finished(folder / cell.name):
            rows += result_rows(read_metrics(folder / cell.name), cell.axes)
    own = {cell.name for cell in cells}
    if not keep_others or not (folder / RESULTS).exists():
        return _frame(rows).sort_values(_ORDER, ignore_index=True)
    arrow = read_table(folder / RESULTS)
    old, digests = arrow.to_pandas(), _digests(arrow.schema.metadata)
    kept = {name for name in old["cell"].unique() if is_finished(folder / name)} - own
    for name in sorted(kept):
        # One that cannot be read has no digest: its rows stay without one, and its readers refuse it.
        if stored_digest(folder / name) not in ("", digests.get(name, "")):
            axes = old.loc[old["cell"] == name, "axes"].iloc[0]
            rows += result_rows(read_metrics(folder / name), json.loads(axes) if axes else {})
            kept.remove(name)
    return pd.concat([old[old["cell"].isin(kept)], _frame(rows)]).sort_values(_ORDER, ignore_index=True)


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
    return _write(folder / RESULTS, content.getvalue())


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


def require_cells(path: Path, metadata: Mapping[bytes, bytes] | None, cells: Mapping[str, Mapping[str, Any]]) -> None:
    """ReportError where a ``results.parquet`` is of other trainings than those whose ``metrics`` lie beside it."""
    digests = _digests(metadata)
    for name, metrics in cells.items():
        if digests.get(name) and digests[name] != metrics.get("digest"):
            raise ReportError(
                f"{path} holds other results of {name} than its {METRICS}, those of before or of another runs folder: "
                "run `probe-lab sweep` again, it only writes the file anew"
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


def write_failures(folder: Path, failures: Iterable[Failure]) -> Path:
    """``failures.json``: a list of {cell, error, traceback}, empty when all went well."""
    content = [{"cell": f.cell, "error": f.error, "traceback": f.trace} for f in failures]
    return _write(folder / FAILURES, (json.dumps(content, indent=1) + "\n").encode())


def read_failures(folder: Path) -> list[Failure]:
    """What ``write_failures`` left, nothing where there is no such file. ReportError when it is damaged."""
    path = folder / FAILURES
    if not path.exists():
        return []
    try:
        return [_failure(entry) for entry in read_json(regular(path).read_bytes())]
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise ReportError(
            f"{path} is not a list of {{cell, error, traceback}} ({error}): "
            "run `probe-lab sweep` again, it only writes the file anew"
        ) from error


def _failure(entry: Any) -> Failure:
    """KeyError, TypeError or ValueError for what is none."""
    cell, error, trace = entry["cell"], entry["error"], entry.get("traceback", "")
    if not all(isinstance(text, str) for text in (cell, error, trace)):
        raise TypeError(f"the entry of {cell!r} holds other values than texts")
    if problem_of(cell):
        raise ValueError(f"the cell {cell!r} is no name")
    return Failure(cell, error, trace)


def _write(path: Path, content: bytes) -> Path:
    """Write a file whole or not at all. SweepError when the folder refuses it."""
    try:
        write_whole(path, content)
    except OSError as error:
        raise cannot_write(path.parent, error) from error
    return path


def cannot_write(folder: Path, error: OSError) -> SweepError:
    """What the operating system says about a runs folder, with what to do."""
    advice = "make room" if error.errno in (errno.ENOSPC, errno.EDQUOT) else "choose another folder with runs=FOLDER"
    return SweepError(f"cannot write in {folder}: {error.strerror or error}; {advice} and run the same command again")
