"""Progress of long work: a bar on a terminal, a line every few seconds elsewhere; rate and time left in both."""

from __future__ import annotations

import sys
import time
from collections import deque
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from datetime import timedelta

from rich.console import Console
from rich.progress import BarColumn, Progress, TextColumn

LINE_EVERY = 10.0
"""Seconds between two lines where there is no terminal."""
WINDOW = 60.0
"""Seconds that a rate looks back."""
Watching = Callable[[str, str], AbstractContextManager[Callable[[int, int], None]]]
"""(what is done, what is counted) -> a context with the function that is told (done, total); ``progress`` is one."""


class Rate:
    """Units per second, over the last minute of a work.

    The first report is where it starts from: what was done before does not count, and reports that come in bursts are
    measured against a point before them.
    """

    def __init__(self) -> None:
        self._seen: deque[tuple[float, int]] = deque()

    def see(self, done: int, now: float) -> float:
        """The rate after a report; 0 when there is none yet."""
        self._seen.append((now, done))
        while len(self._seen) > 2 and self._seen[1][0] <= now - WINDOW:
            self._seen.popleft()
        since, before = self._seen[0]
        return (done - before) / (now - since) if now > since else 0.0


@contextmanager
def progress(what: str, unit: str) -> Iterator[Callable[[int, int], None]]:
    """Yields ``update(done, total)``; the first call states where the work stands when it starts."""
    console = Console(stderr=True)
    if not console.is_terminal:
        yield _lines(what, unit)
        return
    columns = (
        TextColumn("{task.description}"),
        BarColumn(),
        TextColumn(f"{{task.completed}}/{{task.total}} {unit}"),
        TextColumn("[cyan]{task.fields[rate]}"),
        TextColumn("[cyan]{task.fields[left]}"),
    )
    rate = Rate()
    bar = Progress(*columns, console=console)
    task = bar.add_task(what, total=None, rate="", left="")

    def update(done: int, total: int) -> None:
        speed = rate.see(done, time.monotonic())
        left = str(timedelta(seconds=round((total - done) / speed))) if speed else ""
        bar.update(task, completed=done, total=total, rate=f"{speed:.1f} {unit}/s" if speed else "", left=left)
        bar.start()  # only now: beside its thread no worker process could be forked

    try:
        yield update
    finally:
        bar.stop()


def _lines(what: str, unit: str) -> Callable[[int, int], None]:
    last = time.monotonic()
    rate = Rate()

    def update(done: int, total: int) -> None:
        nonlocal last
        now = time.monotonic()
        speed = rate.see(done, now)
        if done < total and now - last < LINE_EVERY:
            return
        last = now
        pace = f", {speed:.1f} {unit}/s" if speed else ""
        left = f", {(total - done) / speed:.0f} s left" if speed and done < total else ""
        print(f"{what}: {done}/{total} {unit}{pace}{left}", file=sys.stderr, flush=True)

    return update
