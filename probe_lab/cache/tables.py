"""The small parquet tables of a cache: written atomically with page checksums, and read against them."""

from __future__ import annotations

from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq

from probe_lab.cache.files import StagedFile, disk_errors
from probe_lab.regular_files import regular

# What pyarrow raises for a damaged file, wherever the damage is (a column name may cease to be UTF-8).
UNREADABLE = (OSError, pa.ArrowException, UnicodeDecodeError, KeyError, IndexError)


def write_table(path: Path, table: pa.Table) -> None:
    """Write one table whole or not at all. CacheError when the disk is full or the folder refuses it."""
    with disk_errors(path), StagedFile(path) as staged:
        pq.write_table(table, staged, write_page_checksum=True)
        staged.seal()
        staged.commit()


def read_table(path: Path) -> pa.Table:
    """The whole table, its pages compared with their checksums. Raises one of UNREADABLE when damaged."""
    table = pq.read_table(regular(path), partitioning=None, page_checksum_verification=True)
    table.schema.names  # noqa: B018
    table_metadata(table)
    return table


def table_metadata(table: pa.Table) -> dict[str, str]:
    return {key.decode(): value.decode() for key, value in (table.schema.metadata or {}).items()}
