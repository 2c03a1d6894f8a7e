"""New Python processes that do not pay for the imports of PyTorch, Lightning and diffusers: ten seconds of a core each.

A server imports these libraries, none of ours, and forks itself for every process that is asked for. That process has
the arguments, environment, folder, signal mask and files of its order, imports our package itself, and is a child of
the process that asked: what kills, waits for and watches it sees what it would see of a real start.

:func:`warm_spawns` makes multiprocessing's ``spawn`` use it. Linux only: elsewhere processes start as ever.
"""

from __future__ import annotations

import array
import atexit
import contextlib
import ctypes
import fcntl
import functools
import gc
import json
import os
import runpy
import signal
import socket
import subprocess
import sys
import threading
import types
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, NoReturn

_SERVER = """
import sys
sys.path.insert(0, {folder!r})
import interpreters
del sys.path[0]
interpreters.import_libraries()
interpreters.serve({channel})
"""
_SPAWN = "from multiprocessing.spawn import spawn_main"
_SUBREAPER = 36
"""Operation of prctl(2): orphans among the descendants become children of this process."""
_FILES = 64
"""The most that an order may pass."""
_HIGH = 500
"""File descriptors from here on are free in a process that only serves."""
_forked_servers: list[socket.socket] = []
"""In a process that a server started, the channel to its own."""


def import_libraries() -> None:
    """What commands and their workers import of others; no thread may run afterwards, since forks have none."""
    gc.disable()
    import diffusers
    import lightning.pytorch
    import matplotlib.pyplot
    import mlflow.store.tracking.sqlalchemy_store
    import pandas
    import pyarrow.parquet
    import scipy.stats
    import torch
    import torchmetrics
    import transformers
    from diffusers import StableDiffusionPipeline

    del diffusers, lightning, matplotlib, mlflow, pandas, pyarrow, scipy, torchmetrics, transformers
    del StableDiffusionPipeline
    torch.set_num_threads(1)
    gc.freeze()  # no fork looks for garbage in what has been imported, nor copies the memory of it for that
    gc.enable()
    assert threading.active_count() == 1, threading.enumerate()
    assert not [name for name in sys.modules if name.partition(".")[0] == "probe_lab"]


class Popen(subprocess.Popen[str]):
    """``subprocess.Popen`` of ``python *arguments`` with text streams: ``-c code``, ``-m module`` or a script.

    The process leads a session of its own, as a command that a terminal starts, and its own spawns are as fast.
    """

    def __init__(self, arguments: Sequence[str | Path], **settings: Any) -> None:
        super().__init__([sys.executable, *map(str, arguments)], text=True, **settings)

    if sys.platform == "linux":

        def _execute_child(self, arguments: Sequence[str], *settings: Any) -> None:
            """Called by the base class once it has made the pipes, with what it would hand on to fork and exec."""
            folder, environment = settings[4:6]
            read_in, _, _, write_out, _, write_err = settings[9:15]
            with open(os.devnull, "r+b") as nothing:
                ends = zip((0, 1, 2), (read_in, write_out, write_err), (nothing.fileno(), 1, 2), strict=True)
                files = {number: end if end != -1 else default for number, end, default in ends}
                self.pid = _start(arguments[1:], files, environment, folder, session=True)
            self._child_created = True
            self._close_pipe_fds(*settings[9:15])  # type: ignore[attr-defined]


def run(arguments: Sequence[str | Path], **settings: Any) -> subprocess.CompletedProcess[str]:
    """``subprocess.run`` of ``python *arguments``, its output as text."""
    with Popen(arguments, stdout=subprocess.PIPE, stderr=subprocess.PIPE, **settings) as process:
        out, err = process.communicate()
    return subprocess.CompletedProcess(process.args, process.returncode, out, err)


def _start(
    arguments: Sequence[str],
    files: Mapping[int, int],
    environment: Mapping[str, str] | None = None,
    folder: str | Path | None = None,
    *,
    session: bool = False,
) -> int:
    """The id of the new child; ``files`` has its file descriptors, each with the one of this process that it is."""
    order = {
        "arguments": [*arguments],
        "files": [*files],
        "environment": dict(os.environ if environment is None else environment),
        "folder": os.getcwd() if folder is None else str(folder),
        "session": session,
        "mask": [int(number) for number in signal.pthread_sigmask(signal.SIG_BLOCK, ())],
    }
    channel = _server()
    with _subreaper():
        sources = array.array("i", files.values())
        channel.sendmsg([json.dumps(order).encode()], [(socket.SOL_SOCKET, socket.SCM_RIGHTS, sources)])
        child = int(channel.recv(32))
        channel.recv(1)  # its first parent is gone
        return child


def ensure_running() -> None:
    """Start the server now, for those who count the children of this process."""
    _server()


def warm_spawns() -> None:
    """Let multiprocessing's ``spawn`` start the workers of this process here; forks of it start theirs as ever."""
    from multiprocessing import util

    if sys.platform != "linux":
        return
    cold: Callable[..., int] = util.spawnv_passfds  # type: ignore[attr-defined]
    owner = os.getpid()

    def spawn(path: bytes, arguments: Sequence[bytes | str], files: Sequence[int]) -> int:
        words = [os.fsdecode(word) for word in arguments]
        code = words.index("-c") if "-c" in words else 0
        if os.getpid() != owner or not words[code + 1].startswith(_SPAWN):
            return cold(path, arguments, files)
        return _start(words[code:], {number: number for number in (0, 1, 2, *files)})

    util.spawnv_passfds = spawn  # type: ignore[attr-defined]


@contextlib.contextmanager
def _subreaper() -> Iterator[None]:
    """While a process starts, whose parent leaves at once, it becomes a child of this one."""
    prctl = ctypes.CDLL(None, use_errno=True).prctl
    prctl(_SUBREAPER, 1, 0, 0, 0)
    try:
        yield
    finally:
        prctl(_SUBREAPER, 0, 0, 0, 0)


@functools.cache
def _server() -> socket.socket:
    """The channel to the server of this process, which ends with it."""
    if _forked_servers:
        return _forked_servers[-1]
    ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    with theirs:
        code = _SERVER.format(folder=str(Path(__file__).parent), channel=theirs.fileno())
        subprocess.Popen(
            [sys.executable, "-c", code],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            env=os.environ | {"OMP_NUM_THREADS": "1"},
            pass_fds=[theirs.fileno()],
        )
    return ours


def serve(channel_number: int) -> NoReturn:
    """Fork for every order from the channel, until nobody is left who could send one."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # the terminal sends it to all; who asks ends this process
    with socket.socket(fileno=channel_number) as channel:
        while True:
            message, extras, _, _ = channel.recvmsg(1 << 20, socket.CMSG_SPACE(_FILES * array.array("i").itemsize))
            if not message:
                os._exit(0)
            sources = array.array("i")
            for _, _, content in extras:
                sources.frombytes(content)
            between = os.fork()
            if between == 0:
                child = os.fork()
                if child == 0:
                    _run(json.loads(message), sources)
                channel.send(str(child).encode())
                os._exit(0)
            os.waitpid(between, 0)
            channel.send(b".")
            for number in sources:
                os.close(number)


def _run(order: Mapping[str, Any], sources: Sequence[int]) -> NoReturn:
    """What a new process does from its first moment to its last."""
    _take_files(dict(zip(order["files"], sources, strict=True)))
    if order["session"]:
        os.setsid()
    os.chdir(order["folder"])
    os.environ.clear()
    os.environ.update(order["environment"])
    added = [path for path in os.environ.get("PYTHONPATH", "").split(os.pathsep) if path and path not in sys.path]
    sys.path[1:1] = added
    if order["session"]:
        _fork_a_server()
    signal.signal(signal.SIGINT, signal.default_int_handler)
    signal.pthread_sigmask(signal.SIG_SETMASK, order["mask"])
    try:
        _execute(*order["arguments"])
        _end(0)
    except SystemExit as end:
        _end(end.code if isinstance(end.code, int) else 0 if end.code is None else 1)
    except KeyboardInterrupt:
        sys.excepthook(*sys.exc_info())
        _end(-signal.SIGINT)
    except BaseException:
        sys.excepthook(*sys.exc_info())
        _end(1)


def _take_files(files: Mapping[int, int]) -> None:
    """Have each of these file descriptors be the one that stands beside it, and no other one."""
    moved = {number: fcntl.fcntl(source, fcntl.F_DUPFD, _HIGH) for number, source in files.items()}
    os.closerange(3, _HIGH)
    for number, source in moved.items():
        os.dup2(source, number)
        os.close(source)


def _fork_a_server() -> None:
    """For the spawns of this process: its own, which it has as a child."""
    ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    if os.fork() == 0:
        ours.close()
        serve(theirs.detach())
    theirs.close()
    _forked_servers.append(ours)
    warm_spawns()


def _execute(what: str, *arguments: str) -> None:
    """Be ``python what *arguments``."""
    if what == "-m":
        sys.argv, sys.path[0] = [*arguments], os.getcwd()
        runpy.run_module(arguments[0], run_name="__main__", alter_sys=True)
        return
    main = sys.modules["__main__"] = types.ModuleType("__main__")
    if what == "-c":
        sys.argv, sys.path[0] = ["-c", *arguments[1:]], ""
        code = compile(arguments[0], "<string>", "exec")
    else:
        sys.argv, sys.path[0] = [what, *arguments], str(Path(what).resolve().parent)
        main.__file__ = what
        code = compile(Path(what).read_text(), what, "exec")
    exec(code, main.__dict__)


def _end(code: int) -> NoReturn:
    """As Python ends: its threads, what is registered for the end, what is still to be written."""
    for thread in threading.enumerate():
        if thread is not threading.current_thread() and not thread.daemon:
            thread.join()
    atexit._run_exitfuncs()
    for stream in (sys.stdout, sys.stderr):
        with contextlib.suppress(OSError, ValueError):
            stream.flush()
    if code < 0:
        signal.signal(-code, signal.SIG_DFL)
        os.kill(os.getpid(), -code)
    os._exit(code)
