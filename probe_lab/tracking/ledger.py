"""What has been logged, and where: ``runs/<experiment>/.tracking/logged.jsonl``.

It saves questions to the store, and where it says that all is logged, the import of MLflow. The first line names the
store and the parent run, one line per cell follows as soon as its run has ended, and the last says that the sweep's
logging came to its end. Without that line the process was killed, and the store is asked about every cell.

Beside it lies ``owner``, the name by which a runs folder knows its own runs in a store that it shares with others, and
where that folder lies: a copy of it, which has the same files, is another owner.
"""

from __future__ import annotations

import json
import os
import re
import socket
import sqlite3
import uuid
from collections.abc import Iterable, Mapping
from contextlib import closing, suppress
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from probe_lab.cache.files import write_whole
from probe_lab.json_text import read_json
from probe_lab.runs.files import bytes_digest
from probe_lab.tracking.backlog import FOLDER
from probe_lab.tracking.entries import Status

_FILE = "logged.jsonl"
_OWNER = "owner"
_NAME_ALONE = re.compile("[0-9a-f]{32}")
_SQLITE = "sqlite:///"


@dataclass(frozen=True)
class Logged:
    """A cell's run, how it ended and the ``digest`` of what it shows; none where an earlier version logged it.

    Nobody knows of which training such a run is: it is replaced once.
    """

    run: str
    status: Status
    digest: str = ""

    def shows(self, digest: str) -> bool:
        return self.status == "FINISHED" and self.digest == digest


@dataclass
class Ledger:
    """The cells logged at ``uri``, below the run ``parent``. ``closed`` is the parent's last status, empty while a
    sweep is being logged or after it was killed."""

    runs: Path
    uri: str = ""
    parent: str = ""
    closed: str = ""
    cells: dict[str, Logged] = field(default_factory=dict)

    @staticmethod
    def read(runs: Path, uri: str) -> Ledger:
        """The ledger of a runs folder; an empty one where there is none, or where it is about another store, or came
        with the folder that this one is a copy of."""
        ledger = Ledger(runs, uri)
        if (runs / FOLDER / _OWNER).exists() and not has_owner(runs):
            return ledger
        with suppress(OSError, ValueError, KeyError, TypeError):  # torn or foreign: what was read so far is true
            for line in (runs / FOLDER / _FILE).read_text().splitlines():
                content = read_json(line)
                if content.get("uri", uri) != uri:
                    break
                ledger._take(content)
        return ledger

    def _take(self, content: dict[str, Any]) -> None:
        if "parent" in content:
            self.parent = content["parent"]
        elif "cell" in content:
            self.cells[content["cell"]] = Logged(content["run"], content["status"], content["digest"])
        self.closed = content.get("closed", "")

    def open(self, parent: str) -> None:
        """Begin to log below this parent; what was logged below another one is forgotten."""
        if parent != self.parent:
            self.cells.clear()
        self.parent, self.closed = parent, ""
        self._write()

    def add(self, cell: str, logged: Logged) -> None:
        """A cell's run has ended."""
        if self.cells.get(cell) != logged:
            self.cells[cell] = logged
            with open(self.runs / FOLDER / _FILE, "a") as file:
                file.write(f"{json.dumps({'cell': cell, **asdict(logged)})}\n")

    def close(self, status: Status) -> None:
        """The parent run has ended, and everything is logged."""
        self.closed = status
        self._write()

    def complete(self, cells: Iterable[str]) -> bool:
        """Whether the last sweep came to its end and logged these cells as they are now, into an SQLite file that
        still holds them. A server is taken at its word."""
        if self.closed != "FINISHED" or not (database_of(self.uri) is None or self._in_database()):
            return False
        return all(name in self.cells and self.cells[name].shows(digest_of(self.runs / name)) for name in cells)

    def _in_database(self) -> bool:
        database = database_of(self.uri)
        assert database is not None
        alive = "SELECT COUNT(*) FROM runs WHERE run_uuid = ? AND lifecycle_stage = 'active'"
        with (
            suppress(OSError, sqlite3.Error),
            closing(sqlite3.connect(f"{database.resolve().as_uri()}?mode=ro", uri=True)) as connection,
        ):
            return bool(connection.execute(alive, (self.parent,)).fetchone()[0])
        return False

    def _write(self) -> None:
        lines: list[dict[str, Any]] = [{"uri": self.uri, "parent": self.parent}]
        lines += [{"cell": name, **asdict(logged)} for name, logged in self.cells.items()]
        if self.closed:
            lines.append({"closed": self.closed})
        folder = self.runs / FOLDER
        folder.mkdir(parents=True, exist_ok=True)
        write_whole(folder / _FILE, "".join(f"{json.dumps(line)}\n" for line in lines).encode())


def owner_of(runs: Path) -> str:
    """The name of a runs folder as a tag of its runs: made once, so that it outlives the ledger.

    It holds for this folder alone, also after a move. A copy of the folder, on this machine or another, gets a name of
    its own and so leaves the runs of the original alone.
    """
    folder = runs / FOLDER
    folder.mkdir(parents=True, exist_ok=True)
    place = _Place.of(folder)
    owner = _stored_owner(folder, place)
    if not owner:
        if (folder / _OWNER).exists():
            (folder / _FILE).unlink(missing_ok=True)  # of the folder that this one is a copy of
        owner = uuid.uuid4().hex
    write_whole(folder / _OWNER, json.dumps({"owner": owner, **asdict(place)}).encode())
    return owner


def has_owner(runs: Path) -> bool:
    """Whether a runs folder has a name of its own already: a copy gets one when it is logged first."""
    folder = runs / FOLDER
    return folder.is_dir() and bool(_stored_owner(folder, _Place.of(folder)))


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


def digest_of(cell_folder: Path) -> str:
    """Of a cell's training: another one has another digest. Empty where the cell is not finished."""
    return bytes_digest(cell_folder)[:16]


def database_of(uri: str) -> Path | None:
    """The file of an SQLite address; None for any other."""
    return Path(uri.removeprefix(_SQLITE)) if uri.startswith(_SQLITE) else None
