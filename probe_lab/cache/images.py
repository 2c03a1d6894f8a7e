"""The images of a shard: a parquet file that dataset viewers open as an image column."""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq

from probe_lab.cache.files import StagedFile
from probe_lab.cache.tables import UNREADABLE
from probe_lab.errors import CacheError
from probe_lab.regular import regular

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


def write_images(file: StagedFile, sample_ids: Sequence[int], images: Sequence[bytes]) -> None:
    values = [{"bytes": data, "path": f"{sample:08d}.png"} for sample, data in zip(sample_ids, images, strict=True)]
    table = pa.table([pa.array(sample_ids, pa.int64()), pa.array(values, SCHEMA.field("image").type)], schema=SCHEMA)
    # PNG does not compress any further, and images do not repeat.
    pq.write_table(table, file, row_group_size=_GROUP, compression="none", use_dictionary=False)


def read_images(path: Path) -> Iterator[tuple[int, bytes]]:
    """(sample_id, PNG bytes) in row order, one row group in memory at a time. CacheError when damaged."""
    try:
        with pq.ParquetFile(regular(path)) as file:
            for batch in file.iter_batches(batch_size=_GROUP):
                images = batch.column("image").field("bytes")
                for sample, data in zip(batch.column("sample_id"), images, strict=True):
                    yield sample.as_py(), data.as_py()
    except UNREADABLE as error:
        raise _unreadable(path, error) from error


def read_image(path: Path, row: int) -> bytes:
    """PNG bytes of one row. CacheError when the file is damaged or shorter."""
    try:
        with pq.ParquetFile(regular(path)) as file:
            table = file.read_row_group(row // _GROUP, columns=["image"])
            data: bytes = table.column("image")[row % _GROUP].as_py()["bytes"]
            return data
    except UNREADABLE as error:
        raise _unreadable(path, error) from error


def _unreadable(path: Path, error: Exception) -> CacheError:
    return CacheError(f"cannot read the images of {path} ({error}); `probe-lab cache verify` lists what is damaged")
