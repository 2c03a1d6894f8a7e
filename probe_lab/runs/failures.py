"""``failures.json`` of a sweep, and how its files are written."""

from __future__ import annotations

import errno
import json
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from probe_lab.cache.files import write_whole
from probe_lab.errors import ReportError, SweepError
from probe_lab.json_text import read_json
from probe_lab.regular_files import regular
from probe_lab.safe_names import problem_of

FAILURES = "failures.json"


@dataclass(frozen=True)
class Failure:
    """A cell that could not be trained: one sentence, and the traceback where there is one."""

    cell: str
    error: str
    trace: str = ""


def write_failures(folder: Path, failures: Iterable[Failure]) -> Path:
    """``failures.json``: a list of {cell, error, traceback}, empty when all went well."""
    content = [{"cell": f.cell, "error": f.error, "traceback": f.trace} for f in failures]
    return write_file(folder / FAILURES, (json.dumps(content, indent=1) + "\n").encode())


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


def write_file(path: Path, content: bytes) -> Path:
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
