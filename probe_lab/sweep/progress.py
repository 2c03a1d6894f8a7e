"""What a running sweep shows: a bar on a terminal, plain lines elsewhere."""

from __future__ import annotations

import time
from types import TracebackType
from typing import TYPE_CHECKING

from rich.console import Console
from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    Progress,
    ProgressColumn,
    SpinnerColumn,
    Task,
    TextColumn,
    TimeElapsedColumn,
)
from rich.text import Text

from probe_lab.console import PlainConsole

if TYPE_CHECKING:
    from probe_lab.sweep.worker import Outcome


class SweepProgress:
    """Cells done of ``total``, rate, time left and the best cell so far, on stderr.

    ``score`` in ``advance`` is (estimate, lower, upper) of ``label``, higher is better; None where a cell
    has none.
    """

    def __init__(self, total: int, *, skipped: int = 0, label: str = "", console: Console | None = None) -> None:
        self.console = console or PlainConsole(stderr=True, soft_wrap=True)
        self._total, self._skipped, self._label = total, skipped, label
        self._done = self._failed = 0
        self._best: tuple[float, str] | None = None
        self._started = time.monotonic()
        self._bar = Progress(
            SpinnerColumn(),
            MofNCompleteColumn(),
            TextColumn("cells"),
            BarColumn(bar_width=24),
            _Rate(),
            TimeElapsedColumn(),
            TextColumn("{task.description}"),
            console=self.console,
            disable=not self.console.is_terminal,
        )
        self._task = self._bar.add_task("", total=total)

    def __enter__(self) -> SweepProgress:
        if self._total:
            self.console.print(f"{self._total} cells to train, {self._skipped} already finished", markup=False)
        self._bar.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._bar.stop()

    def advance(self, outcome: Outcome, score: tuple[float, float, float] | None) -> None:
        """Count one cell."""
        self._done += 1
        self._failed += bool(outcome.error)
        if score is not None and (self._best is None or score[0] > self._best[0]):
            self._best = (score[0], outcome.cell)
        if outcome.error:
            self.console.print(f"failed {outcome.cell}: {outcome.error}", markup=False)
        elif not self.console.is_terminal:
            found = f" {self._label} {score[0]:.3f} [{score[1]:.3f}, {score[2]:.3f}]" if score else ""
            left = (time.monotonic() - self._started) / self._done * (self._total - self._done)
            took = f"({outcome.seconds:.1f} s, {_clock(left)} left)"
            self.console.print(f"[{self._done}/{self._total}] {outcome.cell}{found} {took}", markup=False)
        best = f"best {self._label} {self._best[0]:.3f}: {self._best[1]}" if self._best else ""
        failed = f"{self._failed} failed  " if self._failed else ""
        self._bar.update(self._task, advance=1, description=failed + best)


class _Rate(ProgressColumn):
    """Cells per minute over the whole run, and the time left at that rate."""

    def render(self, task: Task) -> Text:
        if not task.completed or not task.elapsed:
            return Text("starting")
        left = task.elapsed / task.completed * (task.remaining or 0)
        return Text(f"{task.completed / task.elapsed * 60:.1f}/min, {_clock(left)} left")


def _clock(seconds: float) -> str:
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02d}:{rest:02d}" if hours else f"{minutes}:{rest:02d}"
