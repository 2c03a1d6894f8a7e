"""What a running sweep shows: a bar on a terminal, plain lines elsewhere."""

from __future__ import annotations

import time
from types import TracebackType
from typing import TYPE_CHECKING

from rich.console import Console

from probe_lab.console import PlainConsole, visible
from probe_lab.progress import LINE_EVERY, bar_of, clock, pace_text

if TYPE_CHECKING:
    from probe_lab.sweep.worker import Outcome


class SweepProgress:
    """Cells done of ``total``, rate, time left and the best cell so far, on stderr.

    The bar's line fits in 80 columns; a cell that is the best so far is named in a line above it. Without a terminal
    there is a line every few seconds, for the best so far, and for the first and the last cell. Failures are always
    told. ``score`` in ``advance`` is (estimate, lower, upper) of ``label``, higher is better; None where a cell
    has none.
    """

    def __init__(self, total: int, *, skipped: int = 0, label: str = "", console: Console | None = None) -> None:
        self.console = console or PlainConsole(stderr=True, soft_wrap=True)
        self._total, self._skipped, self._label = total, skipped, label
        self._done = self._failed = 0
        self._best: float | None = None
        self._started = self._last = time.monotonic()
        self._bar = bar_of("cells", self.console)
        self._bar.disable = not self.console.is_terminal
        self._task = self._bar.add_task("sweep", total=total, pace="starting")

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
        best = score is not None and (self._best is None or score[0] > self._best)
        if score is not None and best:
            self._best = score[0]
        if outcome.error:
            self.console.print(f"failed {outcome.cell}: {outcome.error}", markup=False)
        elif self._is_told(best=best):
            self._last = time.monotonic()
            self.console.print(visible(self._line(outcome, score, best=best)), markup=False)
        failed = f", {self._failed} failed" if self._failed else ""
        self._bar.update(self._task, advance=1, pace=f"{self._pace()}{failed}")

    def _is_told(self, *, best: bool) -> bool:
        """Whether a finished cell has a line of its own."""
        if best or self.console.is_terminal:
            return best
        return self._done in (1, self._total) or time.monotonic() - self._last >= LINE_EVERY

    def _line(self, outcome: Outcome, score: tuple[float, float, float] | None, *, best: bool) -> str:
        value = f" {self._label} {score[0]:.3f} [{score[1]:.3f}, {score[2]:.3f}]" if score else ""
        told = "" if self.console.is_terminal else f" ({outcome.seconds:.1f} s, {self._pace()})"
        return f"[{self._done}/{self._total}]{' best so far:' if best else ''} {outcome.cell}{value}{told}"

    def _pace(self) -> str:
        """Cells over the whole run, and the time left at that rate."""
        speed = self._done / max(time.monotonic() - self._started, 1e-9)
        return f"{pace_text(speed)}, {clock((self._total - self._done) / speed)} left"
