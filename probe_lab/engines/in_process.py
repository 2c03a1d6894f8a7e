"""What a worker does with a task, wherever it is; and a worker in this very process."""

from __future__ import annotations

import pickle
import traceback
from collections.abc import Callable, Generator, Iterator
from typing import Any

from probe_lab.engines.pool import Finished, Member, Message, Report, Worker
from probe_lab.errors import ProbeLabError
from probe_lab.resource_errors import one_line


def messages(worker: Callable[[], Worker], task: Any) -> Generator[Report | Finished]:
    """The reports of a worker on a task, then its result or its error."""
    try:
        result = worker().do(task)
        while isinstance(result, Generator):
            try:
                report = next(result)
            except StopIteration as end:
                result = end.value
            else:
                yield Report(report)
    except Exception as error:  # the pool says whose it is
        yield Finished(error=error)
    else:
        yield Finished(result)


def sent_messages(worker: Worker, task: Any) -> Iterator[Report | Finished]:
    """``messages`` for another process."""
    for message in messages(lambda: worker, task):
        if isinstance(message, Finished) and message.error is not None:
            message = Finished(error=portable(message.error))
        yield message


def portable(error: Exception) -> Exception:
    """The error as it can be sent, with its traceback unless it is one of ours."""
    if not isinstance(error, ProbeLabError):
        error.add_note("".join(traceback.format_exception(error)))
    try:
        pickle.loads(pickle.dumps(error))
    except Exception:  # an error may hold anything, and be made from anything
        return RuntimeError(one_line(error))
    return error


class InProcess(Member):
    """A worker that works while its pool listens to it. It is made when it is given a first task."""

    ready = True

    def __init__(self, make: Callable[[], Worker]) -> None:
        super().__init__()
        self._make = make
        self._worker: Worker | None = None
        self._messages: Generator[Report | Finished] | None = None

    def give(self, task: Any) -> None:
        self._messages = messages(self._made, task)

    def work_on(self) -> Message:
        """Work until the next report, or until the task is over."""
        assert self._messages is not None
        return next(self._messages)

    def end(self) -> None:
        if self._messages is not None:
            self._messages.close()

    def _made(self) -> Worker:
        if self._worker is None:
            self._worker = self._make()
        return self._worker
