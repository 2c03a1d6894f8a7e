"""``overwrite.json``: the files of a cache that an interrupted `probe-lab score --overwrite` has still to make again.

They are listed before the first of them is made, and each is struck out when it is there. Until then it counts as
missing for whoever makes such files, with the flag or without; readers of the cache have the former one.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Collection, Iterator
from contextlib import contextmanager
from pathlib import Path

from probe_lab.cache.files import disk_errors, locked, write_atomic
from probe_lab.cache.manifest import manifest_path
from probe_lab.errors import CacheError
from probe_lab.json_text import read_json

OVERWRITE = "overwrite.json"


@contextmanager
def overwriting(folder: Path, paths: Collection[Path], *, asked: bool) -> Iterator[None]:
    """Inside, the files at ``paths`` are made; if ``asked`` all of them anew, unless some are still to be made by an
    overwriting that was interrupted: then only those, or it would never end.

    CacheError when the list cannot be read or written.
    """
    places = {path.relative_to(folder).as_posix() for path in paths}
    if asked and not places & _stale(folder):
        for path in paths:
            with disk_errors(path):
                path.with_suffix(".partial").unlink(missing_ok=True)
        _change(folder, places.union)
    yield
    if done := places & _stale(folder):  # there was nothing to make
        _change(folder, lambda stale: stale - done)


def is_stale(folder: Path, path: Path) -> bool:
    """Whether the file at ``path`` is to be made again, whatever it holds. CacheError as in ``overwriting``."""
    return path.relative_to(folder).as_posix() in _stale(folder)


def renewed(folder: Path, path: Path) -> None:
    """Note that the file at ``path`` was made. CacheError as in ``overwriting``."""
    if is_stale(folder, path):
        _change(folder, lambda stale: stale - {path.relative_to(folder).as_posix()})


def _change(folder: Path, changed: Callable[[set[str]], set[str]]) -> None:
    path = folder / OVERWRITE
    with disk_errors(path), locked(manifest_path(folder)):
        if stale := changed(_stale(folder)):
            write_atomic(path, f"{json.dumps(sorted(stale), indent=0)}\n".encode())
        else:
            path.unlink(missing_ok=True)


def _stale(folder: Path) -> set[str]:
    path = folder / OVERWRITE
    try:
        return set(read_json(path.read_bytes()))
    except FileNotFoundError:
        return set()
    except (OSError, ValueError, TypeError) as error:
        raise CacheError(
            f"{path} is no list of files that are to be made again ({error}): delete it, and run `probe-lab score` "
            "with --overwrite"
        ) from error
