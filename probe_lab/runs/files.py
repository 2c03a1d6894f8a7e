"""The files of one trained cell, and what ties them together: each reader compares what it reads.

``metrics.json`` is written last. Beside what the cell measured it holds ``files``, the SHA-256 of every other file, and
``digest``, that of all its own content. Cells that were trained before there were these have neither, and are read as
they are.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from probe_lab.cache.layout import valid_name
from probe_lab.errors import ReportError
from probe_lab.json_text import read_json
from probe_lab.regular_files import regular
from probe_lab.safe_names import problem_of

if TYPE_CHECKING:
    import pandas as pd

METRICS = "metrics.json"
CONFIG = "config.yaml"
PREDICTIONS = "predictions.parquet"
DESCRIPTION = "probe.json"
WEIGHTS = "probe.safetensors"
_OTHERS = (CONFIG, PREDICTIONS, DESCRIPTION, WEIGHTS)
AGAIN = "sweep again, which trains it anew, or delete its folder"


def is_finished(folder: Path) -> bool:
    """Whether a cell has been trained: its folder is renamed into place with ``metrics.json`` in it."""
    return (folder / METRICS).is_file()


def finished_names(runs_folder: Path) -> list[str]:
    """The names of all finished cells in a runs folder, sorted; hidden ones do not count."""
    names = (path.parent.name for path in runs_folder.glob(f"*/{METRICS}"))
    return sorted(name for name in names if not name.startswith("."))


def finished_at(folder: Path) -> int | None:
    """When the last file of a cell was written, in nanoseconds since 1970; None where it is not finished."""
    try:
        return (folder / METRICS).stat().st_mtime_ns
    except OSError:
        return None


def sealed(folder: Path, metrics: Mapping[str, Any]) -> dict[str, Any]:
    """``metrics`` of a cell whose other files lie in ``folder``, with ``files`` and ``digest``."""
    files = {name: _sha256(folder / name) for name in _OTHERS if (folder / name).is_file()}
    content = {**metrics, "files": files}
    return {**content, "digest": digest_of(content)}


def digest_of(content: Mapping[str, Any]) -> str:
    """SHA-256 of all that a ``metrics.json`` says, its own digest aside; of older ones too."""
    said = {key: value for key, value in content.items() if key != "digest"}
    return hashlib.sha256(json.dumps(said, sort_keys=True).encode()).hexdigest()


def read_metrics(folder: Path) -> dict[str, Any]:
    """The content of a cell's ``metrics.json``.

    ReportError when it is missing, damaged, changed since it was written, or of another cell.
    """
    path = folder / METRICS
    try:
        content = read_json(regular(path).read_bytes())
        _check_shape(content)
    except (OSError, ValueError, KeyError, TypeError) as error:
        reason = error.strerror if isinstance(error, OSError) else f"{type(error).__name__}: {error}"
        raise ReportError(f"{path} cannot be read ({reason}): {AGAIN}") from error
    if "digest" in content:
        if content["digest"] != digest_of(content):
            raise ReportError(f"{path} changed since it was written (sha256 differs): {AGAIN}")
        if content["cell"] != folder.name:
            raise ReportError(f"{path} is of the cell {content['cell']}, copied or renamed to here: {AGAIN}")
    return dict(content)


def require_files(folder: Path, metrics: Mapping[str, Any], names: Iterable[str] = _OTHERS) -> None:
    """ReportError for the first of these files that is not the one which was written with these ``metrics``."""
    files = metrics.get("files")
    if files is None:
        return
    for name in names:
        if name == METRICS:  # which checks itself
            continue
        path = folder / name
        if not path.is_file():
            if name in files:
                raise ReportError(f"{path} is missing: {AGAIN}")
        elif name not in files:
            raise ReportError(f"{path} is of another cell, this one has no such file: delete it")
        elif _sha256(path) != files[name]:
            raise ReportError(
                f"{path} is not the file that was written with {METRICS}, it changed or is of another cell: {AGAIN}"
            )


def require_file(folder: Path, name: str) -> None:
    """As ``require_files`` of one file, of a folder that may have no ``metrics.json``: a probe alone."""
    if is_finished(folder):
        require_files(folder, read_metrics(folder), (name,))


def stored_digest(folder: Path) -> str:
    """The digest of a cell; "" where it has none, or cannot be read: its readers say so."""
    try:
        return str(read_metrics(folder).get("digest", ""))
    except ReportError:
        return ""


def read_predictions(folder: Path, metrics: Mapping[str, Any] | None = None) -> pd.DataFrame:
    """``predictions.parquet`` of a cell; ``metrics`` are those of its file where that has been read.

    ReportError when it is missing, damaged, or of another cell.
    """
    import pandas as pd

    path = folder / PREDICTIONS
    if metrics is None:
        require_file(folder, PREDICTIONS)
    else:
        require_files(folder, metrics, (PREDICTIONS,))
    try:
        return pd.read_parquet(regular(path))
    except (OSError, ValueError, KeyError, IndexError) as error:  # pyarrow's errors are ValueErrors or KeyErrors
        raise ReportError(f"{path} cannot be read: {AGAIN}") from error


def objection(folder: Path) -> str:
    """What is wrong with a finished cell, by reading all its files; "" where nothing is."""
    try:
        require_files(folder, read_metrics(folder))
    except ReportError as error:
        return str(error).removesuffix(AGAIN).rstrip(": ")
    return ""


def bytes_digest(folder: Path) -> str:
    """SHA-256 of the bytes of a cell's ``metrics.json``, which is that of its training; "" where there is none."""
    try:
        return hashlib.sha256((folder / METRICS).read_bytes()).hexdigest()
    except OSError:
        return ""


def _check_shape(content: Any) -> None:
    """KeyError, TypeError or ValueError for what is no ``metrics.json``."""
    for key in ("cell", "metrics"):
        if not isinstance(content, dict) or key not in content:
            raise KeyError(key)
    if not isinstance(content["cell"], str) or not isinstance(content["metrics"], list):
        raise TypeError("'cell' is no text or 'metrics' no list")
    if problem_of(content["cell"]):
        raise ValueError(f"the cell {content['cell']!r} is no name")
    for entry in content["metrics"]:
        for key in ("evaluator", "split", "metric"):
            if not isinstance(entry, dict) or not isinstance(entry[key], str):
                raise TypeError(f"an entry of 'metrics' has no {key}")
            if not valid_name(entry[key]):  # reports and runs make files and folders of it
                raise ValueError(f"the {key} {entry[key]!r} is no name")
        for key in ("estimate", "lower", "upper"):
            value = entry.get(key)
            if isinstance(value, bool) or not isinstance(value, int | float | None):
                raise TypeError(f"'{key}' of {entry['metric']} is {value!r}")
    if not isinstance(content.get("files", {}), dict):
        raise TypeError("'files' is no mapping")


def _sha256(path: Path) -> str:
    try:
        with open(regular(path), "rb") as file:
            return hashlib.file_digest(file, "sha256").hexdigest()
    except OSError as error:
        raise ReportError(f"{path} cannot be read ({error.strerror}): {AGAIN}") from error
