"""What a selection looks like while it runs: the candidates of every prompt, and where they were pruned."""

from __future__ import annotations

import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Protocol

from rich.console import Console, Group, RenderableType
from rich.live import Live
from rich.table import Table
from rich.text import Text
from torch import Tensor

from probe_lab.console import PlainConsole, shortened_line
from probe_lab.progress import LINE_EVERY


@dataclass
class RemainingCandidates:
    """Of some prompts, the candidates that are left; ``gone`` maps the others to the step of their cut, and ``lost``
    are those of the last one, for each prompt of the call."""

    prompts: Sequence[str]
    candidates: int
    steps: int
    first: int = 0
    step: int = 0
    calls: int = 0
    gone: list[dict[int, int]] = field(default_factory=list)
    lost: list[list[int]] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.gone = [{} for _ in self.prompts]

    def left(self, prompt: int) -> list[int]:
        return [one for one in range(self.candidates) if one not in self.gone[prompt]]

    def begin(self, first: int) -> None:
        """The next call is of the prompts from the ``first`` on."""
        self.first, self.step = first, 0

    def advance(self, prompts: int) -> None:
        """A step is made with what is left of so many prompts."""
        self.step += 1
        self.calls += sum(len(self.left(self.first + place)) for place in range(prompts))

    def prune(self, step: int, kept: Sequence[Tensor]) -> None:
        self.lost = []
        for place, rows in enumerate(kept):
            lost = [one for one in self.left(self.first + place) if one not in rows.tolist()]
            self.gone[self.first + place] |= dict.fromkeys(lost, step)
            self.lost.append(lost)


class Watch(Protocol):
    """Told what happens to a ``RemainingCandidates``, after it did."""

    def stepped(self, field: RemainingCandidates) -> None: ...

    def pruned(self, field: RemainingCandidates, step: int, kept: Sequence[Tensor]) -> None: ...


@contextmanager
def watching(console: Console | None = None) -> Iterator[Watch]:
    """A picture that changes on a terminal, lines on stderr elsewhere."""
    console = console or PlainConsole(stderr=True)
    if not console.is_terminal:
        yield _Lines()
        return
    with Live(console=console, refresh_per_second=10) as live:
        yield _Picture(live)


class _Lines:
    def __init__(self) -> None:
        self._last = time.monotonic()

    def stepped(self, field: RemainingCandidates) -> None:
        now = time.monotonic()
        if now - self._last >= LINE_EVERY:
            self._last = now
            print(f"select: {_standing(field)}", file=sys.stderr, flush=True)

    def pruned(self, field: RemainingCandidates, step: int, kept: Sequence[Tensor]) -> None:
        for place, (rows, lost) in enumerate(zip(kept, field.lost, strict=True)):
            if lost:
                print(
                    f"select: step {step} of {field.steps}, {shortened(field.prompts[field.first + place])}: "
                    f"pruned {_numbers(lost)}, best first {_numbers(rows.tolist())}",
                    file=sys.stderr,
                    flush=True,
                )


class _Picture:
    def __init__(self, live: Live) -> None:
        self._live = live

    def stepped(self, field: RemainingCandidates) -> None:
        self._live.update(picture(field))

    def pruned(self, field: RemainingCandidates, step: int, kept: Sequence[Tensor]) -> None:
        self._live.update(picture(field), refresh=True)


def picture(field: RemainingCandidates) -> RenderableType:
    """A line for every prompt: green numbers go on, struck ones were pruned at the step behind them."""
    table = Table.grid(padding=(0, 2))
    for prompt, gone in zip(field.prompts, field.gone, strict=True):
        numbers = Text()
        for one in range(field.candidates):
            numbers.append(" " if one else "")
            if one in gone:
                numbers.append(str(one), style="dim strike").append(f"@{gone[one]}", style="dim")
            else:
                numbers.append(str(one), style="bold green")
        table.add_row(Text(shortened(prompt), style="bold"), numbers)
    return Group(table, Text(_standing(field), style="cyan"))


def _standing(field: RemainingCandidates) -> str:
    whole = len(field.prompts) * field.candidates * field.steps
    return f"step {field.step} of {field.steps}, {field.calls} denoiser calls made (all candidates: {whole})"


def _numbers(values: Sequence[int]) -> str:
    return ", ".join(map(str, values))


def shortened(prompt: str, length: int = 48) -> str:
    """One line of at most ``length`` columns of a terminal, in quotation marks."""
    return f"'{shortened_line(prompt, length)}'"
