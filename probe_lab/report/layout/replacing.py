"""A report takes the place of an earlier one, and of nothing else; what killed runs left beside it goes."""

from __future__ import annotations

import contextlib
import errno
import os
import re
import secrets
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from probe_lab.cache.files import abandoned, machine
from probe_lab.errors import ReportError
from probe_lab.report.layout.html_page import MARK

_HEAD = 65536
"""Bytes of a page in which its mark stands."""
_WRITTEN = {"index.html", "figures", "tables"}
"""All that a report has in its folder."""
_OF_SYSTEMS = {".DS_Store", "Thumbs.db", "desktop.ini"}
"""What file managers put into every folder that they show."""
_FORMER = re.compile(
    r'<!doctype html>\n<html lang="en">\n<head>\n<meta charset="utf-8">\n<meta name="viewport" '
    r'content="width=device-width, initial-scale=1">\n<title>[^<]*</title>\n'
    r'(<script>document\.documentElement\.className = "js"</script>\n)?<style>\n'
    r":root \{ color-scheme: light dark; --ink"
)
"""How the pages of earlier versions, which have no mark, begin."""


@contextmanager
def replacing(out: Path) -> Iterator[Path]:
    """A new folder beside ``out`` that takes its place when the block ends well, and is removed when it does not.

    Raises:
        ReportError: ``out`` is no report, or holds something beside one; or a file cannot be written, or read.
    """
    _require_report(out)
    real = Path(os.path.realpath(out))  # a link stays one
    _remove_leftovers(real)
    owner = f"{os.getpid()}-{machine()}-{secrets.token_hex(4)}"
    fresh, old = (real.with_name(f".{real.name}-{word}-{owner}") for word in ("new", "old"))
    try:
        real.parent.mkdir(parents=True, exist_ok=True)
        fresh.mkdir()
        yield fresh
        _require_report(out)
        if real.exists():
            real.rename(old)
        fresh.rename(real)
    except OSError as error:
        if error.errno is None or (error.filename and not Path(error.filename).is_relative_to(fresh.parent)):
            where = f"{error.filename}: {error.strerror}" if error.filename else str(error)
            raise ReportError(f"the report {out} cannot be drawn, as a file cannot be read ({where})") from error
        what = "the disk is full" if error.errno in (errno.ENOSPC, errno.EDQUOT) else error.strerror
        raise ReportError(
            f"cannot write the report {out}: {what}; the old one is unchanged, choose another `reports` "
            "folder or make room"
        ) from error
    finally:
        shutil.rmtree(fresh, ignore_errors=True)
        if old.exists() and not real.exists():
            old.rename(real)
        shutil.rmtree(old, ignore_errors=True)


def _require_report(out: Path) -> None:
    """ReportError unless there is nothing in ``out`` but a report."""
    try:
        names = {path.name for path in out.iterdir()} - _OF_SYSTEMS if os.path.lexists(out) else set()
    except OSError:  # a file, a link to nowhere, or closed to us
        raise _no_report(out) from None
    if names and not _is_report(out):
        raise _no_report(out)
    if strangers := sorted(names - _WRITTEN):
        raise ReportError(
            f"{out} holds '{strangers[0]}', which no report writes and a new one would delete: move it away, or choose "
            "another `reports` folder"
        )


def _no_report(out: Path) -> ReportError:
    return ReportError(f"{out} exists and is no report: choose another `reports` folder, or move it away")


def _is_report(folder: Path) -> bool:
    """Whether its page says that it is ours."""
    page = folder / "index.html"
    if not page.is_file():
        return False
    with open(page, encoding="utf-8", errors="replace") as file:
        head = file.read(_HEAD)
    former = _FORMER.match(head) and all((folder / name).is_dir() for name in ("figures", "tables"))
    return MARK in head.partition("</head>")[0] or bool(former)


def _remove_leftovers(out: Path) -> None:
    """Remove what killed runs of this report left; where one was killed as it replaced the old report, that returns."""
    pattern = re.compile(rf"\.{re.escape(out.name)}-(new|old)-(\d{{1,9}})(?:-([0-9a-f]{{8}})-[0-9a-f]{{8}})?")
    with contextlib.suppress(OSError):  # no folder yet, or one that others write in too
        for path in sorted(out.parent.iterdir()):
            match = pattern.fullmatch(path.name)
            if match and _is_leftover(path) and abandoned(path, int(match[2]), match[3] or ""):
                if match[1] == "old" and not out.exists():
                    path.rename(out)
                else:
                    shutil.rmtree(path, ignore_errors=True)


def _is_leftover(path: Path) -> bool:
    return path.is_dir() and not path.is_symlink() and {entry.name for entry in path.iterdir()} <= _WRITTEN
