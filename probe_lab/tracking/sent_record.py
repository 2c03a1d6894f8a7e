"""What a store had when everything had been sent to it: ``runs/<experiment>/.tracking/sent.json``.

The store itself says what it has, by the tags of its runs; this file saves the question, and with it the import of
MLflow, where nothing has changed since.
"""

from __future__ import annotations

import json
import sqlite3
from collections.abc import Mapping, Sequence
from contextlib import closing, suppress
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path

from probe_lab.cache.files import write_whole
from probe_lab.json_text import read_json
from probe_lab.runs.files import bytes_digest, finished_names
from probe_lab.tracking.tracking_folder import FOLDER, known_owner, read_status

_FILE = "sent.json"
_SQLITE = "sqlite:///"


@dataclass(frozen=True)
class Receipt:
    """At ``uri`` stood, below the run ``parent`` of MLflow's experiment ``experiment``, all ``cells`` of the runs
    folder ``owner`` with the digests of their files, and the report with that of its own. Empty where there is none.

    ``runs`` are all runs of cells: id, status, name and digest. They are ``whole`` unless a command has begun to change
    them and did not come to its end: then the store has to be asked.
    """

    owner: str = ""
    uri: str = ""
    experiment: str = ""
    parent: str = ""
    report: str = ""
    cells: Mapping[str, str] = field(default_factory=dict)
    runs: Mapping[str, Sequence[str]] = field(default_factory=dict)
    whole: bool = True

    @staticmethod
    def read(runs: Path, uri: str) -> Receipt:
        """The receipt of a runs folder for this store; an empty one where it has none, or came with the folder that
        this one is a copy of."""
        with suppress(OSError, ValueError, TypeError):  # torn or foreign
            receipt = Receipt(**read_json((runs / FOLDER / _FILE).read_text()))
            if receipt.uri == uri and receipt.owner and receipt.owner == known_owner(runs):
                return replace(receipt, cells=dict(receipt.cells))
        return Receipt()

    def write(self, runs: Path) -> None:
        """OSError when the folder refuses it."""
        write_whole(runs / FOLDER / _FILE, json.dumps(asdict(self)).encode())

    def is_complete(self, runs: Path) -> bool:
        """Whether the store was sent all finished cells as they are now, the last sweep ended well, and an SQLite file
        still holds them. A server is taken at its word."""
        if not self.parent or not self.whole or read_status(runs) not in ("FINISHED", None):
            return False
        if any(self.cells.get(name) != digest_of(runs / name) for name in finished_names(runs)):
            return False
        database = database_of(self.uri)
        return database is None or self._is_in(database)

    def _is_in(self, database: Path) -> bool:
        alive = "SELECT COUNT(*) FROM runs WHERE run_uuid = ? AND lifecycle_stage = 'active'"
        with (
            suppress(OSError, sqlite3.Error),
            closing(sqlite3.connect(f"{database.resolve().as_uri()}?mode=ro", uri=True)) as connection,
        ):
            return bool(connection.execute(alive, (self.parent,)).fetchone()[0])
        return False


def digest_of(cell_folder: Path) -> str:
    """Of a cell's training: another one has another digest. Empty where the cell is not finished."""
    return bytes_digest(cell_folder)[:16]


def database_of(uri: str) -> Path | None:
    """The file of an SQLite address; None for any other."""
    return Path(uri.removeprefix(_SQLITE)) if uri.startswith(_SQLITE) else None
