"""How worker processes start, live and end, whatever they work on."""

from __future__ import annotations

import contextlib
import os
import signal
import sys
import threading
from collections.abc import Iterator, Mapping
from multiprocessing import connection, current_process, get_context, parent_process
from types import FrameType
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from multiprocessing.context import ForkContext, SpawnContext  # the first is not there on Windows

READ_AGAIN = 79
"""Exit code of a worker that left because it came to the start of workers again, see ``spawn_context``."""
_UNGUARDED = (
    "because it read the script that started it again and came to the same call: put the calls of the script below "
    '`if __name__ == "__main__":`'
)


def spawn_context() -> SpawnContext:
    """For workers that share nothing with this process.

    They begin by reading its script again. Where a script calls for workers at its top level, they would call for
    workers in turn: such a worker leaves at once, and silently, with the exit code ``READ_AGAIN``.
    """
    if getattr(current_process(), "_inheriting", False):  # it is still reading the script, as multiprocessing asks too
        sys.exit(READ_AGAIN)
    return get_context("spawn")


def start_context(*, on_cpu: bool, threads: int) -> ForkContext | SpawnContext:
    """How worker processes start: a fork has its libraries already, a spawned one takes seconds to import them.

    After a fork no card can be used, nor more ``threads`` than one: the pool of the first process is not there. Locks
    that another thread held would stay held. Only Linux forks safely beside system libraries.
    """
    alone = threading.active_count() == 1
    if sys.platform == "linux" and on_cpu and threads == 1 and alone and _forks_differentiate():
        return get_context("fork")
    return spawn_context()


def _forks_differentiate() -> bool:
    """Whether a fork of this process can take gradients.

    It cannot once this process took one while PyTorch saw any device beside the CPU: the autograd threads of devices
    are not in the fork. PyTorch does not tell; a fork that tries takes milliseconds.
    """
    torch = sys.modules.get("torch")
    if torch is None:
        return True
    child = os.fork()
    if child == 0:
        code = 1
        try:
            torch.zeros(1, requires_grad=True).sum().backward()
            code = 0
        finally:
            os._exit(code)
    return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0


def cores() -> int:
    """The cores that this process may use: not all of them where a scheduler, or a container, gave it some."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def visible_cards() -> list[str]:
    """The GPUs that this process may use, as ``CUDA_VISIBLE_DEVICES`` names them."""
    import torch

    named = os.environ.get("CUDA_VISIBLE_DEVICES")
    if named is not None:
        return [card.strip() for card in named.split(",") if card.strip()]
    return [str(card) for card in range(torch.cuda.device_count())]


@contextlib.contextmanager
def environment(changes: Mapping[str, str]) -> Iterator[None]:
    """Environment variables that processes started inside inherit; afterwards they are as before."""
    before = {name: os.environ.get(name) for name in changes}
    os.environ.update(changes)
    try:
        yield
    finally:
        for name, value in before.items():
            if value is None:
                del os.environ[name]
            else:
                os.environ[name] = value


@contextlib.contextmanager
def interrupts_held() -> Iterator[None]:
    """Hold Ctrl-C and SIGTERM back while a worker starts: it inherits that until it is ready, and a forked one does not
    answer them by its parent's handlers, with a traceback, in the middle of its start."""
    held = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT, signal.SIGTERM})
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, held)


@contextlib.contextmanager
def terminated_as_interrupt() -> Iterator[None]:
    """A cluster ends jobs with SIGTERM: leave as tidily as after Ctrl-C."""

    def interrupt(number: int, frame: FrameType | None) -> None:
        raise KeyboardInterrupt

    if threading.current_thread() is not threading.main_thread():
        yield
        return
    before = signal.signal(signal.SIGTERM, interrupt)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)


def ending(code: int) -> str:
    """How a process ended, from its exit code: ``by signal 9 (SIGKILL)``, or ``with exit code 1``.

    Of ``READ_AGAIN`` the cause, and what to do about it.
    """
    if code == READ_AGAIN:
        return _UNGUARDED
    if code >= 0:
        return f"with exit code {code}"
    try:
        name = signal.Signals(-code).name
    except ValueError:  # most real-time signals have no name
        name = "unknown"
    return f"by signal {-code} ({name})"


def begin_worker(pipe: connection.Connection | None = None) -> None:
    """A worker leaves Ctrl-C, which reaches every process of the terminal, to its parent, and ends with it.

    Were the parent killed, nobody would see what the worker goes on with, and its files are no longer its own. The
    ``pipe`` to the parent is not handed on to processes that the worker forks: they would keep it open beyond the
    worker's death, which its end tells.
    """
    if pipe is not None and hasattr(os, "register_at_fork"):
        os.register_at_fork(after_in_child=pipe.close)
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    signal.signal(signal.SIGTERM, signal.SIG_DFL)  # a forked one has its parent's handler
    signal.pthread_sigmask(signal.SIG_UNBLOCK, {signal.SIGTERM})  # held since its start
    threading.Thread(target=_end_with_parent, daemon=True).start()


def _end_with_parent() -> None:
    parent = parent_process()
    if parent is not None:
        connection.wait([parent.sentinel])
        os._exit(1)
