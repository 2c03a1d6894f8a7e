"""Progress of long work: a bar on a terminal, a line every few seconds elsewhere; rate and time left in both."""

from __future__ import annotations

import sys
import time
from collections import deque
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext

from rich.console import Console
from rich.progress import BarColumn, Progress, TextColumn

from probe_lab.console import PlainConsole, shortened_line, visible

LINE_EVERY = 10.0
"""Seconds between two lines where there is no terminal."""
WINDOW = 60.0
"""Seconds that a rate looks back."""
BAR, _WHAT = 12, 20
"""Columns of a bar, and most of what stands before it: with count, rate and time left a line has less than 80."""
OnProgress = Callable[[int, int], None]
"""Called with how much is done, and how much there is in all."""
Watching = Callable[[str, str], AbstractContextManager[OnProgress]]
"""(what is done, what is counted) -> a context with the function that is told (done, total); ``progress`` is one."""


def unwatched(what: str, unit: str) -> AbstractContextManager[OnProgress]:
    """As ``progress``, but shows nothing: what a call from Python does unless it is told otherwise."""
    return nullcontext(lambda done, total: None)


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
def progress(what: str, unit: str) -> Iterator[OnProgress]:
    """Yields ``update(done, total)``; the first call states where the work stands when it starts."""
    console = PlainConsole(stderr=True)
    if not console.is_terminal:
        yield _lines(what, unit)
        return
    rate = Rate()
    bar = bar_of(unit, console)
    task = bar.add_task(shortened_line(what, _WHAT), total=None, pace="")

    def update(done: int, total: int) -> None:
        speed = rate.see(done, time.monotonic())
        pace = f"{pace_text(speed)}, {clock((total - done) / speed)} left" if speed else ""
        bar.update(task, completed=done, total=total, pace=pace)
        bar.start()  # only now: beside its thread no worker process could be forked

    try:
        yield update
    finally:
        bar.stop()


def bar_of(unit: str, console: Console) -> Progress:
    """A bar whose line fits in 80 columns: description, bar, count, and the field ``pace`` of its tasks."""
    columns = (
        TextColumn("{task.description}", markup=False),
        BarColumn(bar_width=BAR),
        TextColumn(f"{{task.completed}}/{{task.total}} {unit}", markup=False),
        TextColumn("{task.fields[pace]}", style="cyan", markup=False),
    )
    return Progress(*columns, console=console)


def pace_text(speed: float) -> str:
    """Units per second as a number that people can read: per minute or hour where it is slow."""
    for per, seconds in (("s", 1), ("min", 60), ("h", 3600)):
        if speed * seconds >= 1 or per == "h":
            break
    return f"{speed * seconds:.1f}/{per}"


def clock(seconds: float) -> str:
    """``4:05`` minutes, ``2:04:05`` hours, from a day on ``3 d 2:04:05``."""
    days, rest = divmod(round(seconds), 86400)
    hours, rest = divmod(rest, 3600)
    minutes, last = divmod(rest, 60)
    text = f"{hours}:{minutes:02d}:{last:02d}" if hours or days else f"{minutes}:{last:02d}"
    return f"{days} d {text}" if days else text


def _lines(what: str, unit: str) -> OnProgress:
    last = time.monotonic()
    rate = Rate()

    def update(done: int, total: int) -> None:
        nonlocal last
        now = time.monotonic()
        speed = rate.see(done, now)
        if done < total and now - last < LINE_EVERY:
            return
        last = now
        pace = f", {pace_text(speed)}" if speed else ""
        left = f", {clock((total - done) / speed)} left" if speed and done < total else ""
        print(f"{visible(what)}: {done}/{total} {unit}{pace}{left}", file=sys.stderr, flush=True)

    return update
