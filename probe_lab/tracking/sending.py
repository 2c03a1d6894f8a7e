"""One entry into a store: what is logged is read from the files that the entry is about."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import cast

import yaml

from probe_lab.errors import ReportError
from probe_lab.names import problem_of
from probe_lab.tracking.entries import Entry, Status
from probe_lab.tracking.ledger import Ledger
from probe_lab.tracking.store import RefusedError, Store
from probe_lab.tracking.values import read_cell

_log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Session:
    """What is logged where: an address, the folder of the runs that entries are about, and how the store is opened.

    ``sweeps``: the parent runs while the session does; otherwise something is added to a sweep that has ended.
    ``machine``: system metrics are sampled into the parent meanwhile.
    """

    uri: str
    runs: Path
    open: Callable[[Ledger], Store]
    sweeps: bool = True
    machine: bool = False


def send(entry: Entry, store: Store, runs: Path) -> Iterator[None]:
    """Log one entry; yields wherever a part is done. What is damaged or refused for good is a warning; what the store
    raises otherwise is raised."""
    if entry.kind in ("cell", "failure") and problem_of(entry.name):  # its line may have been written by others
        _log.warning("the cell %r is not tracked, it is no name", entry.name)
    elif entry.kind == "cell":
        _send_cell(entry, store, runs / entry.name)
    elif entry.kind == "failure":
        store.log_failure(entry.name, entry.tags, entry.error)
    elif entry.kind == "report":
        yield from store.log_report(Path(entry.name))
    else:
        store.end(cast(Status, entry.name))


def _send_cell(entry: Entry, store: Store, folder: Path) -> None:
    try:
        values = read_cell(folder)
    except (ReportError, OSError, ValueError, KeyError, TypeError, yaml.YAMLError) as error:  # deleted or damaged since
        _log.warning("%s is not tracked, its files cannot be read: %s", folder, error)
        return
    try:
        store.log_cell(entry.name, entry.tags, values)
    except RefusedError as error:
        _log.warning("%s is tracked as failed, the store refuses it: %s", folder, error)
