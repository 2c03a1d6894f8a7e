"""The two files of a complete shard, compared with their sidecar and with the cache that they lie in."""

from __future__ import annotations

from collections.abc import Mapping
from functools import lru_cache, partial
from pathlib import Path

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from probe_lab.cache.identity import CACHE, Identity
from probe_lab.cache.images import image_metadata
from probe_lab.cache.layout import Sidecar, images_path, shard_path, sidecar_path
from probe_lab.cache.tensors import IntArray, OpenFile, array_checksums, read_bytes, row_checksums
from probe_lab.errors import CacheError
from probe_lab.regular_files import regular

_SIDECARS = 64
AGAIN = "delete the .json of this shard and run `probe-lab generate`"


class Unread:
    """What of a cache's shards nobody has compared yet: a file is compared when it is opened, and each row of an array
    the first time that it is read.

    What was compared is remembered while the file stays the one that it was.
    """

    def __init__(self, folder: Path, rows: Mapping[int, int], identity: Identity) -> None:
        self._folder, self._rows, self._identity = folder, rows, identity
        self._checksums = lru_cache(maxsize=_SIDECARS)(partial(_checksums, folder, rows))
        self._open: dict[tuple[int, str], npt.NDArray[np.bool_]] = {}
        self.opened: dict[int, tuple[int, ...]] = {}
        self.compared: set[tuple[int, str]] = set()

    def open(self, number: int, file: OpenFile) -> None:
        """Compare a file that was opened, unless it is the one that was opened before. CacheError when it is not what
        belongs there."""
        if self.opened.get(number) == file.stamp:
            return
        self._checksums.cache_clear()
        if number in self.opened:
            self.compared = {at for at in self.compared if at[0] != number}
            self._open = {at: rows for at, rows in self._open.items() if at[0] != number}
        require_arrays(file, load_sidecar(self._folder, number, self._rows[number], self._identity), self._identity)
        self.opened[number] = file.stamp

    def has(self, number: int, key: str, rows: slice | IntArray) -> bool:
        """Whether one of these rows of an array was not compared yet."""
        if (number, key) in self.compared:
            return False
        unread = self._open.get((number, key))
        return unread is None or bool(unread[rows].any())

    def compare(self, number: int, key: str, file: OpenFile, rows: slice | IntArray, array: Tensor) -> None:
        """Compare ``array``, which was read from these rows of one array. CacheError, which names the first row that
        differs."""
        wanted = self._checksums(number).get(key)
        if wanted is None:  # a sidecar from before there were any
            self.compared.add((number, key))
            return
        unread = self._open.setdefault((number, key), np.ones(len(wanted), dtype=bool))
        differ = np.flatnonzero(np.array(array_checksums(array), dtype=np.uint32) != wanted[rows])
        if len(differ):
            row = np.arange(len(wanted))[rows][differ[0]]
            raise CacheError(
                f"{file.path} is damaged: {key!r} of row {row} is not what was written (CRC-32 differs): {AGAIN}"
            )
        unread[rows] = False
        if not unread.any():
            self.compared.add((number, key))
            self._open.pop((number, key), None)  # another thread may have been first


def _checksums(folder: Path, rows: Mapping[int, int], number: int) -> dict[str, npt.NDArray[np.uint32]]:
    """CRC-32 of each row, by array."""
    checks = Sidecar.load(sidecar_path(folder, number)).array_crc32
    return {key: np.frombuffer(bytes.fromhex(text), ">u4").astype(np.uint32) for key, text in checks.items()}


def load_sidecar(folder: Path, number: int, rows: int, identity: Identity) -> Sidecar:
    """CacheError when it is damaged, or of another shard or cache."""
    path = sidecar_path(folder, number)
    sidecar = Sidecar.load(path)
    objection = sidecar_objection(sidecar, number, identity)
    if not objection and sidecar.rows != rows:
        objection = f"it has {sidecar.rows} rows where samples.parquet counts {rows}"
    if objection:
        raise CacheError(f"{path} is not what belongs there: {objection}; {AGAIN}")
    return sidecar


def sidecar_objection(sidecar: Sidecar, number: int, identity: Identity) -> str:
    """Why a sidecar is not that of this shard of this cache; "" where nothing says so."""
    objection = identity.objection({CACHE: sidecar.cache} if sidecar.cache else {})
    if not objection and sidecar.cache and sidecar.shard != number:
        objection = f"it is that of shard {sidecar.shard} of this cache, moved or copied here"
    return objection


def require_arrays(file: OpenFile, sidecar: Sidecar, identity: Identity) -> None:
    """CacheError unless the arrays of a shard have the size and the first row of the sidecar, and the identity of the
    cache."""
    if file.header.file_size != sidecar.bytes:
        raise CacheError(
            f"{file.path} is damaged: it has {file.header.file_size} bytes, {sidecar.bytes} were written: {AGAIN}"
        )
    objection = identity.objection(file.header.metadata)
    if not objection and _first_row(file, sidecar) not in (None, sidecar.row_crc32[:1]):
        objection = "its first row is not the one that was written (CRC-32 differs)"
    if objection:
        raise CacheError(f"{file.path} is not what belongs there: {objection}; {AGAIN}")


def require_images(folder: Path, number: int, sidecar: Sidecar, identity: Identity) -> Path:
    """The file of a shard's images. CacheError unless it has the size of the sidecar and the identity of the cache."""
    path = images_path(folder, number)
    try:
        size = regular(path).stat().st_size
    except OSError as error:
        raise CacheError(
            f"cannot read the images of {path} ({error.strerror}); `probe-lab cache verify` lists what is damaged, and "
            f"to make them again {AGAIN}"
        ) from error
    if size != sidecar.images_bytes:
        raise CacheError(f"{path} is damaged: it has {size} bytes, {sidecar.images_bytes} were written: {AGAIN}")
    if objection := identity.objection(image_metadata(path), path.relative_to(folder).as_posix()):
        raise CacheError(f"{path} is not what belongs there: {objection}; {AGAIN}")
    return path


def shard_objection(folder: Path, number: int, rows: int, identity: Identity, *, images: bool) -> str:
    """Why the files of a complete shard are not those that were written, told without reading them; "" if they seem
    to be."""
    try:
        sidecar = load_sidecar(folder, number, rows, identity)
        require_arrays(OpenFile(str(shard_path(folder, number))), sidecar, identity)
        if images:
            require_images(folder, number, sidecar, identity)
    except CacheError as error:
        return str(error).removesuffix(AGAIN).rstrip(":; ")
    return ""


def _first_row(file: OpenFile, sidecar: Sidecar) -> tuple[int, ...] | None:
    """The CRC-32 of the first row over all arrays; None where there is no such row in one of them."""
    entries = file.header.entries
    if not sidecar.rows or any(entry.shape[:1] != (sidecar.rows,) for entry in entries.values()):
        return None
    row: dict[str, Tensor] = {
        name: torch.frombuffer(read_bytes(file.handle, entry.start, entry.row_bytes), dtype=entry.dtype)[None]
        for name, entry in entries.items()
        if entry.row_bytes
    }
    return tuple(row_checksums(row, 1))
