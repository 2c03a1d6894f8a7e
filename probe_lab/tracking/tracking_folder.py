"""``runs/<experiment>/.tracking``: whose runs these are, how its last sweep ended, and who is logging it now.

``owner`` is the name by which a runs folder knows its own runs in a store that it shares with others, and where that
folder lies: a copy of it, which has the same files, is another owner. ``sweep`` says how the last sweep ended.
"""

from __future__ import annotations

import fcntl
import json
import os
import re
import socket
import uuid
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Literal, cast, get_args

from probe_lab.cache.files import remove_leftovers, write_whole
from probe_lab.json_text import read_json

Status = Literal["RUNNING", "FINISHED", "FAILED", "KILLED"]
"""How a run stands, in MLflow's words."""
FOLDER = ".tracking"
"""Below an experiment's runs folder: all that tracking keeps there."""
_OWNER = "owner"
_NAME_ALONE = re.compile("[0-9a-f]{32}")
_SWEEP = "sweep"


def write_status(runs: Path, status: Status) -> None:
    """Note how the sweep of a runs folder stands. OSError when the folder refuses it."""
    (runs / FOLDER).mkdir(parents=True, exist_ok=True)
    write_whole(runs / FOLDER / _SWEEP, status.encode())


def read_status(runs: Path) -> Status | None:
    """How the last sweep of a runs folder ended; RUNNING while it runs or after it was killed, None where no sweep
    was tracked."""
    with suppress(OSError, UnicodeDecodeError):
        text = (runs / FOLDER / _SWEEP).read_text()
        if text in get_args(Status):
            return cast(Status, text)
    return None


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


def owner_of(runs: Path) -> str:
    """The name of a runs folder as a tag of its runs: made once, so that it outlives what else is known of them.

    It holds for this folder alone, also after a move. A copy of the folder, on this machine or another, gets a name of
    its own and so leaves the runs of the original alone.
    """
    folder = runs / FOLDER
    folder.mkdir(parents=True, exist_ok=True)
    place, path = _Place.of(folder), folder / _OWNER
    is_new = not path.exists()
    stored = _stored_owner(folder, place)
    owner = stored or uuid.uuid4().hex
    content = json.dumps({"owner": owner, **asdict(place)}).encode()
    if is_new and not stored and not _created(path, content):
        owner = _stored_owner(folder, place) or owner  # another command was first
        content = json.dumps({"owner": owner, **asdict(place)}).encode()
    write_whole(path, content)
    return owner


def _created(path: Path, content: bytes) -> bool:
    """Write a file whole where there is none. False where there is one, or the file system has no links."""
    draft = path.with_name(f".tmp-{uuid.uuid4().hex}")
    write_whole(draft, content)
    try:
        os.link(draft, path)
    except OSError:
        return False
    finally:
        draft.unlink()
    return True


def known_owner(runs: Path) -> str:
    """The name that a runs folder has already; empty where it has none: a copy gets one when it is logged first."""
    folder = runs / FOLDER
    return _stored_owner(folder, _Place.of(folder)) if folder.is_dir() else ""


@dataclass(frozen=True)
class _Place:
    """Where a folder lies. A move keeps its inode, and a remount or a container of another name one of the two."""

    host: str
    path: str
    inode: int

    @staticmethod
    def of(folder: Path) -> _Place:
        return _Place(socket.gethostname(), str(folder.resolve()), os.stat(folder).st_ino)

    def is_of(self, content: Mapping[str, Any]) -> bool:
        """Whether the ``content`` of an owner's file was written about this folder."""
        same_path = (content.get("host"), content.get("path")) == (self.host, self.path)
        return same_path or content.get("inode") == self.inode


def _stored_owner(folder: Path, place: _Place) -> str:
    """The owner that the file of a folder names; empty where there is none, or it is that of another folder.

    An earlier version wrote the name alone: it is taken over once.
    """
    try:
        text = (folder / _OWNER).read_text()
    except (OSError, UnicodeDecodeError):
        return ""
    if _NAME_ALONE.fullmatch(text):
        return text
    with suppress(ValueError, KeyError, TypeError, AttributeError):
        content = read_json(text)
        return str(content["owner"]) if place.is_of(content) else ""
    return ""
