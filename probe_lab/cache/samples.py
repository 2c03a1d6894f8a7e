"""The sample table of a cache: one row per (prompt, seed), and in which shard and row its tensors lie.

What its file says of itself (`identity.marks`) stays in the metadata of the tables here.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
import numpy.typing as npt
import pandas as pd
import pyarrow as pa

from probe_lab.cache.tables import UNREADABLE, read_table, table_metadata
from probe_lab.errors import CacheError

SCHEMA = pa.schema(
    [
        ("sample_id", pa.int64()),
        ("prompt_id", pa.int64()),
        ("prompt", pa.string()),
        ("seed", pa.int64()),
        ("split", pa.string()),
        ("shard", pa.int64()),
        ("row", pa.int64()),
    ]
)
IMAGE_ID = pa.field("image_id", pa.string())
"""The image that a prompt describes, "" for none: only in caches of prompts whose source names images."""
SPLITS = ("train", "val", "test")


def shard_layout(count: int, seeds: int, shard_size: int) -> tuple[npt.NDArray[np.int64], npt.NDArray[np.int64]]:
    """Shard and row of each of `count` samples: only whole prompts share one, so the size is rounded down."""
    if shard_size < seeds:
        raise CacheError(
            f"cache.shard_size={shard_size} cannot hold the {seeds} seeds of one prompt: raise it to {seeds} or more"
        )
    shard, row = np.divmod(np.arange(count, dtype=np.int64), shard_size - shard_size % seeds)
    return shard, row


def load_samples(path: Path) -> pd.DataFrame:
    """The validated table. CacheError when it is missing or breaks a rule of the format."""
    return to_frame(load_table(path))


def load_table(path: Path) -> pa.Table:
    """As `load_samples`, with the metadata of the file."""
    table = read_samples(path)
    for row, message in sample_problems(table):
        raise CacheError(f"{path} row {row}: {message}; `probe-lab cache verify` lists all, generate the cache again")
    return table


def to_frame(table: pa.Table) -> pd.DataFrame:
    frame: pd.DataFrame = table.replace_schema_metadata(None).to_pandas(split_blocks=True)
    return frame


def to_table(samples: pd.DataFrame) -> pa.Table:
    """The frame in the schema of the format. CacheError when a column is missing or has another type."""
    missing = [name for name in SCHEMA.names if name not in samples.columns]
    if missing:
        raise CacheError(f"the sample table lacks {', '.join(missing)} (needed: {', '.join(SCHEMA.names)})")
    schema = SCHEMA.append(IMAGE_ID) if IMAGE_ID.name in samples.columns else SCHEMA
    try:
        return pa.Table.from_pandas(samples[schema.names], schema=schema, preserve_index=False).replace_schema_metadata(
            None
        )
    except (pa.ArrowInvalid, pa.ArrowTypeError) as error:
        raise CacheError(f"the sample table has a column of another type ({error}); needed: {_types()}") from error


def read_samples(path: Path) -> pa.Table:
    """The table with its columns and types checked, its rows not. CacheError when it cannot be read."""
    try:
        table = read_table(path)
    except UNREADABLE as error:
        raise CacheError(f"cannot read {path} ({error}): run `probe-lab generate` to make the cache") from error
    found = {field.name: _plain(field.type) for field in table.schema}
    schema = SCHEMA.append(IMAGE_ID) if IMAGE_ID.name in found else SCHEMA
    if found != {field.name: field.type for field in schema}:
        text = ", ".join(f"{name} {kind}" for name, kind in found.items())
        raise CacheError(f"{path} has the columns {text}; needed: {_types()}")
    return table.select(schema.names).cast(schema.with_metadata(table_metadata(table)))


def sample_problems(table: pa.Table) -> list[tuple[int, str]]:
    """Every broken rule as (row, message); no rule of the format broken gives an empty list."""
    frame = to_frame(table)
    found: list[tuple[int, str]] = []
    missing = frame.isna().any(axis=1)
    if missing.any():
        return [(int(row), "a value is missing") for row in np.flatnonzero(missing)]

    for row in _rows(frame["sample_id"].duplicated()):
        found.append((row, f"sample_id {frame['sample_id'][row]} is there twice"))
    for row in _rows(frame[["prompt", "seed"]].duplicated()):
        found.append((row, f"prompt {frame['prompt'][row]!r} with seed {frame['seed'][row]} is there twice"))
    for row in _rows(~frame["split"].isin(SPLITS)):
        found.append((row, f"split {frame['split'][row]!r} is not one of {', '.join(SPLITS)}"))
    return found or _order_problems(frame)


def _order_problems(frame: pd.DataFrame) -> list[tuple[int, str]]:
    """The first row out of order: position, sample_id and (shard, row) have to agree."""
    position = np.arange(len(frame))
    ids, shard, row = (frame[name].to_numpy() for name in ("sample_id", "shard", "row"))
    for at in np.flatnonzero(ids != position):
        return [(int(at), f"sample_id {ids[at]} where {at} belongs (ids count up from 0)")]
    for at in np.flatnonzero(np.diff(shard, prepend=0) < 0):
        return [(int(at), f"shard {shard[at]} after shard {shard[at - 1]}")]
    expected = position - np.searchsorted(shard, shard)
    for at in np.flatnonzero(row != expected):
        return [(int(at), f"row {row[at]} of shard {shard[at]} where {expected[at]} belongs")]
    for at in np.flatnonzero(shard != frame.groupby("prompt_id")["shard"].transform("first").to_numpy()):
        return [(int(at), f"the samples of prompt {frame['prompt_id'][at]} lie in several shards")]
    return []


def _rows(mask: pd.Series[bool]) -> list[int]:
    return [int(row) for row in np.flatnonzero(mask.to_numpy())]


def _plain(kind: pa.DataType) -> pa.DataType:
    return pa.string() if pa.types.is_large_string(kind) else kind


def _types() -> str:
    return ", ".join(f"{field.name} {field.type}" for field in SCHEMA)
