"""A thread that keeps a store up to date beside a sweep, which never waits for it but for the rest at its end.

It holds nothing of its own: what was not sent is in the files, and the next pass sees it there. Nothing that MLflow,
its database or its server raises gets out of here.
"""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable
from contextlib import ExitStack

from probe_lab.progress import progress
from probe_lab.tracking.machine import Machine
from probe_lab.tracking.server import is_web, trouble
from probe_lab.tracking.store import one_line
from probe_lab.tracking.sync import Sync
from probe_lab.tracking.tracking_folder import alone_in

_log = logging.getLogger(__name__)

FIRST_PAUSE, LONGEST_PAUSE = 5.0, 60.0
"""Seconds between two tries to reach a store that did not answer."""
REST = 20.0
"""A pass is followed by a rest of so many times the processor time that it took: this is what bounds the cost."""
STALLED = 30.0
"""Seconds without anything sent after which nobody waits for the thread any longer."""
_OWN_STALLED = 120.0
"""The same where the store is a file or a database: it does not go away, and making its tables takes time."""
_GRACE = 5.0
"""Seconds that what is being sent may take beyond the time that was given."""
_QUIET = 2.0


class Background:
    """Runs passes of ``sync`` after ``start``, whenever it is woken, until it is closed.

    ``done``: the store has everything; ``reason``: why it could not be reached last.
    """

    def __init__(self, sync: Sync, *, samples_machine: bool = False) -> None:
        self.done, self.reason = False, ""
        self._sync, self._samples_machine = sync, samples_machine
        self._changed = threading.Condition()
        self._woken = self._is_alone = self._abandoned = False
        self._until: float | None = None
        self._retry_at, self._tried, self._pause = 0.0, 0.0, FIRST_PAUSE
        self._beats, self._step, self._steps = 0, 0, 0
        self._moved = 0.0
        self._stalled = STALLED if is_web(sync.uri) else _OWN_STALLED
        self._thread = threading.Thread(target=self._run, name="tracking", daemon=True)

    def start(self) -> None:
        """Begin. A sweep forks its workers before: there must be no other thread then."""
        try:
            self._thread.start()
        except RuntimeError as error:  # no further thread, or no memory for it
            self.reason = one_line(error)
            _log.warning("tracking waits, the run goes on: %s", self.reason)

    def wake(self) -> None:
        """There is something new in the files."""
        with self._changed:
            self._woken = True
            self._changed.notify()

    def close(self, seconds: float) -> None:
        """Send what is left, for at most about so long. A KeyboardInterrupt ends the waiting, and is raised again."""
        with self._changed:
            self._until = time.monotonic() + seconds
            self._retry_at = min(self._retry_at, self._tried + FIRST_PAUSE)
            self._changed.notify()
        if self._thread.ident is None and not self.reason:
            self.start()
        try:
            self._wait(self._until + _GRACE)
        finally:
            self._abandoned = True
            if self._thread.is_alive():  # what it is about to finish is not left half done
                self._thread.join(_GRACE if self._is_moving() else 0)
            if self._thread.is_alive():  # in a call that does not come back
                self.reason = self.reason or "it takes too long to answer"

    def _wait(self, until: float) -> None:
        started = self._moved = time.monotonic()
        before = self._beats
        with ExitStack() as stack:
            show: Callable[[int, int], None] | None = None
            while self._thread.is_alive():
                self._thread.join(0.05 if time.monotonic() - started < 1 else 0.25)
                now = time.monotonic()
                if self._beats != before:
                    before, self._moved = self._beats, now
                if not self._is_moving() or now > until:
                    return
                if now > started + _QUIET and self._step < self._steps:
                    show = show or stack.enter_context(progress("tracking", "cells"))
                    show(self._step, self._steps)

    def _is_moving(self) -> bool:
        return time.monotonic() <= self._moved + self._stalled

    def _run(self) -> None:
        machine = None
        with ExitStack() as lock:
            while not self._abandoned:
                last, self._woken = self._until is not None, False
                began, reached = time.thread_time(), self._reach(lock)
                if reached:
                    machine = machine or self._sample()
                    began = time.thread_time()  # opening a store is not what is repeated
                    reached = self._pass(last=last)
                if last and (self.done or not reached or self._is_late()):
                    break
                self._rest(REST * (time.thread_time() - began) if reached else self._retry_at - time.monotonic())
            if machine is not None:
                machine.stop()

    def _reach(self, lock: ExitStack) -> bool:
        """Whether the store is open and this the only command that logs into it. One that did not answer is left alone
        for a while."""
        if time.monotonic() < self._retry_at:
            return False
        self._tried = time.monotonic()
        try:
            reason = "" if self._sync.is_connected else self._lock(lock) or trouble(self._sync.uri)
            if not reason:
                self._sync.connect()
                return True
        except Exception as error:  # the classes of SQLAlchemy, requests and a dozen stores
            reason = one_line(error)
        self._lose(reason)
        return False

    def _lock(self, lock: ExitStack) -> str:
        if not self._is_alone:
            lock.close()
            self._is_alone = lock.enter_context(alone_in(self._sync.runs))
        return "" if self._is_alone else "another command is logging this experiment"

    def _pass(self, *, last: bool) -> bool:
        """Whether the store took all that it was given."""
        try:
            everything = (self._sync.finish if last else self._sync.send)(lambda: not self._is_late(), self._note)
        except Exception as error:  # the same, and a disk that is full
            self._lose(one_line(error))
            return False
        self.done, self.reason, self._pause = last and everything, "", FIRST_PAUSE
        return True

    def _note(self, step: int, steps: int) -> None:
        self._step, self._steps = step, steps
        self._beats += 1

    def _sample(self) -> Machine | None:
        """System metrics, into the parent run."""
        if self._samples_machine:
            self._samples_machine = False
            try:
                return Machine(self._sync.uri, self._sync.connect().parent)
            except Exception as error:  # a missing psutil, a machine that says nothing
                _log.warning("there will be no system metrics: %s", one_line(error))
        return None

    def _lose(self, reason: str) -> None:
        if not self.reason and self._until is None:
            _log.warning("tracking waits, the run goes on: %s: %s", self._sync.uri, reason)
        self._sync.disconnect()
        self.reason = reason
        self._retry_at = time.monotonic() + self._pause
        self._pause = min(self._pause * 2, LONGEST_PAUSE)

    def _rest(self, seconds: float) -> None:
        """Let at least so long pass, and wait until there is something new, or a lost store may be asked again."""
        until = time.monotonic() + seconds
        with self._changed:
            while self._until is None:
                left = until - time.monotonic()
                if left <= 0 and (self._woken or self.reason):
                    return
                self._changed.wait(left if left > 0 else None)

    def _is_late(self) -> bool:
        return self._abandoned or (self._until is not None and time.monotonic() > self._until)
