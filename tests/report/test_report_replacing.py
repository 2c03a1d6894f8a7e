"""A report replaces reports alone, and leaves nothing of killed runs behind."""

from __future__ import annotations

import os
import subprocess
from pathlib import Path

import pytest

from probe_lab.cache.files import machine
from probe_lab.errors import ReportError
from probe_lab.report.layout.html_page import page
from probe_lab.report.layout.replacing import replacing

REPORTS = Path(__file__).parents[2] / "reports"


def _replace(out: Path) -> None:
    with replacing(out) as folder:
        (folder / "index.html").write_text(page("new", "", []))


def _report(out: Path) -> Path:
    (out / "figures").mkdir(parents=True)
    (out / "tables").mkdir()
    (out / "index.html").write_text(page("old", "", []))
    return out


def _is_new(out: Path) -> bool:
    return "<title>new</title>" in (out / "index.html").read_text()


@pytest.fixture
def dead() -> int:
    """The id of a process that has ended."""
    process = subprocess.Popen(["true"])
    process.wait()
    return process.pid


def test_what_is_ours_is_replaced(tmp_path: Path) -> None:
    out = _report(tmp_path / "r")
    (out / ".DS_Store").write_text("")
    _replace(out)
    assert _is_new(out)
    empty = tmp_path / "empty"
    empty.mkdir()
    _replace(empty)
    assert _is_new(empty)


@pytest.mark.parametrize("name", sorted(path.parent.name for path in REPORTS.glob("*/index.html")))
def test_a_report_of_an_earlier_version_is_known(tmp_path: Path, name: str) -> None:
    out = _report(tmp_path / name)
    (out / "index.html").write_text((REPORTS / name / "index.html").read_text()[:5000])
    _replace(out)
    assert _is_new(out)


@pytest.mark.parametrize(
    "text",
    ["my page", "", '<!doctype html>\n<html lang="en">\n<head>\n<meta name="generator" content="Hugo">\n</head>'],
)
def test_a_page_of_another_is_kept_with_all_that_is_beside_it(tmp_path: Path, text: str) -> None:
    out = _report(tmp_path / "site")
    (out / "index.html").write_text(text)
    with pytest.raises(ReportError, match="is no report"):
        _replace(out)
    assert (out / "index.html").read_text() == text
    assert [path.name for path in tmp_path.iterdir()] == ["site"]


@pytest.mark.parametrize("name", ["photos", "notes.md", ".git"])
def test_what_lies_in_a_report_and_is_not_of_it_is_named(tmp_path: Path, name: str) -> None:
    out = _report(tmp_path / "r")
    (out / name).mkdir()
    with pytest.raises(ReportError, match=f"holds '{name}'"):
        _replace(out)
    assert not _is_new(out)


def test_what_comes_while_a_report_is_drawn_is_kept(tmp_path: Path) -> None:
    out = _report(tmp_path / "r")
    with pytest.raises(ReportError, match=r"holds 'notes\.md'"), replacing(out):
        (out / "notes.md").write_text("mine")
    assert (out / "notes.md").exists()


def test_a_file_and_a_link_to_nowhere_are_no_report(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("x")
    (tmp_path / "link").symlink_to(tmp_path / "nowhere")
    for name in ("file", "link"):
        with pytest.raises(ReportError, match="is no report"):
            _replace(tmp_path / name)


def test_a_link_to_a_report_stays_one(tmp_path: Path) -> None:
    (tmp_path / "r").symlink_to(_report(tmp_path / "disk" / "r"))
    _replace(tmp_path / "r")
    assert (tmp_path / "r").is_symlink()
    assert _is_new(tmp_path / "disk" / "r")


def test_leftovers_of_dead_runs_of_this_report_go_and_all_else_stays(tmp_path: Path, dead: int) -> None:
    stays = [
        f".r-new-{os.getpid()}-{machine()}-00000000",  # of a living process
        f".r-new-{dead}-00000000-00000000",  # of another machine
        f".r-new-{dead}",  # of an earlier version: perhaps of another machine
        f".other-new-{dead}-{machine()}-00000000",
        ".r-new-ideas",
    ]
    goes = [f".r-{word}-{dead}-{machine()}-0000000{i}" for i, word in enumerate(("new", "old"))]
    foreign = _report(tmp_path / f".r-new-{dead}-{machine()}-0000000a") / "thesis.tex"
    foreign.write_text("x")
    for name in (*stays, *goes):
        _report(tmp_path / name)
    aged = _report(tmp_path / f".r-old-{dead + 1}")
    os.utime(aged, (0, 0))
    _report(tmp_path / "r")
    _replace(tmp_path / "r")
    assert {path.name for path in tmp_path.iterdir()} == {"r", foreign.parent.name, *stays}
    assert _is_new(tmp_path / "r")


def test_the_old_report_of_a_run_that_died_between_two_renames_returns(tmp_path: Path, dead: int) -> None:
    _report(tmp_path / f".r-old-{dead}-{machine()}-00000000")
    with pytest.raises(ValueError, match="today"), replacing(tmp_path / "r"):
        raise ValueError("not today")
    assert [path.name for path in tmp_path.iterdir()] == ["r"]
