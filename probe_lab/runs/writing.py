"""Writing the files of one cell, complete or not at all."""

from __future__ import annotations

import contextlib
import json
import os
import secrets
import shutil
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from probe_lab.errors import ProbeError
from probe_lab.runs.files import CONFIG, METRICS, PREDICTIONS, sealed

if TYPE_CHECKING:
    import pandas as pd


def require_writable(folder: Path) -> None:
    """ProbeError, before any work is done, when nothing can be made beside ``folder``."""
    temporary = _beside(folder)
    try:
        temporary.mkdir(parents=True)
        temporary.rmdir()
    except OSError as error:
        raise _refused(folder, error) from error


@contextlib.contextmanager
def staged(folder: Path) -> Iterator[Path]:
    """A new folder beside ``folder`` that takes its place when the block ends well, and vanishes when it does
    not.

    Raises:
        ProbeError: the disk is full or refuses the files.
    """
    temporary, old = _beside(folder), _beside(folder)
    try:
        temporary.mkdir(parents=True)
        yield temporary
        if folder.exists():
            folder.rename(old)
        temporary.rename(folder)
    except OSError as error:
        raise _refused(folder, error) from error
    finally:
        if old.exists() and not folder.exists():
            old.rename(folder)
        shutil.rmtree(temporary, ignore_errors=True)
        shutil.rmtree(old, ignore_errors=True)


def _beside(folder: Path) -> Path:
    return folder.with_name(f".tmp-{os.getpid()}-{secrets.token_hex(4)}-{folder.name}")


def _refused(folder: Path, error: OSError) -> ProbeError:
    reason = error.strerror or str(error)
    return ProbeError(f"cannot write {folder}: {reason}; make room or choose another folder (runs=...)")


def write_cell(folder: Path, config: str, predictions: pd.DataFrame, metrics: Mapping[str, Any]) -> None:
    """``metrics.json`` comes last, with the checksums of all others: its presence means that the cell is finished."""
    (folder / CONFIG).write_text(config, encoding="utf-8")
    predictions.to_parquet(folder / PREDICTIONS, index=False)
    content = json.dumps(sealed(folder, metrics), indent=1, allow_nan=False)
    (folder / METRICS).write_text(content + "\n", encoding="utf-8")
