"""Seconds inside chosen methods, and of sides that take turns."""

from __future__ import annotations

import functools
import gc
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager, ExitStack
from typing import Any, NamedTuple
from unittest.mock import patch

Method = tuple[type, str]
Clock = Callable[[], float]


class Seconds(NamedTuple):
    """Processor time of this process, and time by the clock on the wall."""

    cpu: float
    wall: float


class Stopwatch:
    """Adds up the ``seconds`` that calls of a method take; what is called inside such a call counts once."""

    def __init__(self, clock: Clock = time.process_time) -> None:
        self.seconds = 0.0
        self._clock = clock
        self._depth = 0

    def on(self, methods: Sequence[Method]) -> AbstractContextManager[object]:
        """While it is entered, calls of these classes' methods count. Bound methods from before do not."""
        with ExitStack() as stack:
            for owner, name in methods:
                stack.enter_context(patch.object(owner, name, self.around(getattr(owner, name))))
            return stack.pop_all()

    def around(self, function: Callable[..., Any]) -> Callable[..., Any]:
        @functools.wraps(function)
        def timed(*args: Any, **kwargs: Any) -> Any:
            self._depth += 1
            began = self._clock()
            try:
                return function(*args, **kwargs)
            finally:
                self._depth -= 1
                if not self._depth:
                    self.seconds += self._clock() - began

        return timed


def timed(run: Callable[[], object]) -> Seconds:
    gc.collect()  # what was left by others is not this one's to clear away
    cpu, wall = time.process_time(), time.perf_counter()
    run()
    return Seconds(time.process_time() - cpu, time.perf_counter() - wall)


def in_turn(sides: Mapping[str, Callable[[], object]], turns: int) -> dict[str, list[Seconds]]:
    """What each side took in every turn; another one goes first in each."""
    names = list(sides)
    found: dict[str, list[Seconds]] = {name: [] for name in names}
    for turn in range(turns):
        first = turn % len(names)
        for name in names[first:] + names[:first]:
            found[name].append(timed(sides[name]))
    return found
