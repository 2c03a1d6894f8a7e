"""``probe-lab score --import``: scores that were made elsewhere, from a table by sample or by prompt and seed."""

from __future__ import annotations

from collections.abc import Collection, Hashable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
from numpy.typing import NDArray

from probe_lab.cache import Cache, sha256_of, write_scores
from probe_lab.cache.layout import scores_path, valid_name
from probe_lab.cache.scores import IMPORTED, read_score_metadata
from probe_lab.errors import ScoreError, nearest
from probe_lab.evaluators.base import is_known
from probe_lab.regular_files import regular

KEYS: tuple[tuple[str, ...], ...] = (("sample_id",), ("prompt", "seed"))
"""What may tell a row's sample."""


@dataclass(frozen=True)
class Imported:
    """How many samples got a score, of how many."""

    scores: int
    samples: int

    @property
    def text(self) -> str:
        missing = self.samples - self.scores
        return f"{self.scores} of {self.samples} samples have a score" + (f", {missing} have none" if missing else "")


def import_scores(
    cache_folder: Path, file: Path, evaluator: str, *, column: str = "score", overwrite: bool = False
) -> Imported:
    """Write ``scores/<evaluator>.parquet`` from a CSV or parquet file with one row per sample.

    The columns ``sample_id``, or ``prompt`` and ``seed`` as in ``samples.parquet``, tell the sample; where all are
    there, they must agree. ``column`` is the score. An earlier import of that name is replaced.

    Raises:
        ScoreError: the file cannot be read, lacks a column or has it twice, has no row, a row without a finite score,
            two rows of one sample or one of no sample; a name that ``score`` computes, or whose file is not an import
            (unless ``overwrite``).
        CacheError: there is no cache, or it cannot be written.
    """
    cache = Cache(cache_folder)
    _check_name(cache, evaluator, overwrite)
    table = _read(file, {column, *(name for key in KEYS for name in key)})
    if column not in table.columns:
        raise ScoreError(f"{file} has no column '{column}': {nearest(column, table.columns)}; name it with --column")
    if table.empty:
        raise ScoreError(f"{file} has no rows: give it one per sample that has a score")
    ids = _sample_ids(table, cache.samples, file)
    scores = _numbers(table[column], file)
    metadata = {"evaluator": evaluator, IMPORTED: file.name, "sha256": sha256_of(file), "column": column}
    write_scores(cache.folder, evaluator, ids, scores, metadata=metadata)
    return Imported(len(ids), len(cache.samples))


def _check_name(cache: Cache, evaluator: str, overwrite: bool) -> None:
    if not valid_name(evaluator) or ":" in evaluator:
        raise ScoreError(f"--evaluator {evaluator!r} is no name: write letters, digits and _ . - (a@b: a label)")
    kind = evaluator.partition("@")[0]
    if is_known(kind):
        raise ScoreError(
            f"'{evaluator}' is an evaluator that `probe-lab score` computes: import scores made elsewhere under a name "
            f"of their own, {kind}_imported for instance"
        )
    if overwrite or not scores_path(cache.folder, evaluator).exists():
        return
    if IMPORTED not in read_score_metadata(cache.folder, evaluator):
        raise ScoreError(
            f"{scores_path(cache.folder, evaluator)} was not imported: choose another --evaluator, or --overwrite it"
        )


def _read(file: Path, needed: Collection[str]) -> pd.DataFrame:
    """The table, in which no ``needed`` column is there twice; of a CSV all cells as text, so that no seed of 19
    digits goes through a float."""
    if file.suffix.lower() not in (".csv", ".parquet"):
        raise ScoreError(f"{file} is neither .csv nor .parquet: give it one of these formats and its ending")
    try:
        regular(file)
        names = _names(file)
        for name in sorted(needed):
            if names.count(name) > 1:
                raise ScoreError(f"{file} has {names.count(name)} columns '{name}': rename all but one")
        if file.suffix.lower() == ".parquet":
            return pd.read_parquet(file)
        return pd.read_csv(file, dtype=str, keep_default_na=False)
    except (OSError, ValueError, UnicodeError, pa.ArrowException) as error:
        reason = (str(error).strip() or type(error).__name__).splitlines()[0]
        raise ScoreError(f"the scores {file} cannot be read ({reason}): give a CSV or parquet file") from error


def _names(file: Path) -> list[str]:
    """The columns as the file names them; pandas would number those that are there twice."""
    if file.suffix.lower() == ".parquet":
        return list(pq.read_schema(file).names)
    return [str(name) for name in pd.read_csv(file, header=None, nrows=1, dtype=str, keep_default_na=False).iloc[0]]


def _sample_ids(table: pd.DataFrame, samples: pd.DataFrame, file: Path) -> NDArray[np.int64]:
    """The sample of each row, by every key that the table has; the keys agree."""
    found = [_by_key(table, samples, key, file) for key in KEYS if set(key) <= set(table.columns)]
    if not found:
        raise ScoreError(
            f"{file} has the columns {', '.join(map(str, table.columns))}: needed are sample_id, or prompt and seed"
        )
    for row in np.flatnonzero(found[0] != found[-1]):
        count = int((found[0] != found[-1]).sum())
        raise ScoreError(
            f"{file} row {row + 1} says sample {found[0][row]}, but its prompt and seed are those of sample "
            f"{found[-1][row]} ({count} such rows): the file is of another cache"
        )
    ids = found[0]
    for row in np.flatnonzero(pd.Series(ids).duplicated()):
        raise ScoreError(
            f"{file} row {row + 1} scores sample {ids[row]} again ({len(ids) - len(set(ids))} such rows): "
            "give each sample one score"
        )
    return ids


def _by_key(table: pd.DataFrame, samples: pd.DataFrame, key: Sequence[str], file: Path) -> NDArray[np.int64]:
    columns = [table[name] if name == "prompt" else _integers(table[name], name, file) for name in key]
    known: dict[Hashable, int] = dict(
        zip(zip(*(samples[name].tolist() for name in key), strict=True), samples["sample_id"].tolist(), strict=True)
    )
    wanted = list(zip(*(column.tolist() for column in columns), strict=True))
    unknown = [row for row, each in enumerate(wanted) if each not in known]
    if unknown:
        told = ", ".join(f"{name} {value!r}" for name, value in zip(key, wanted[unknown[0]], strict=True))
        raise ScoreError(
            f"{file} row {unknown[0] + 1} is of no sample of the cache: {told} ({len(unknown)} of {len(wanted)} rows); "
            "take the keys from the cache's samples.parquet"
        )
    return np.array([known[each] for each in wanted], dtype=np.int64)


def _integers(column: pd.Series, name: str, file: Path) -> pd.Series:
    if pd.api.types.is_integer_dtype(column):
        return column
    whole = column.astype(str).str.strip().str.fullmatch(r"-?\d{1,19}")
    for row in np.flatnonzero(~whole.to_numpy(dtype=bool)):
        raise ScoreError(f"{file} row {row + 1}: {name} is {column.iloc[row]!r}, and it must be a whole number")
    return column.astype(str).map(int)


def _numbers(column: pd.Series, file: Path) -> NDArray[np.float64]:
    """float64 [n], all finite in float32."""
    numbers = pd.to_numeric(column, errors="coerce").to_numpy(dtype=np.float64, na_value=np.nan)
    bad = np.flatnonzero(~(np.abs(numbers) <= np.finfo(np.float32).max))
    if len(bad):
        raise ScoreError(
            f"{file} row {bad[0] + 1}: the score is {str(column.iloc[bad[0]])!r} ({len(bad)} such rows): it must be a "
            "finite number; leave out samples that have none"
        )
    return numbers
