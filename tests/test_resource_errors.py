"""What runs out is one sentence, at the depth of every verb and in every library's words."""

from __future__ import annotations

import errno
import os
import resource
import sys
from pathlib import Path

import interpreters
import pytest
from safetensors import SafetensorError

from probe_lab import cli
from probe_lab.resource_errors import one_line, scarcity


@pytest.mark.parametrize(
    ("error", "words"),
    [
        (OSError(errno.EMFILE, os.strerror(errno.EMFILE), "/a/b"), "no further file can be opened (/a/b)"),
        (OSError(errno.ENFILE, "x"), "no further file can be opened, "),
        (OSError(errno.ENOSPC, "x", "a"), "the disk is full (a): make room"),
        (OSError(errno.EDQUOT, "x"), "the disk is full: make room"),
        (OSError(errno.EROFS, "x", "a"), "the file system is read-only (a): choose another folder"),
        (OSError(errno.ENOMEM, "x"), "memory ran out: lower workers"),
        (BlockingIOError(errno.EAGAIN, "x"), "no further process or thread can be started: lower workers"),
        (MemoryError(), "memory ran out: lower workers"),
        (RuntimeError("can't start new thread"), "no further process or thread"),
        (RuntimeError("[enforce fail] DefaultCPUAllocator: can't allocate memory: you tried"), "memory ran out"),
        (RuntimeError("unable to allocate shared memory(shm): No space left on device (28)"), "the disk is full"),
        (ImportError("x.so: failed to map segment from shared object"), "memory ran out"),
        (SafetensorError("Error while serializing: I/O error: Too many open files (os error 24)"), "no further file"),
    ],
)
def test_it_is_said_in_one_sentence(error: Exception, words: str) -> None:
    assert scarcity(error).startswith(words)
    assert one_line(error) == scarcity(error)
    wrapped = ValueError("a library's own")
    wrapped.__cause__ = error
    assert scarcity(wrapped) == scarcity(error)


@pytest.mark.parametrize("error", [ValueError("out of memory"), KeyError("x"), OSError("x"), FileNotFoundError(2, "x")])
def test_faults_of_the_program_are_not_taken_for_it(error: Exception) -> None:
    assert scarcity(error) == ""
    during = ValueError("a bug")
    during.__context__ = MemoryError()
    assert scarcity(during) == ""


@pytest.mark.parametrize(("words", "code"), [([], 2), (["--debug"], None)])
def test_the_command_line_says_it_and_keeps_the_traceback_for_debug(
    words: list[str], code: int | None, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def run(*_: object, **__: object) -> None:
        raise OSError(errno.EMFILE, "Too many open files", "data_cache/smoke/shards/00000.safetensors")

    monkeypatch.setattr(cli, "app", run)
    monkeypatch.setattr(sys, "argv", ["probe-lab", "score", "smoke", *words])
    with pytest.raises(SystemExit if code else OSError):
        cli.main()
    told = capsys.readouterr().err
    assert told.count("\n") == (1 if code else 0)
    assert not code or told.endswith("raise the limit (`ulimit -n 4096`); then run the same command again\n")


@pytest.mark.parametrize(("limit", "value"), [(resource.RLIMIT_NOFILE, 7), (resource.RLIMIT_FSIZE, 0)])
def test_a_command_under_a_limit_ends_in_one_line(tmp_path: Path, limit: int, value: int) -> None:
    program = (
        "import resource, signal, sys\n"
        "from pathlib import Path\n"
        "import probe_lab.compare.command, probe_lab.sweep.tap_patterns\n"
        "from probe_lab import cli\n"
        "from probe_lab.cache.files import write_whole\n"
        "def use(*_, **__):\n"
        "    handles = [open('/dev/null') for _ in range(4)]\n"
        "    write_whole(Path('file'), b'x')\n"
        "cli.app = use\n"
        "signal.signal(signal.SIGXFSZ, signal.SIG_IGN)\n"
        f"resource.setrlimit({limit}, ({value}, {value}))\n"
        "sys.argv = ['probe-lab', 'compare', 'smoke']\n"
        "cli.main()\n"
    )
    done = interpreters.run(["-c", program], cwd=tmp_path)
    assert done.returncode == 2, done.stderr
    assert done.stderr.startswith("error: ")
    assert done.stderr.count("\n") == 1
    assert list(tmp_path.iterdir()) == []
