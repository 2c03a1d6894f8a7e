"""scores/<evaluator>.parquet: the score that one evaluator gave to each finished image; what is so far in .partial.

previews/<step>/<evaluator>.parquet is the same of the pictures that the predicted x₀ of a step decodes to, and
previews/<step>/lookahead/<evaluator>.parquet of those of its lookahead: the `of` of these functions, None for finished
images.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from probe_lab.cache.files import make_folder
from probe_lab.cache.identity import CACHE, CONTENT, Identity, callers
from probe_lab.cache.layout import (
    PreviewOf,
    partial_path,
    scores_folder,
    scores_path,
    stems,
    valid_name,
)
from probe_lab.cache.opened import open_cache
from probe_lab.cache.overwriting import renewed
from probe_lab.cache.tables import UNREADABLE, read_table, table_metadata, write_table
from probe_lab.errors import ScoreError, nearest

SCHEMA = pa.schema([("sample_id", pa.int64()), ("score", pa.float32())])
UNREADABLE_IMAGES = "unreadable"
"""Metadata key: samples, parted by commas, without a score because their image cannot be decoded."""
EVALUATOR = "evaluator"
"""Metadata key: whose scores they are. A file of kept ones is called that, "@" and more."""
CHANGED = "changed since it was written (sha256 differs): delete it and run `probe-lab score` again"
_AGAIN = "delete it and run `probe-lab score` again"
IMPORTED = "imported"
"""Metadata key: the file that the scores were imported from. Samples may be missing there for good."""


def write_scores(
    folder: Path | str,
    evaluator: str,
    sample_ids: Sequence[int] | npt.NDArray[np.int64],
    scores: Sequence[float] | npt.NDArray[np.floating],
    *,
    metadata: Mapping[str, str],
    of: PreviewOf | None = None,
) -> None:
    """Replace the scores of one evaluator, whole or not at all. Samples that are not given have no score.

    `metadata` (evaluator version, checkpoint_sha256, preprocessing, …) goes into the schema metadata of the
    file, beside the identity of the cache and a checksum. ScoreError for NaN or infinity (names the sample), a sample
    given twice, one that the cache lacks, or a name that cannot be a file's.
    """
    folder = Path(folder)
    if not valid_name(evaluator):
        raise ScoreError(
            f"evaluator name {evaluator!r} cannot be a file name: use letters, digits, '.', '_', '-', "
            "and '@' before a label"
        )
    ids = np.asarray(sample_ids, dtype=np.int64)
    with np.errstate(over="ignore"):  # what overflows float32 is reported below
        values = np.asarray(scores, dtype=np.float64).astype(np.float32)
    if ids.ndim != 1 or ids.shape != values.shape:
        raise ScoreError(f"{evaluator}: {ids.shape} sample ids and {values.shape} scores do not match: give one each")
    for position in np.flatnonzero(~np.isfinite(values)):
        raise ScoreError(
            f"{evaluator} gave {np.asarray(scores)[position]} to sample {ids[position]}: a score "
            "must be a finite float32; "
            "leave out samples that have none"
        )
    order = np.argsort(ids, kind="stable")
    ids, values = ids[order], values[order]
    opened = open_cache(folder)
    _check_ids(f"{evaluator}", ids, len(opened.samples))
    path = scores_path(folder, evaluator, of)
    _write(folder, path, ids, values, metadata, opened.identity)
    renewed(folder, path)


def write_partial_scores(
    folder: Path,
    evaluator: str,
    scores: npt.NDArray[np.float32],
    *,
    metadata: Mapping[str, str],
    of: PreviewOf | None = None,
    identity: Identity | None = None,
) -> None:
    """Keep what an unfinished scoring has: float32 [n] by sample_id over all samples, NaN where there is none yet."""
    ids = np.flatnonzero(~np.isnan(scores))
    identity = identity or open_cache(folder).identity
    _write(folder, partial_path(folder, evaluator, of), ids, scores[ids], metadata, identity)


def read_partial_scores(
    folder: Path, evaluator: str, count: int, of: PreviewOf | None = None, identity: Identity | None = None
) -> tuple[npt.NDArray[np.float32], dict[str, str]] | None:
    """What `write_partial_scores` was given, or None: there is none, or it is damaged or another's."""
    path = partial_path(folder, evaluator, of)
    try:
        table = _checked(read_table(path), evaluator)
        _require_own(folder, path, table, evaluator, identity)
        return _by_sample(path, table, count), callers(table_metadata(table))
    except (*UNREADABLE, ScoreError):  # nothing is lost but time
        return None


def unreadable_images(metadata: Mapping[str, str]) -> set[int]:
    """Samples that the file says have no score because their image is broken."""
    return {int(sample) for sample in metadata.get(UNREADABLE_IMAGES, "").split(",") if sample}


def read_scores(
    folder: Path, evaluator: str, count: int, of: PreviewOf | None = None, *, identity: Identity | None = None
) -> npt.NDArray[np.float32]:
    """float32 [count] by sample_id, NaN where there is no score. ScoreError as `Cache.scores` says.

    Scores of another cache than that of the `identity` are refused; without one, only those of another evaluator are.
    """
    path = scores_path(folder, evaluator, of)
    return _by_sample(path, read_score_table(folder, evaluator, of, identity=identity), count)


def read_score_metadata(folder: Path, evaluator: str, of: PreviewOf | None = None) -> dict[str, str]:
    """What `write_scores` was told."""
    return callers(table_metadata(read_score_table(folder, evaluator, of)))


def read_score_table(
    folder: Path, evaluator: str, of: PreviewOf | None = None, *, identity: Identity | None = None
) -> pa.Table:
    """The two columns as they are in the file. ScoreError when there is none, it is not of this format, or it is of
    another evaluator, of another step's previews or (as the `identity` says) of another cache."""
    path = scores_path(folder, evaluator, of)
    present = stems(scores_folder(folder, of), ".parquet")
    if evaluator not in present and of is not None:
        raise ScoreError(
            f"the cache {folder} has no scores of {evaluator!r} for the {of.word}s at step {of.step}: run "
            f"`probe-lab score` with probe.step={of.step} and probe.scalars=[{of.word}:{evaluator}]"
        )
    if evaluator not in present:
        raise ScoreError(
            f"the cache {folder} has no scores of {evaluator!r}: {nearest(evaluator, present)}; "
            f"run `probe-lab score` with evaluators=[{evaluator}]"
        )
    try:
        table = read_table(path)
    except UNREADABLE as error:
        raise ScoreError(f"cannot read {path} ({error}): run `probe-lab score` again") from error
    _require_own(folder, path, _checked(table, str(path)), evaluator, identity)
    return table


def has_changed(table: pa.Table) -> bool:
    """Whether a table of scores is not the one that was written, where it says which that was."""
    metadata = table_metadata(table)
    ids, scores = (table.column(name).to_numpy() for name in ("sample_id", "score"))
    return metadata.get(CONTENT, "") not in ("", _content(ids, scores, metadata))


def duplicate_rows(ids: npt.NDArray[np.int64]) -> npt.NDArray[np.int64]:
    """Positions whose id is at an earlier position too."""
    _, first = np.unique(ids, return_index=True)
    return np.setdiff1d(np.arange(len(ids)), first)


def _write(
    folder: Path,
    path: Path,
    ids: npt.NDArray[np.int64],
    scores: npt.NDArray[np.float32],
    metadata: Mapping[str, str],
    identity: Identity,
) -> None:
    make_folder(path.parent)
    marked = {**metadata, **identity.marks(path.relative_to(folder).as_posix())}
    marked[CONTENT] = _content(ids, scores, marked)
    write_table(path, pa.table([ids, scores], schema=SCHEMA.with_metadata(marked)))


def _content(ids: npt.NDArray[np.int64], scores: npt.NDArray[np.float32], metadata: Mapping[str, str]) -> str:
    """SHA-256 of all that such a file says."""
    texts = {key: text for key, text in metadata.items() if key != CONTENT}
    digest = hashlib.sha256(json.dumps(texts, sort_keys=True).encode())
    digest.update(ids.astype("<i8").tobytes())
    digest.update(scores.astype("<f4").tobytes())
    return digest.hexdigest()


def _require_own(folder: Path, path: Path, table: pa.Table, evaluator: str, identity: Identity | None) -> None:
    """ScoreError for scores that are not those that belong at ``path``."""
    metadata = table_metadata(table)
    place = path.relative_to(folder).as_posix()
    own = Identity(metadata.get(CACHE, ""), carried=False) if identity is None else identity
    objection = own.objection(metadata, place)
    whose = metadata.get(EVALUATOR, evaluator)
    if not objection and evaluator != whose and not evaluator.startswith(f"{whose}@"):
        objection = f"it has the scores of {whose}"
    if objection:
        raise ScoreError(f"{path} is not what belongs there: {objection}; {_AGAIN}")


def _checked(table: pa.Table, source: str) -> pa.Table:
    if not table.schema.equals(SCHEMA) or any(column.null_count for column in table.columns):
        raise ScoreError(
            f"{source} has the columns {_columns(table)}; needed: sample_id int64, score float, no empty cells"
        )
    return table


def _by_sample(path: Path, table: pa.Table, count: int) -> npt.NDArray[np.float32]:
    ids = table.column("sample_id").to_numpy()
    _check_ids(str(path), ids, count, ": it is of another cache, so delete it and run `probe-lab score` again")
    values = table.column("score").to_numpy().astype(np.float32)
    if has_changed(table):
        raise ScoreError(f"{path} {CHANGED}")
    for position in np.flatnonzero(~np.isfinite(values)):
        raise ScoreError(
            f"{path} row {position}: sample {ids[position]} has no finite score; run `probe-lab score` again"
        )
    found = np.full(count, np.nan, dtype=np.float32)
    found[ids] = values
    return found


def _columns(table: pa.Table) -> str:
    return ", ".join(f"{field.name} {field.type}" for field in table.schema)


def _check_ids(source: str, ids: npt.NDArray[np.int64], count: int, remedy: str = "") -> None:
    for row in np.flatnonzero((ids < 0) | (ids >= count)):
        raise ScoreError(f"{source} scores sample {ids[row]}, and the cache has samples 0 to {count - 1}{remedy}")
    repeated = duplicate_rows(ids)
    if len(repeated):
        row = repeated[0]
        raise ScoreError(f"{source} scores sample {ids[row]} twice (row {row}): give each sample one score")
