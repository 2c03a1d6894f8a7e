"""What the operating system says when something runs out, in one sentence with what to do."""

from __future__ import annotations

import errno
import re
from collections.abc import Iterator

from probe_lab.errors import ProbeLabError

_MEMORY = (
    "memory ran out{where}: lower workers, sampling.batch_size or data.batch_prompts, set data.residency=stream, "
    "or give the process more memory"
)
_FILES = "no further file can be opened{where}, the process has too many open: raise the limit (`ulimit -n 4096`)"
_DISK = "the disk is full{where}: make room"
_SENTENCES = {
    errno.EMFILE: _FILES,
    errno.ENFILE: _FILES,
    errno.ENOMEM: _MEMORY,
    errno.ENOSPC: _DISK,
    errno.EDQUOT: _DISK,
    errno.EFBIG: "a file may not grow any further{where}: raise the limit (`ulimit -f`)",
    errno.EROFS: "the file system is read-only{where}: choose another folder",
    errno.EACCES: "the permission is missing{where}: change it, or choose another folder",
    errno.EPERM: "the permission is missing{where}: change it, or choose another folder",
    errno.EAGAIN: "no further process or thread can be started{where}: lower workers, or raise the limit (`ulimit -u`)",
    errno.EIO: "the disk does not read or write{where}: look at the disk",
}
_WORDS = {
    "too many open files": errno.EMFILE,
    "no space left on device": errno.ENOSPC,
    "disk quota exceeded": errno.EDQUOT,
    "read-only file system": errno.EROFS,
    "cannot allocate memory": errno.ENOMEM,
    "can't allocate memory": errno.ENOMEM,
    "out of memory": errno.ENOMEM,
    "not enough memory": errno.ENOMEM,
    "failed to map segment": errno.ENOMEM,
    "bad_alloc": errno.ENOMEM,
    "can't start new thread": errno.EAGAIN,
    "resource temporarily unavailable": errno.EAGAIN,
}
"""How libraries say it in errors of their own: torch's allocator, the dynamic linker, Rust, C++, SQLite."""
_NUMBER = re.compile(r"(?:os error|errno) (\d+)", re.IGNORECASE)
_LIBRARIES = ("safetensors", "pyarrow", "sqlite3", "sqlalchemy", "tokenizers")
"""Those with classes of errors of their own."""


def scarcity(error: BaseException) -> str:
    """One sentence about what ran out, or may not be written; "" where an error is about something else.

    Where the error itself does not say, those that it was raised from are asked.
    """
    for cause in _causes(error):
        number = _number_of(cause)
        if number in _SENTENCES:
            name = getattr(cause, "filename", None)
            return _SENTENCES[number].format(where=f" ({name})" if isinstance(name, str) else "")
    return ""


def one_line(error: BaseException) -> str:
    """What ran out, or the first line of an error's message, after its class unless it is one of ours."""
    if not isinstance(error, ProbeLabError) and (lacking := scarcity(error)):
        return lacking
    text = (str(error).strip().splitlines() or [""])[0]
    return text if isinstance(error, ProbeLabError) else f"{type(error).__name__}: {text}".rstrip(": ")


def _causes(error: BaseException) -> Iterator[BaseException]:
    seen: set[int] = set()
    cause: BaseException | None = error
    while cause is not None and id(cause) not in seen:
        seen.add(id(cause))
        yield cause
        cause = cause.__cause__


def _number_of(error: BaseException) -> int:
    """The number that the operating system has for an error, 0 where it is not from there."""
    if isinstance(error, MemoryError):
        return errno.ENOMEM
    if isinstance(error, OSError) and error.errno:
        return error.errno
    if isinstance(error, OSError | RuntimeError | ImportError) or type(error).__module__.startswith(_LIBRARIES):
        text = str(error).lower()
        if found := _NUMBER.search(text):
            return int(found[1])
        return next((number for words, number in _WORDS.items() if words in text), 0)
    return 0
