"""The SQLite file that runs are logged into: it appears whole, and what killed processes left beside it goes."""

from __future__ import annotations

import os
import re
import secrets
from contextlib import suppress
from pathlib import Path
from typing import Any

from probe_lab.cache.files import abandoned, machine, sync_folder

_SIDES = ("", "-journal", "-wal", "-shm")
"""Endings of the files of one database: its own, and those that SQLite keeps beside it."""


def make_database(database: Path) -> None:
    """Make MLflow's tables in ``database``, unless it is there, and its folder.

    MLflow makes them by some seventy migrations, and a file that was left between two of them is good for nothing. So
    they run in another file, which need not reach the disk each time, and which then gets the name.
    """
    if database.parent.is_dir():
        _remove_leftovers(database)
    if database.exists():
        return
    import mlflow
    from sqlalchemy import Engine, event

    def hasten(connection: Any, record: object) -> None:
        connection.execute("PRAGMA synchronous = OFF")

    database.parent.mkdir(parents=True, exist_ok=True)
    aside = database.with_name(f"{database.name}.{os.getpid()}-{machine()}-{secrets.token_hex(4)}")
    event.listen(Engine, "connect", hasten)
    try:
        mlflow.MlflowClient(tracking_uri=f"sqlite:///{aside}")
        with open(aside, "rb") as file:
            os.fsync(file.fileno())
        with suppress(FileExistsError):  # another process was faster
            os.link(aside, database)
        sync_folder(database.parent)
    finally:
        event.remove(Engine, "connect", hasten)
        for side in _SIDES:
            aside.with_name(f"{aside.name}{side}").unlink(missing_ok=True)


def _remove_leftovers(database: Path) -> None:
    """Remove the files in which killed processes were making the database; those of living ones stay."""
    sides = "|".join(map(re.escape, _SIDES))
    pattern = re.compile(rf"{re.escape(database.name)}\.(\d{{1,9}})-([0-9a-f]{{8}})-[0-9a-f]{{8}}({sides})")
    with suppress(OSError):  # a folder that others write in too, or that is closed to us
        for path in sorted(database.parent.iterdir()):
            match = pattern.fullmatch(path.name)
            if match and abandoned(path, int(match[1]), match[2]):
                path.unlink(missing_ok=True)
