"""From the files of finished cells to one table: ``results.parquet`` and ``failures.json`` of a sweep."""

from __future__ import annotations

import contextlib
import errno
import io
import json
import os
import secrets
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from probe_lab.errors import ReportError, SweepError
from probe_lab.json_text import read_json
from probe_lab.regular import regular
from probe_lab.sweep.grid import Cell

if TYPE_CHECKING:
    import pandas as pd

METRICS = "metrics.json"
RESULTS = "results.parquet"
FAILURES = "failures.json"
RESULTS_VERSION = 1
_VERSION_KEY = b"probe_lab.results_version"

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


def read_metrics(cell_folder: Path) -> dict[str, Any]:
    """The content of a finished cell's ``metrics.json``. ReportError when it is damaged."""
    path = cell_folder / METRICS
    try:
        content: dict[str, Any] = read_json(regular(path).read_bytes())
        content["metrics"], content["cell"]
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise ReportError(
            f"{path} cannot be read ({error!r}): delete its folder and sweep again, which trains it"
        ) from error
    return content


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

    ``keep_others``: rows of ``folder``/results.parquet of other cells that are still on disk stay.
    """
    import pandas as pd

    rows: list[dict[str, Any]] = []
    for cell in cells:
        if is_finished(folder / cell.name):
            rows += result_rows(read_metrics(folder / cell.name), cell.axes)
    table = pd.DataFrame(rows, columns=list(_COLUMNS))
    counts = ["prompts", "tied"]
    table[counts] = table[counts].fillna(0)
    table = table.astype(_COLUMNS)
    if keep_others and (folder / RESULTS).exists():
        old = read_results(folder)
        alive = {name for name in old["cell"].unique() if is_finished(folder / name)} - set(table["cell"])
        table = pd.concat([old[old["cell"].isin(alive)], table])
    return table.sort_values(_ORDER, ignore_index=True)


def write_results(folder: Path, table: pd.DataFrame) -> Path:
    """Write ``results.parquet`` whole or not at all; the format version is in the file metadata."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    arrow = pa.Table.from_pandas(table, preserve_index=False)
    arrow = arrow.replace_schema_metadata(
        {**(arrow.schema.metadata or {}), _VERSION_KEY: str(RESULTS_VERSION).encode()}
    )
    content = io.BytesIO()
    pq.write_table(arrow, content)
    return write_whole(folder / RESULTS, content.getvalue())


def read_results(folder: Path) -> pd.DataFrame:
    """``results.parquet`` of an experiment's runs. ReportError when there is none, or one of another
    version."""
    import pyarrow.parquet as pq

    path = folder / RESULTS
    if not path.exists():
        raise ReportError(f"there is no {path}: run `probe-lab sweep` on the experiment first")
    try:
        table = pq.read_table(regular(path))
    except (OSError, ValueError) as error:  # pyarrow's errors are ValueErrors
        raise ReportError(
            f"{path} cannot be read: run `probe-lab sweep` again, it only writes the file anew"
        ) from error
    require_version(path, table.schema.metadata)
    return table.to_pandas()


def require_version(path: Path, metadata: Mapping[bytes, bytes] | None) -> None:
    """ReportError when a ``results.parquet`` with this metadata is of another version."""
    version = (metadata or {}).get(_VERSION_KEY, b"none").decode()
    if version != str(RESULTS_VERSION):
        raise ReportError(
            f"{path} is of version {version} and this is version {RESULTS_VERSION}: "
            "run `probe-lab sweep` again, it only writes the file anew"
        )


def write_failures(folder: Path, failures: Iterable[Failure]) -> Path:
    """``failures.json``: a list of {cell, error, traceback}, empty when all went well."""
    content = [{"cell": f.cell, "error": f.error, "traceback": f.trace} for f in failures]
    return write_whole(folder / FAILURES, (json.dumps(content, indent=1) + "\n").encode())


def read_failures(folder: Path) -> list[Failure]:
    """What ``write_failures`` left, nothing where there is no such file or it is damaged: it is written anew."""
    try:
        entries = read_json(regular(folder / FAILURES).read_bytes())
        return [Failure(entry["cell"], entry["error"], entry["traceback"]) for entry in entries]
    except (OSError, ValueError, KeyError, TypeError):
        return []


def write_whole(path: Path, content: bytes) -> Path:
    """Write a file under another name, force it to the disk, rename it. SweepError when the folder refuses
    it."""
    aside = path.parent / f".{path.name}.{secrets.token_hex(4)}"
    try:
        with open(aside, "wb") as file:
            file.write(content)
            file.flush()
            os.fsync(file.fileno())
        os.replace(aside, path)
    except OSError as error:
        raise cannot_write(path.parent, error) from error
    finally:
        with contextlib.suppress(OSError):  # renamed, or never made
            aside.unlink()
    return path


def cannot_write(folder: Path, error: OSError) -> SweepError:
    """What the operating system says about a runs folder, with what to do."""
    advice = "make room" if error.errno in (errno.ENOSPC, errno.EDQUOT) else "choose another folder with runs=FOLDER"
    return SweepError(f"cannot write in {folder}: {error.strerror or error}; {advice} and run the same command again")
