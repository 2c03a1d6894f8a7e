"""The images of a shard: a parquet file that dataset viewers open as an image column."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq

from probe_lab.cache.files import StagedFile
from probe_lab.cache.tables import UNREADABLE
from probe_lab.errors import CacheError
from probe_lab.regular_files import regular

# What the Hugging Face `datasets` library and its viewer read to show a struct column as pictures.
_FEATURES = {"info": {"features": {"sample_id": {"dtype": "int64", "_type": "Value"}, "image": {"_type": "Image"}}}}
SCHEMA = pa.schema(
    [
        ("sample_id", pa.int64()),
        ("image", pa.struct([("bytes", pa.binary()), ("path", pa.string())])),
    ],
    metadata={b"huggingface": json.dumps(_FEATURES).encode()},
)
_GROUP = 32  # rows that are read to get one image; viewers want small row groups too


def write_images(
    file: StagedFile, sample_ids: Sequence[int], images: Sequence[bytes], metadata: Mapping[str, str]
) -> None:
    """The parquet file, with checksums of its pages, and ``metadata`` beside what viewers read."""
    values = [{"bytes": data, "path": f"{sample:08d}.png"} for sample, data in zip(sample_ids, images, strict=True)]
    schema = SCHEMA.with_metadata(
        {**SCHEMA.metadata, **{key.encode(): text.encode() for key, text in metadata.items()}}
    )
    table = pa.table([pa.array(sample_ids, pa.int64()), pa.array(values, SCHEMA.field("image").type)], schema=schema)
    # PNG does not compress any further, and images do not repeat.
    pq.write_table(
        table, file, row_group_size=_GROUP, compression="none", use_dictionary=False, write_page_checksum=True
    )


def image_metadata(path: Path) -> dict[str, str]:
    """The metadata of the file. CacheError when it is missing or damaged."""
    try:
        found = pq.read_schema(regular(path)).metadata or {}
        return {key.decode(): value.decode() for key, value in found.items()}
    except UNREADABLE as error:
        raise _unreadable(path, error) from error


def read_images(path: Path, *, checked: bool = True) -> Iterator[tuple[int, bytes]]:
    """(sample_id, PNG bytes) in row order, one row group in memory at a time. CacheError when damaged; if not
    ``checked``, pages whose checksums differ are read all the same."""
    try:
        with pq.ParquetFile(regular(path), page_checksum_verification=checked) as file:
            for batch in file.iter_batches(batch_size=_GROUP):
                yield from _rows(batch)
    except UNREADABLE as error:
        raise _unreadable(path, error) from error


def read_image(path: Path, row: int) -> tuple[int, bytes]:
    """(sample_id, PNG bytes) of one row. CacheError when the file is damaged or shorter."""
    try:
        with pq.ParquetFile(regular(path), page_checksum_verification=True) as file:
            table = file.read_row_group(row // _GROUP)
            return next(_rows(table.slice(row % _GROUP, 1).combine_chunks()))
    except (*UNREADABLE, StopIteration) as error:
        raise _unreadable(path, error) from error


def _rows(table: pa.Table | pa.RecordBatch) -> Iterator[tuple[int, bytes]]:
    for sample, image in zip(table.column("sample_id").to_pylist(), table.column("image").to_pylist(), strict=True):
        if sample is None or image is None or image["bytes"] is None:
            raise IndexError("a row is empty")
        yield sample, image["bytes"]


def _unreadable(path: Path, error: Exception) -> CacheError:
    reason = str(error).strip() or type(error).__name__
    return CacheError(f"cannot read the images of {path} ({reason}); `probe-lab cache verify` lists what is damaged")
