"""``overwrite.json``: the files of a cache that an interrupted `probe-lab score --overwrite` has still to make again.

They are listed before the first of them is made, and each is struck out when it is there. Until then it counts as
missing for whoever makes such files, with the flag or without; readers of the cache have the former one.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Collection, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from probe_lab.cache.files import disk_errors, locked, write_atomic
from probe_lab.cache.manifest import manifest_path
from probe_lab.errors import CacheError
from probe_lab.json_text import read_json

OVERWRITE = "overwrite.json"


@dataclass(frozen=True)
class _Overwriting:
    """``wanted`` is all that was asked for, ``left`` what of it is still to be made."""

    wanted: frozenset[str] = frozenset()
    left: frozenset[str] = frozenset()


@contextmanager
def overwriting(folder: Path, paths: Collection[Path], *, asked: bool) -> Iterator[None]:
    """Inside, the files at ``paths`` are made; if ``asked`` all of them anew, unless an overwriting of these was
    interrupted: then only those that are left of it, or it would never end.

    CacheError when the list cannot be read or written.
    """
    places = frozenset(path.relative_to(folder).as_posix() for path in paths)
    begun = _stored(folder)
    if asked and not (places & begun.left and places <= begun.wanted):
        for path in paths:
            with disk_errors(path):
                path.with_suffix(".partial").unlink(missing_ok=True)
        _change(folder, lambda stored: _Overwriting(stored.wanted | places, stored.left | places))
    yield
    if places & _stored(folder).left:  # there was nothing to make
        _change(folder, lambda stored: _Overwriting(stored.wanted, stored.left - places))


def is_stale(folder: Path, path: Path) -> bool:
    """Whether the file at ``path`` is to be made again, whatever it holds. CacheError as in ``overwriting``."""
    return path.relative_to(folder).as_posix() in _stored(folder).left


def renewed(folder: Path, path: Path) -> None:
    """Note that the file at ``path`` was made. CacheError as in ``overwriting``."""
    if is_stale(folder, path):
        place = {path.relative_to(folder).as_posix()}
        _change(folder, lambda stored: _Overwriting(stored.wanted, stored.left - place))


def _change(folder: Path, changed: Callable[[_Overwriting], _Overwriting]) -> None:
    path = folder / OVERWRITE
    with disk_errors(path), locked(manifest_path(folder)):
        after = changed(_stored(folder))
        if after.left:
            content = {"wanted": sorted(after.wanted), "left": sorted(after.left)}
            write_atomic(path, f"{json.dumps(content, indent=0)}\n".encode())
        else:
            path.unlink(missing_ok=True)


def _stored(folder: Path) -> _Overwriting:
    path = folder / OVERWRITE
    try:
        content = read_json(path.read_bytes())
        return _Overwriting(frozenset(content["wanted"]), frozenset(content["left"]))
    except FileNotFoundError:
        return _Overwriting()
    except (OSError, ValueError, TypeError, KeyError) as error:
        raise CacheError(
            f"{path} is no list of files that are to be made again ({error}): delete it, and run `probe-lab score` "
            "with --overwrite"
        ) from error
