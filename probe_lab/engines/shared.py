"""Caches and runs lie on a file system that every node sees: how a worker finds out that its node does."""

from __future__ import annotations

import contextlib
import os
import secrets
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from probe_lab.cache.files import disk_errors, existing_parent
from probe_lab.errors import ConfigError


@dataclass(frozen=True)
class SharedFile:
    """A file as the first process sees it; ``folder`` is what people know."""

    folder: Path
    path: Path
    text: str

    def require(self, node: str) -> None:
        """ConfigError unless this process sees the same file."""
        try:
            seen = self.path.read_text()
        except OSError:
            seen = ""
        if seen != self.text:
            raise ConfigError(
                f"the node {node} does not see the folder {os.path.abspath(self.folder)}: with engine.name=ray, caches "
                "and runs must lie on a file system that all nodes share, under one path"
            )


@contextlib.contextmanager
def token_in(folder: Path) -> Iterator[SharedFile]:
    """A file of this run in ``folder``, or in the nearest parent that exists, until the block ends."""
    text = secrets.token_hex(8)
    path = existing_parent(folder) / f".shared-{text}"
    with disk_errors(path):
        path.write_text(text)
    try:
        yield SharedFile(folder, path, text)
    finally:
        path.unlink(missing_ok=True)


def same_file(path: Path) -> SharedFile:
    """A file that is only read: a copy on each node does as well."""
    return SharedFile(path.parent, path, path.read_text())
