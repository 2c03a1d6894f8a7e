"""Files that appear whole or not at all: temporary name, fsync, rename; what killed writers leave."""

from __future__ import annotations

import contextlib
import errno
import fcntl
import hashlib
import os
import re
import secrets
import shutil
import socket
import time
from collections.abc import Iterator
from pathlib import Path
from types import TracebackType

from probe_lab.errors import CacheError

_TEMPORARY = re.compile(r"^\.tmp-(\d+)-([0-9a-f]{8})-")
_ABANDONED_AFTER = 24 * 3600.0  # seconds; no write of one file takes a day
_FULL = (errno.ENOSPC, errno.EDQUOT)
_REFUSED = (errno.EACCES, errno.EPERM, errno.EROFS, errno.ENOTDIR, errno.EEXIST)
_NO_LOCKS = (errno.ENOSYS, errno.ENOTSUP, errno.ENOLCK)


class StagedFile:
    """A file under a temporary name in its final folder: `commit` renames it, an exception removes it.

    It takes bytes (and is the sink that pyarrow writes to); `sha256` and `size` in bytes grow with what is
    written.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self.size = 0
        self.closed = False
        self._digest = hashlib.sha256()
        self._temporary = temporary_path(path)
        self._file = os.open(self._temporary, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o666)

    @property
    def sha256(self) -> str:
        return self._digest.hexdigest()

    def write(self, data: bytes | memoryview) -> int:
        view = memoryview(data)
        done = 0
        while done < len(view):
            done += os.write(self._file, view[done:])
        self._digest.update(view)
        self.size += len(view)
        return len(view)

    def flush(self) -> None:
        """Nothing is buffered here; pyarrow asks."""

    def seal(self) -> None:
        """Force the bytes to the disk and close; the file still has its temporary name."""
        os.fsync(self._file)
        self.close()

    def close(self) -> None:
        if not self.closed:
            self.closed = True
            os.close(self._file)

    def commit(self) -> None:
        """Rename a sealed file to its name and force the folder entry to the disk."""
        os.replace(self._temporary, self.path)
        sync_folder(self.path.parent)

    def __enter__(self) -> StagedFile:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()
        with contextlib.suppress(FileNotFoundError):  # committed: the temporary name is gone
            os.unlink(self._temporary)


def temporary_path(path: Path) -> Path:
    """A new name beside ``path`` that ``leftovers`` knows, and whose file it is."""
    return path.parent / f".tmp-{os.getpid()}-{machine()}-{secrets.token_hex(4)}-{path.name}"


def write_whole(path: Path, data: bytes) -> None:
    """Write one small file whole or not at all. OSError when the disk is full or the folder refuses it."""
    with StagedFile(path) as staged:
        staged.write(data)
        staged.seal()
        staged.commit()


def write_atomic(path: Path, data: bytes) -> None:
    """``write_whole`` for a file of a cache, with a CacheError."""
    with disk_errors(path):
        write_whole(path, data)


def make_folder(folder: Path) -> None:
    """Make the folder and its parents, unless it is there. CacheError when it cannot be made."""
    with disk_errors(folder):
        if not folder.is_dir():
            folder.mkdir(parents=True, exist_ok=True)
            sync_folder(folder.parent)


def sync_folder(folder: Path) -> None:
    """A rename survives a power cut only once its folder is on the disk."""
    handle = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


@contextlib.contextmanager
def disk_errors(path: Path) -> Iterator[None]:
    """Turn what the operating system says while writing `path` into a CacheError that says what to do."""
    try:
        yield
    except OSError as error:
        if error.errno in _FULL:
            free = shutil.disk_usage(existing_parent(path)).free
            raise CacheError(
                f"cannot write {path}: the disk is full ({size_text(free)} free); nothing "
                "half-written is left, "
                "so make room and run the same command again"
            ) from error
        if error.errno in _REFUSED:
            folder = path if os.path.isdir(path) else path.parent
            raise CacheError(
                f"cannot write in the folder {folder}: {error.strerror}; "
                "choose another cache.root or change its permissions"
            ) from error
        raise CacheError(f"cannot write {path}: {error.strerror or error}; nothing half-written is left") from error


@contextlib.contextmanager
def locked(path: Path) -> Iterator[None]:
    """Hold the existing file `path` as the lock of its cache: for renames, never while arrays are written."""
    handle = os.open(path, os.O_RDWR | os.O_CLOEXEC)  # NFS locks only files that are open for writing
    try:
        lock(handle)
        yield
    finally:
        os.close(handle)


def lock(handle: int) -> bool:
    """Wait until no other process has the open file locked, and lock it until it is closed; whether there are locks."""
    try:
        fcntl.flock(handle, fcntl.LOCK_EX)
    except OSError as error:
        # Some cluster file systems have no locks; there the processes rely on having different shards.
        if error.errno not in _NO_LOCKS:
            raise
        return False
    return True


def require_space(folder: Path | str, size: int) -> None:
    """CacheError when the disk that holds (or will hold) `folder` has fewer than `size` bytes free."""
    folder = Path(folder)
    with disk_errors(folder):
        free = shutil.disk_usage(existing_parent(folder)).free
    if free < size:
        raise CacheError(
            f"the cache {folder} needs {size_text(size)} but its disk has {size_text(free)} free; "
            "capture fewer steps or taps, use cache.dtype=float16, or choose another cache.root"
        )


def leftovers(folder: Path) -> list[tuple[Path, bool]]:
    """Temporary files below `folder`, and whether each is abandoned (its writer is dead, or a day passed)."""
    found = []
    for path in sorted(folder.rglob(".tmp-*")):
        match = _TEMPORARY.match(path.name)
        if match:
            found.append((path, abandoned(path, int(match[1]), match[2])))
    return found


def remove_leftovers(folder: Path) -> None:
    """Remove what killed writers left; files of living writers, here or on another machine, stay. OSError when the
    folder refuses it."""
    for path, abandoned in leftovers(folder):
        if abandoned:
            path.unlink(missing_ok=True)  # another starting writer may be cleaning too


def sha256_of(path: Path) -> str:
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def size_text(size: int) -> str:
    """'1.5 GB': decimal units, as disks are sold."""
    value, unit = float(size), "B"
    for larger in ("kB", "MB", "GB", "TB"):
        if value < 1000:
            break
        value, unit = value / 1000, larger
    return f"{value:.0f} B" if unit == "B" else f"{value:.1f} {unit}"


def existing_parent(path: Path) -> Path:
    # Not Path.exists: it raises where a parent may not be searched, and this serves error messages.
    while not os.path.exists(path):
        path = path.parent
    return path


def abandoned(path: Path, process: int, on: str) -> bool:
    """Whether the writer of a temporary path is dead, or a day passed; ``on`` is the ``machine`` it ran on, "" where
    that is not known."""
    try:
        age = time.time() - path.stat().st_mtime
    except FileNotFoundError:  # committed or removed since it was listed
        return False
    return age > _ABANDONED_AFTER or (on == machine() and not _alive(process))


def _alive(process: int) -> bool:
    try:
        os.kill(process, 0)
    except ProcessLookupError:
        return False
    except PermissionError:  # alive, of another user
        return True
    return True


def machine() -> str:
    """Where process ids mean the same: a pid says nothing about another host or container."""
    parts = [socket.gethostname()]
    with contextlib.suppress(OSError):  # not Linux: the host name has to do
        parts += [
            Path("/proc/sys/kernel/random/boot_id").read_text(),
            str(os.stat("/proc/self/ns/pid").st_ino),
        ]
    return hashlib.sha256("|".join(parts).encode()).hexdigest()[:8]
