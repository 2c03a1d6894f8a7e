"""The safetensors format: written in one pass with its checksum, parsed to the byte offset of every array.

The layout is public: 8 bytes little-endian header length, a JSON header, then the arrays without gaps.
Writing it here gives the checksums without a second pass and real OSErrors; reading it here gives byte
offsets, so that a slice is one `preadv` into the caller's memory and no file is mapped.
"""

from __future__ import annotations

import hashlib
import json
import math
import os
import zlib
from collections import deque
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import NamedTuple

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from probe_lab.cache.files import StagedFile
from probe_lab.errors import CacheError
from probe_lab.json_text import read_json
from probe_lab.regular_files import regular

IntArray = npt.NDArray[np.int64]
_DTYPES = {
    "F64": torch.float64,
    "F32": torch.float32,
    "F16": torch.float16,
    "BF16": torch.bfloat16,
    "I64": torch.int64,
    "I32": torch.int32,
    "U8": torch.uint8,
    "BOOL": torch.bool,
}
_NAMES = {dtype: name for name, dtype in _DTYPES.items()}
_MOST = 2**62  # of items and bytes: torch counts in int64
_AT_ONCE = 2**22  # bytes that are read to compare a checksum
_MAX_HEADER = 100_000_000  # the format's own limit, so that a damaged length cannot ask for all memory


@dataclass(frozen=True)
class TensorEntry:
    """One array of a file: it begins at byte `start` and has `size` bytes, `row_bytes` in each row."""

    dtype: torch.dtype
    shape: tuple[int, ...]
    start: int
    size: int

    @property
    def row_bytes(self) -> int:
        return self.size // self.shape[0] if self.shape and self.shape[0] else 0


@dataclass(frozen=True)
class Header:
    """What is where: `data_start` is the first byte after the header, `file_size` that of a whole file."""

    entries: dict[str, TensorEntry]
    metadata: dict[str, str]
    data_start: int
    file_size: int


class OpenFile:
    """A file descriptor that closes when nobody refers to it: evicting it cuts off no read.

    ``stamp`` (inode, bytes, nanoseconds) tells whether the file was replaced or changed since.
    """

    def __init__(self, path: str) -> None:
        self.path = path
        self.handle = -1
        try:
            self.handle = os.open(regular(Path(path)), os.O_RDONLY | os.O_CLOEXEC)
            self.header = read_header(self.handle, path)
            status = os.fstat(self.handle)
        except OSError as error:
            raise CacheError(
                f"cannot read {path}: {error.strerror}; `probe-lab cache verify` lists what is damaged"
            ) from error
        self.stamp = status.st_ino, status.st_size, status.st_mtime_ns
        if status.st_size != self.header.file_size:
            raise _damaged(path, f"it has {status.st_size} bytes where its header says {self.header.file_size}")

    def read_into(self, out: Tensor, start: int) -> None:
        """Fill the contiguous CPU tensor `out` from byte `start` on. CacheError when the file ends before."""
        plain = out if out.dtype != torch.bfloat16 else out.view(torch.int16)  # numpy has no bfloat16
        self.read_views([plain.numpy().data], start)

    def read_views(self, views: Sequence[memoryview], start: int) -> None:
        """Fill the views one after the other from byte ``start`` on. CacheError when the file ends before."""
        left = sum(view.nbytes for view in views)
        done = os.preadv(self.handle, views, start)
        if done == left:
            return
        rest = deque(view.cast("B") for view in views)  # Linux reads at most 2 GiB at once, network file systems less
        while left := left - done:
            if done == 0:
                raise _damaged(self.path, "it is truncated")
            start += done
            while done >= rest[0].nbytes:
                done -= rest.popleft().nbytes
            rest[0] = rest[0][done:]
            done = os.preadv(self.handle, rest, start)

    def content_sha256(self) -> str:
        """``content_sha256`` of the arrays of the file, of which a few MB at a time are in memory."""
        digest = hashlib.sha256()
        buffer = torch.empty(_AT_ONCE, dtype=torch.uint8)
        for name, entry in sorted(self.header.entries.items()):
            digest.update(_heading(name, entry.dtype, entry.shape))
            for start in range(0, entry.size, _AT_ONCE):
                chunk = buffer[: min(_AT_ONCE, entry.size - start)]
                self.read_into(chunk, entry.start + start)
                digest.update(byte_view(chunk))
        return digest.hexdigest()

    def prefetch(self, entry: TensorEntry) -> None:
        if hasattr(os, "posix_fadvise"):  # not on macOS
            os.posix_fadvise(self.handle, entry.start, entry.size, os.POSIX_FADV_WILLNEED)

    def __reduce__(self) -> tuple[type[OpenFile], tuple[str]]:
        return OpenFile, (self.path,)  # a process has files of its own

    def __del__(self) -> None:
        if self.handle >= 0:
            os.close(self.handle)


def write_tensors(file: StagedFile, tensors: Mapping[str, Tensor], metadata: Mapping[str, str] | None = None) -> None:
    """Write contiguous CPU tensors, and text of the caller's, as one safetensors file."""
    kinds = {name: ArrayKind(tensor.dtype, tuple(tensor.shape)) for name, tensor in tensors.items()}
    file.write(header_bytes(kinds, metadata or {}))
    for name in data_order(tensors):
        file.write(byte_view(tensors[name]))


class ArrayKind(NamedTuple):
    """What an array is before it is there."""

    dtype: torch.dtype
    shape: tuple[int, ...]


def header_bytes(kinds: Mapping[str, ArrayKind], metadata: Mapping[str, str]) -> bytes:
    """All that stands before the arrays of a file."""
    entries, offset = {}, 0
    for name in data_order(kinds):
        dtype, shape = kinds[name]
        size = math.prod(shape) * dtype.itemsize
        entries[name] = {"dtype": _NAMES[dtype], "shape": list(shape), "data_offsets": [offset, offset + size]}
        offset += size
    text = json.dumps({"__metadata__": {"format": "pt", **metadata}, **entries}, separators=(",", ":")).encode()
    text += b" " * (-len(text) % 8)
    return len(text).to_bytes(8, "little") + text


def data_order(arrays: Mapping[str, Tensor] | Mapping[str, ArrayKind]) -> list[str]:
    """The order of the arrays in a file: larger items first, so every array is aligned to its items."""
    return sorted(arrays, key=lambda name: -arrays[name].dtype.itemsize)


def byte_view(tensor: Tensor) -> memoryview:
    """The bytes of a contiguous CPU tensor, writable where the tensor is, not copied."""
    return tensor.reshape(-1).view(torch.uint8).numpy().data


def content_sha256(tensors: Mapping[str, Tensor]) -> str:
    """Checksum of names, dtypes, shapes and values, for files that have no sidecar."""
    digest = hashlib.sha256()
    for name in sorted(tensors):
        digest.update(_heading(name, tensors[name].dtype, tensors[name].shape))
        digest.update(byte_view(tensors[name]))
    return digest.hexdigest()


def _heading(name: str, dtype: torch.dtype, shape: tuple[int, ...]) -> bytes:
    return f"{name} {_NAMES[dtype]} {list(shape)}\n".encode()


def row_checksums(tensors: Mapping[str, Tensor], rows: int) -> list[int]:
    """One CRC-32 per row (first axis, the same in all), carried on over the arrays in file order."""
    checks = [0] * rows
    for name in data_order(tensors):
        data = byte_view(tensors[name])
        size = data.nbytes // max(rows, 1)
        for row in range(rows):
            checks[row] = zlib.crc32(data[row * size : (row + 1) * size], checks[row])
    return checks


def array_checksums(tensor: Tensor) -> list[int]:
    """One CRC-32 per row (first axis) of one contiguous CPU tensor."""
    data, rows = byte_view(tensor), len(tensor)
    size = data.nbytes // max(rows, 1)
    return [zlib.crc32(data[row * size : (row + 1) * size]) for row in range(rows)]


def load_tensors(path: str) -> tuple[dict[str, Tensor], dict[str, str]]:
    """All arrays of one small file, and its metadata. CacheError when it is missing or damaged."""
    file = OpenFile(path)
    tensors = {}
    for name, entry in file.header.entries.items():
        tensors[name] = torch.empty(entry.shape, dtype=entry.dtype)
        file.read_into(tensors[name], entry.start)
    return tensors, file.header.metadata


def read_bytes(handle: int, start: int, size: int) -> bytearray:
    """Bytes of an open file; zeros stand for those beyond its end."""
    return bytearray(os.pread(handle, size, start).ljust(size, b"\0"))


def read_header(handle: int, path: str) -> Header:
    """Parse the header of an open safetensors file. CacheError when the header is damaged.

    That the arrays are all there is the caller's question: compare `file_size` of the header with that of the
    file.
    """
    file_size = os.fstat(handle).st_size
    length = int.from_bytes(os.pread(handle, 8, 0), "little")
    if file_size < 8 or length > min(_MAX_HEADER, file_size - 8):
        raise _damaged(path, "its header is cut short or not of the safetensors format")
    try:
        return _parse(os.pread(handle, length, 8))
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise _damaged(path, "its header is not of the safetensors format") from error


@lru_cache(maxsize=64)  # full shards of one cache have the same header, byte by byte: one parsed copy serves them all
def _parse(text: bytes) -> Header:
    values = read_json(text)
    metadata = {str(key): str(value) for key, value in values.pop("__metadata__", {}).items()}
    data_start = 8 + len(text)
    entries, end = {}, data_start
    for name, value in values.items():
        dtype, shape = _DTYPES[value["dtype"]], value["shape"]
        first, last = value["data_offsets"]
        if any(type(number) is not int or not 0 <= number <= _MOST for number in (first, last, *shape)):
            raise ValueError(f"a size of {name} is no number of bytes or items")
        if math.prod(max(size, 1) for size in shape) > _MOST:
            raise ValueError(f"the shape of {name} is out of bounds")
        if last - first != math.prod(shape) * dtype.itemsize:
            raise ValueError(f"offsets of {name} do not match its shape")
        entries[name] = TensorEntry(dtype, tuple(shape), data_start + first, last - first)
        end = max(end, data_start + last)
    return Header(entries, metadata, data_start, end)


def first_not_finite(tensor: Tensor) -> int:
    """The first row (first axis) of a float tensor that holds NaN or infinity."""
    bad = ~torch.isfinite(tensor).flatten(1).all(dim=1)
    return int(np.flatnonzero(bad.cpu().numpy())[0])


def _damaged(path: str, what: str) -> CacheError:
    return CacheError(
        f"{path} is damaged: {what}; `probe-lab cache verify` lists what is damaged, and deleting "
        "the .json of "
        "a damaged shard lets `probe-lab generate` write it again"
    )
