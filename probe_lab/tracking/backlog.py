"""What could not be logged yet, in files: ``runs/<experiment>/.tracking/queue/<time>.jsonl``.

Every file is written whole, under another name, and renamed; it is deleted once all of its lines are logged. So a
process that is killed loses nothing, and one that is killed between logging and deleting logs twice, which the store
notices. Any number of processes may add files; one at a time logs them (``alone_in``).
"""

from __future__ import annotations

import fcntl
import os
import secrets
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path

from probe_lab.cache.files import remove_leftovers, write_whole
from probe_lab.tracking.entries import Entry

FOLDER = ".tracking"
"""Below an experiment's runs folder: all that tracking keeps there."""


class Backlog:
    """The waiting entries of the experiment whose runs lie in ``runs``."""

    def __init__(self, runs: Path) -> None:
        self.folder = runs / FOLDER / "queue"

    def add(self, entries: Sequence[Entry]) -> None:
        """One more file with these entries. OSError when the folder refuses it."""
        if entries:
            name = f"{time.time_ns()}-{secrets.token_hex(4)}.jsonl"
            self.folder.mkdir(parents=True, exist_ok=True)
            write_whole(self.folder / name, "".join(f"{entry.to_line()}\n" for entry in entries).encode())

    def files(self) -> list[Path]:
        """The files, oldest first."""
        return sorted(self.folder.glob("*.jsonl"))

    def entries(self, files: Sequence[Path]) -> list[Entry]:
        """The entries of these files, the last of each subject; what is no entry is passed over."""
        found: dict[str, Entry] = {}
        for path in files:
            with suppress(FileNotFoundError, UnicodeDecodeError):  # another process has logged it; foreign
                for line in path.read_text().splitlines():
                    with suppress(ValueError, KeyError, TypeError):
                        entry = Entry.from_line(line)
                        found.pop(entry.subject, None)
                        found[entry.subject] = entry
        return list(found.values())

    def waiting(self) -> list[Entry]:
        """All waiting entries."""
        return self.entries(self.files())

    def remove(self, files: Sequence[Path]) -> None:
        """Forget files whose entries are logged."""
        for path in files:
            path.unlink(missing_ok=True)


@contextmanager
def alone_in(runs: Path) -> Iterator[bool]:
    """Hold the right to log this experiment while the block runs; False when another process has it. What killed
    processes left half-written is removed."""
    folder = runs / FOLDER
    folder.mkdir(parents=True, exist_ok=True)
    remove_leftovers(folder)
    lock = os.open(folder / "lock", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o666)
    try:
        mine = True
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            mine = False
        except OSError:  # a cluster file system without locks
            pass
        yield mine
    finally:
        os.close(lock)
