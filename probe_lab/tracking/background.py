"""One thread that logs what it is given, in order, and never lets its giver wait.

While the store cannot be reached, entries go to the backlog; the thread asks again at growing intervals, and logs the
backlog first. Nothing that MLflow, its database or its server raises gets out of here.
"""

from __future__ import annotations

import logging
import threading
import time
from collections import deque
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from dataclasses import dataclass

from probe_lab.progress import progress
from probe_lab.tracking.backlog import Backlog, alone_in
from probe_lab.tracking.entries import Entry, Status
from probe_lab.tracking.ledger import Ledger, digest_of
from probe_lab.tracking.sending import Session, send
from probe_lab.tracking.server import is_web, trouble
from probe_lab.tracking.store import Machine, Store, one_line

_log = logging.getLogger(__name__)

IN_MEMORY = 1000
"""Entries that wait in memory; more go to the backlog."""
FIRST_PAUSE, LONGEST_PAUSE = 5.0, 60.0
"""Seconds between two tries to reach a store that did not answer."""
STALLED = 30.0
"""Seconds without anything logged after which nobody waits for the thread any longer."""
_OWN_STALLED = 120.0
"""The same where the store is a file or a database: it does not go away, and making its tables takes time."""
_GRACE = 5.0
"""Seconds that the entry in hand may take beyond the time that was given."""
_QUIET = 2.0


@dataclass(frozen=True)
class _End:
    """How a session closes: the status of the parent, None where it stays as it is; and until when entries are
    logged."""

    status: Status | None
    until: float

    @property
    def entries(self) -> list[Entry]:
        return [Entry("end", self.status)] if self.status else []


class Background:
    """Logs ``first``, finished cells of which many may be logged already, then what is ``put``, until closed."""

    def __init__(self, session: Session, first: Sequence[Entry] = ()) -> None:
        self._session = session
        self._backlog = Backlog(session.runs)
        self._first = first
        self._entries = deque(first)
        self._current: Entry | None = None
        self._changed = threading.Condition()
        self._end: _End | None = None
        self._abandoned = False
        self._store: Store | None = None
        self._machine: Machine | None = None
        self._retry_at, self._tried, self._pause = 0.0, 0.0, FIRST_PAUSE
        self._done = self._beats = 0
        self.reason = ""
        """Why the store could not be reached last."""
        self._thread = threading.Thread(target=self._run, name="tracking", daemon=True)
        try:
            self._thread.start()
        except RuntimeError as error:  # no further thread, or no memory for it: what is put waits in the backlog
            self.reason = one_line(error)
            _log.warning("tracking waits, the run goes on: %s", self.reason)

    def put(self, entry: Entry) -> None:
        """Log this when there is time for it."""
        with self._changed:
            full = len(self._entries) >= IN_MEMORY
            if not full:
                self._entries.append(entry)
                self._changed.notify()
        if full:
            self._keep([entry])

    def close(self, status: Status | None, seconds: float) -> None:
        """Log what is left, for at most about so long, and end the parent; what remains then is in the backlog.

        A KeyboardInterrupt ends the waiting, and is raised after the rest is safe.
        """
        with self._changed:
            self._end = _End(status, time.monotonic() + seconds)
            self._retry_at = min(self._retry_at, self._tried + FIRST_PAUSE)
            self._changed.notify()
        try:
            self._wait(self._end.until + _GRACE)
        finally:
            with self._changed:
                self._abandoned = True
                rest = [entry for entry in (self._current, *self._entries) if entry is not None]
                self._entries.clear()
            if self._thread.is_alive():  # in a call that does not come back
                self.reason = self.reason or "it takes too long to answer"
                rest += self._end.entries
            self._keep(rest)

    def _wait(self, until: float) -> None:
        started = moved = time.monotonic()
        before = self._beats
        stalled = STALLED if is_web(self._session.uri) else _OWN_STALLED
        with ExitStack() as stack:
            show: Callable[[int, int], None] | None = None
            while self._thread.is_alive():
                self._thread.join(0.05 if time.monotonic() - started < 1 else 0.25)
                now = time.monotonic()
                if self._beats != before:
                    before, moved = self._beats, now
                if now > min(moved + stalled, until):
                    return
                if now > started + _QUIET and self._entries:
                    show = show or stack.enter_context(progress("tracking", "cells"))
                    show(self._done, self._done + len(self._entries))

    def _run(self) -> None:
        with ExitStack() as lock:
            try:
                self._connect(lock)
                if self._store is None:
                    self._drop_known()
                while not self._abandoned:
                    if self._store is None and time.monotonic() >= self._retry_at:
                        self._connect(lock)
                    if self._store is None:
                        self._spill()
                    elif (entry := self._take()) is not None:
                        self._log(entry)
                        continue
                    if self._rest():
                        self._finish()
                        return
            except (OSError, MemoryError) as error:  # the folder of the backlog
                self.reason = one_line(error)
                _log.warning("tracking is off for the rest of this run, which goes on: %s", self.reason)

    def _take(self) -> Entry | None:
        """The next entry, None where there is none or no time for it."""
        with self._changed:
            if not self._entries or self._is_late():
                return None
            self._current = self._entries.popleft()
            return self._current

    def _rest(self) -> bool:
        """Wait until there is something to do; true when it is time to finish."""
        with self._changed:
            if self._end is None and not self._entries:
                self._changed.wait(None if self._store is not None else max(self._retry_at - time.monotonic(), 0.01))
                return False
            return self._end is not None and not (self._store is None and time.monotonic() >= self._retry_at)

    def _is_late(self) -> bool:
        return self._abandoned or (self._end is not None and time.monotonic() > self._end.until)

    def _connect(self, lock: ExitStack) -> None:
        """Reach the store, alone, and log what waits for it."""
        self._tried = time.monotonic()
        reason = trouble(self._session.uri)
        if not reason:
            lock.close()
            if not lock.enter_context(alone_in(self._session.runs)):
                reason = "another command is logging this experiment"
        if not reason:
            try:
                self._store = self._session.open(Ledger.read(self._session.runs, self._session.uri))
                self.reason = ""
                self._replay()
                if self._store is not None and self._session.sweeps:
                    self._store.resume()
                    self._sample()
            except Exception as error:  # the classes of SQLAlchemy, requests and a dozen stores
                reason = one_line(error)
        if reason:
            self._lose(reason)

    def _sample(self) -> None:
        if self._session.machine and self._machine is None and self._store is not None:
            try:
                self._machine = Machine(self._session.uri, self._store.parent)
            except Exception as error:  # a missing psutil, a machine that says nothing
                _log.warning("there will be no system metrics: %s", one_line(error))

    def _lose(self, reason: str) -> None:
        if not self.reason and self._end is None:
            _log.warning("tracking waits, the run goes on: %s: %s", self._session.uri, reason)
        self._store, self.reason = None, reason
        self._retry_at = time.monotonic() + self._pause
        self._pause = min(self._pause * 2, LONGEST_PAUSE)

    def _log(self, entry: Entry) -> None:
        if not self._sent(entry):
            self._backlog.add([entry])
        self._current = None

    def _replay(self) -> None:
        """Log the backlog. What fails goes behind the others, which must not wait for it for ever."""
        files = self._backlog.files()
        left = deque(self._backlog.entries(files))
        while left and not self._is_late():
            entry = left.popleft()
            if not self._sent(entry):
                left.append(entry)
                break
        self._backlog.add(list(left))
        self._backlog.remove(files)

    def _sent(self, entry: Entry) -> bool:
        """Log one entry; false when the store failed."""
        assert self._store is not None
        try:
            for _ in send(entry, self._store, self._session.runs):
                self._beats += 1
        except Exception as error:  # the classes of SQLAlchemy, requests and a dozen stores
            self._lose(one_line(error))
            return False
        self._done += 1
        self._beats += 1
        self._pause = FIRST_PAUSE
        return True

    def _drop_known(self) -> None:
        """Of the finished cells that a sweep begins with, those that are logged or wait already need not wait."""
        ledger = Ledger.read(self._session.runs, self._session.uri)
        known = {entry.name for entry in self._backlog.waiting() if entry.kind == "cell"}
        for name in {entry.name for entry in self._first} & set(ledger.cells):
            if ledger.cells[name].shows(digest_of(self._session.runs / name)):
                known.add(name)
        with self._changed:
            self._entries = deque(entry for entry in self._entries if entry.name not in known)

    def _spill(self) -> None:
        with self._changed:
            rest = list(self._entries)
            self._entries.clear()
        self._backlog.add(rest)

    def _finish(self) -> None:
        """Log what others left in the backlog, end the parent, keep the rest."""
        assert self._end is not None
        self._spill_or_replay()
        if self._store is not None and self._machine is not None:
            self._machine.stop()
        ends = self._end.entries
        if self._store is None or not all(self._sent(entry) for entry in ends):
            self._backlog.add(ends)
        if self._store is not None:
            self._store.leave()

    def _spill_or_replay(self) -> None:
        if self._store is not None and not self._is_late():
            self._replay()
        self._spill()

    def _keep(self, entries: Sequence[Entry]) -> None:
        try:
            self._backlog.add(entries)
        except OSError as error:  # a full disk: the sweep has seen it too
            _log.warning("%d cells are not kept for tracking: %s", len(entries), error)
