"""text/<encoder>.safetensors of any size: written a block at a time, and continued where it was interrupted.

What there is so far is ``<encoder>.partial`` beside it: the file that it will be, in full length, with the number of
its blocks that are there in the place of its checksum.
"""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from types import TracebackType

import torch
import torch.nn.functional as F
from torch import Tensor

from probe_lab.cache.files import disk_errors, lock, make_folder, sync_folder, temporary_path
from probe_lab.cache.layout import text_path
from probe_lab.cache.opened import open_cache
from probe_lab.cache.overwriting import is_stale, renewed
from probe_lab.cache.tensor_files import CHECKSUM
from probe_lab.cache.tensors import ArrayKind, Header, OpenFile, byte_view, header_bytes, read_header
from probe_lab.cache.text_table import require_encoder, require_finite, text_metadata
from probe_lab.errors import CacheError

TOKENS = ("tokens", "token_mask")
"""Arrays whose second axis is as long as the longest text needs."""
TextBlock = Mapping[str, Sequence[int]]
"""Texts that are encoded together, each with the rows of the file that are its: prompts may share a caption."""
_AT_ONCE = 64
_SAVE_EVERY = 2.0
"""Seconds of work that a killed process may lose, if no single block takes longer."""
_DIGITS = 64  # of a SHA-256


def rows_of(texts: Iterable[str]) -> TextBlock:
    """The distinct texts among those of all rows, in their order."""
    rows: dict[str, list[int]] = {}
    for row, text in enumerate(texts):
        rows.setdefault(text, []).append(row)
    return rows


def in_blocks(texts: TextBlock) -> list[TextBlock]:
    """As many at a time as ``encode_prompts`` has in a batch."""
    items = list(texts.items())
    return [dict(items[start : start + _AT_ONCE]) for start in range(0, len(items), _AT_ONCE)]


def complete_text(
    folder: Path,
    encoder: str,
    blocks: Sequence[TextBlock],
    encode: Callable[[list[str]], Mapping[str, Tensor]],
    *,
    metadata: Mapping[str, str],
    of_labels: bool = False,
    on_progress: Callable[[int, int], None] = lambda done, total: None,
) -> bool:
    """Store the text of an encoder unless it is there with the same metadata; whether it had to be stored.

    ``encode`` gives the arrays of texts, as in ``write_text``; the rows of all blocks are those of the file, 0 to
    n - 1. Tokens that are longer than those before widen it. Blocks that an interrupted call with the same metadata has
    stored are not encoded again. One process at a time writes a text, and others wait for it. ``on_progress(done,
    total)`` counts texts.

    Raises:
        CacheError: there is no cache, a value is not finite, or the file cannot be written.
    """
    require_encoder(encoder)
    identity = open_cache(folder).identity
    path = text_path(folder, encoder, of_labels=of_labels)

    def is_made() -> bool:
        stored = text_metadata(folder, encoder, identity, of_labels=of_labels)
        return stored is not None and metadata.items() <= stored.items() and not is_stale(folder, path)

    if is_made():
        return False
    make_folder(path.parent)
    marks = identity.marks(path.relative_to(folder).as_posix())
    with _Partial(path, metadata, marks, blocks) as partial:
        if is_made():  # by the process that was waited for
            partial.discard()
            return False
        done, total = sum(map(len, blocks[: partial.done])), sum(map(len, blocks))
        on_progress(done, total)
        for block in blocks[partial.done :]:
            tensors = encode(list(block))
            require_finite(encoder, tensors, [rows[0] for rows in block.values()])
            partial.add(block, tensors)
            done += len(block)
            on_progress(done, total)
        partial.finish()
        renewed(folder, path)
    return True


class _Partial:
    """The file that the text at ``path`` will be; the first ``done`` of its ``blocks`` are there.

    CacheError for what the disk refuses.
    """

    def __init__(
        self, path: Path, metadata: Mapping[str, str], marks: Mapping[str, str], blocks: Sequence[TextBlock]
    ) -> None:
        self.done = 0
        self._path, self._partial = path, path.with_suffix(".partial")
        self._metadata, self._marks, self._blocks = dict(metadata), dict(marks), len(blocks)
        self._rows = sum(len(rows) for block in blocks for rows in block.values())
        self._header: Header | None = None
        self._ended = False
        self._saved = time.monotonic()

    def __enter__(self) -> _Partial:
        with disk_errors(self._partial):
            self._file, self._partial = _opened(self._partial)
        self._take_over()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        try:
            if not self._ended:
                self._save() if self._header and self._is_kept else self.discard()
        finally:
            os.close(self._file)

    @property
    def _is_kept(self) -> bool:
        return self._partial == self._path.with_suffix(".partial")

    def add(self, block: TextBlock, tensors: Mapping[str, Tensor]) -> None:
        """Enter the next block."""
        stored = {name: tensor.detach().cpu() for name, tensor in tensors.items()}
        with disk_errors(self._partial):
            header = self._with_room(stored)
            for name, tensor in stored.items():
                entry = header.entries[name]
                data, size = byte_view(as_long(name, tensor, entry.shape).contiguous()), entry.row_bytes
                for text, rows in enumerate(block.values()):
                    for row in rows:
                        _write(self._file, data[text * size : (text + 1) * size], entry.start + row * size)
        self.done += 1
        if time.monotonic() - self._saved > _SAVE_EVERY:
            self._save()

    def finish(self) -> None:
        """Put the checksum where it belongs, and the file too."""
        self._save()
        checksum = OpenFile(str(self._partial)).content_sha256()
        with disk_errors(self._path):
            _write(self._file, self._header_bytes(checksum), 0)
            os.fsync(self._file)
            os.replace(self._partial, self._path)
            sync_folder(self._path.parent)
        self._ended = True

    def discard(self) -> None:
        """Remove it."""
        self._ended = True
        with disk_errors(self._partial):
            self._partial.unlink()

    def _take_over(self) -> None:
        """What an interrupted call has stored, if it was of the same text."""
        try:
            header = read_header(self._file, str(self._partial))
        except CacheError:  # it is new, or was never begun
            return
        metadata = dict(header.metadata)
        done, _, blocks = metadata.pop(CHECKSUM, "").strip().partition("/")
        same = metadata == {"format": "pt", **self._metadata, **self._marks} and blocks == str(self._blocks)
        whole = header.file_size == os.fstat(self._file).st_size
        if same and whole and all(entry.shape[0] == self._rows for entry in header.entries.values()):
            self._header, self.done = header, int(done)

    def _with_room(self, tensors: Mapping[str, Tensor]) -> Header:
        """The header of a file that rows of these arrays fit into, which is made, or made wider."""
        kinds = {name: ArrayKind(each.dtype, (self._rows, *each.shape[1:])) for name, each in tensors.items()}
        if self._header is None:
            os.ftruncate(self._file, 0)
            self._header = self._made(self._file, kinds)
        entries = self._header.entries
        for name, kind in kinds.items():
            if name not in entries or entries[name].dtype != kind.dtype:
                raise CacheError(
                    f"the text encoder gives {name!r} as {kind.dtype}, and {self._partial} was begun otherwise: delete "
                    "it, and run the command again"
                )
        if any(kinds[name].shape[1] > entries[name].shape[1] for name in TOKENS if name in kinds):
            self._header = self._widened(kinds)
        return self._header

    def _widened(self, kinds: Mapping[str, ArrayKind]) -> Header:
        """Copy all rows into a file of longer ones, and go on with that."""
        former, temporary = OpenFile(str(self._partial)), temporary_path(self._partial)
        file = os.open(temporary, os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o666)
        try:
            lock(file)
            header = self._made(file, kinds)
            for name, entry in former.header.entries.items():
                wider = header.entries[name]
                for start in range(0, self._rows, _AT_ONCE):
                    values = torch.empty((min(_AT_ONCE, self._rows - start), *entry.shape[1:]), dtype=entry.dtype)
                    former.read_into(values, entry.start + start * entry.row_bytes)
                    data = byte_view(as_long(name, values, wider.shape).contiguous())
                    _write(file, data, wider.start + start * wider.row_bytes)
            os.fsync(file)
            os.replace(temporary, self._partial)
        except BaseException:
            os.close(file)
            temporary.unlink(missing_ok=True)
            raise
        os.close(self._file)
        self._file = file
        return header

    def _made(self, file: int, kinds: Mapping[str, ArrayKind]) -> Header:
        """The header of an empty file that is made as long as these arrays need."""
        _write(file, header_bytes(kinds, self._metadata_with(self._progress)), 0)
        header = read_header(file, str(self._partial))
        os.ftruncate(file, header.file_size)
        return header

    def _save(self) -> None:
        """Say how many blocks are there, once they are on the disk."""
        with disk_errors(self._partial):
            os.fsync(self._file)
            _write(self._file, self._header_bytes(self._progress), 0)
        self._saved = time.monotonic()

    @property
    def _progress(self) -> str:
        return f"{self.done}/{self._blocks}"

    def _header_bytes(self, checksum: str) -> bytes:
        assert self._header is not None
        kinds = {name: ArrayKind(entry.dtype, entry.shape) for name, entry in self._header.entries.items()}
        return header_bytes(kinds, self._metadata_with(checksum))

    def _metadata_with(self, checksum: str) -> dict[str, str]:
        return {**self._metadata, CHECKSUM: checksum.ljust(_DIGITS), **self._marks}


def as_long(name: str, tensor: Tensor, shape: Sequence[int]) -> Tensor:
    """Tokens [n, L, …] cut, or filled by padding, to the length that ``shape`` has; other arrays as they are."""
    if name not in TOKENS:
        return tensor
    missing = shape[1] - tensor.shape[1]
    return F.pad(tensor, (0, 0, 0, missing) if tensor.dim() == 3 else (0, missing))


def _opened(path: Path) -> tuple[int, Path]:
    """The open file at ``path``, empty where there was none, once no other process writes it. On a file system without
    locks it is one of this process's own, which nobody continues."""
    while True:
        file = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o666)
        locked = True
        try:
            locked = lock(file)
            if locked and os.path.samestat(os.fstat(file), os.stat(path)):
                return file, path
        except FileNotFoundError:  # the process that was waited for has finished it
            pass
        except BaseException:
            os.close(file)
            raise
        os.close(file)
        if not locked:
            path.unlink(missing_ok=True)
            path = temporary_path(path)
            return os.open(path, os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o666), path


def _write(file: int, data: bytes | memoryview, start: int) -> None:
    view, done = memoryview(data), 0
    while done < len(view):
        done += os.pwrite(file, view[done:], start + done)
