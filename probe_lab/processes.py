"""How worker processes live and end, whatever they work on."""

from __future__ import annotations

import os
import signal
import threading
from multiprocessing import connection, parent_process


def begin_worker() -> None:
    """A worker leaves Ctrl-C, which reaches every process of the terminal, to its parent, and ends with it.

    Were the parent killed, nobody would see what the worker goes on with, and its files are no longer its own.
    """
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    threading.Thread(target=_end_with_parent, daemon=True).start()


def _end_with_parent() -> None:
    parent = parent_process()
    if parent is not None:
        connection.wait([parent.sentinel])
        os._exit(1)
