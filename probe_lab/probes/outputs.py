"""The files of one cell (DESIGN §11), complete or absent."""

from __future__ import annotations

import contextlib
import json
import math
import os
import secrets
import shutil
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pandas as pd

from probe_lab.cells import CONFIG, METRICS, PREDICTIONS, sealed
from probe_lab.errors import ProbeError
from probe_lab.metrics import evaluate


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


def predictions_table(
    parts: Sequence[tuple[str, npt.NDArray[np.int64], npt.NDArray[np.float32], npt.NDArray[np.float32]]],
    evaluators: Sequence[str],
    samples: pd.DataFrame,
) -> pd.DataFrame:
    """One row per sample and evaluator from (split, sample_id [n], target [n, E], prediction [n, E])."""
    rows = []
    for split, sample_id, target, prediction in parts:
        known = samples.iloc[sample_id]
        for index, evaluator in enumerate(evaluators):
            rows.append(
                pd.DataFrame(
                    {
                        "sample_id": sample_id,
                        "prompt_id": known["prompt_id"].to_numpy(),
                        "seed": known["seed"].to_numpy(),
                        "split": split,
                        "evaluator": evaluator,
                        "target": target[:, index],
                        "prediction": prediction[:, index],
                    }
                )
            )
    return pd.concat(rows, ignore_index=True)


def metric_entries(predictions: pd.DataFrame, thresholds: Mapping[str, float]) -> list[dict[str, Any]]:
    """All metrics of each evaluator and split, as metrics.json holds them; a value that is undefined is
    None."""
    entries: list[dict[str, Any]] = []
    for (evaluator, split), part in predictions.groupby(["evaluator", "split"], sort=False):
        found = evaluate(part["prediction"], part["target"], part["prompt_id"], threshold=thresholds[str(evaluator)])
        for metric, value in found.items():
            numbers = {"estimate": value.estimate, "lower": value.lower, "upper": value.upper}
            entries.append(
                {"evaluator": evaluator, "split": split, "metric": metric}
                | {name: number if math.isfinite(number) else None for name, number in numbers.items()}
                | {"prompts": value.prompts, "tied": value.tied}
            )
    return entries


def over_shuffles(entries: Sequence[list[dict[str, Any]]]) -> list[dict[str, Any]]:
    """The entries of a cell that was trained several times on shuffled labels: the mean as ``estimate``, the lowest and
    the highest value as ``lower`` and ``upper``. Those of a single training as they are."""
    if len(entries) == 1:
        return entries[0]
    found = []
    for same in zip(*entries, strict=True):
        values = [entry["estimate"] for entry in same if entry["estimate"] is not None]
        numbers: dict[str, float | None] = {"estimate": None, "lower": None, "upper": None}
        if values:
            numbers = {"estimate": float(np.mean(values)), "lower": min(values), "upper": max(values)}
        found.append(same[0] | numbers)
    return found


def write_cell(folder: Path, config: str, predictions: pd.DataFrame, metrics: Mapping[str, Any]) -> None:
    """``metrics.json`` comes last, with the checksums of all others: its presence means that the cell is finished."""
    (folder / CONFIG).write_text(config, encoding="utf-8")
    predictions.to_parquet(folder / PREDICTIONS, index=False)
    content = json.dumps(sealed(folder, metrics), indent=1, allow_nan=False)
    (folder / METRICS).write_text(content + "\n", encoding="utf-8")
