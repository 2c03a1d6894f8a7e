"""What all engines have in common: workers are given tasks, and what becomes of a task comes back as events."""

from __future__ import annotations

import logging
from abc import ABC, abstractmethod
from collections import deque
from collections.abc import Callable, Hashable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Generic, Protocol, Self, TypeVar

from probe_lab.config import Engine, Experiment
from probe_lab.errors import ProbeLabError

STARTS = 3
"""Workers that may end one after the other before they are ready."""
_log = logging.getLogger(__name__)


class Worker(Protocol):
    """Made once where it works, then given one task after the other."""

    def do(self, task: Any) -> Any:
        """The result of a task, which arrives in ``Ended``.

        A generator yields reports on the way, which arrive as ``Said``, and returns the result. An exception ends the
        task and is not tried again.
        """


@dataclass(frozen=True)
class Site:
    """Where a worker is.

    Attributes:
        beside: workers on its machine, itself included.
        ask: sends a question to the first process and returns its answer; None where nobody answers.
        own_cards: whether it sees only the GPUs that are its own, counted from 0.
    """

    beside: int = 1
    ask: Callable[..., Any] | None = None
    own_cards: bool = False

    def device(self, name: str) -> str:
        """What the device of an experiment is called here: ``cuda`` for ``cuda:3`` where that is its only one."""
        return "cuda" if self.own_cards and name.startswith("cuda") else name


@dataclass(frozen=True)
class WorkerSpec:
    """The workers that a pool is to have.

    Attributes:
        make: makes one, in its process. Pickled, as all that is sent to a worker or back.
        most: how many there are at most.
        devices: (key of the experiment, its value) of the devices that they use; none where no model runs.
        cards: GPUs of one worker, where processes of this machine share them out.
        answer: answers the questions of workers, see ``Site.ask``.
        writes: the folder that they write to, if they do.
        reads: files that they read.
        takes_part: whether this process is one of them, where the others share its machine.
        called: a worker in the sentence about its death.
        if_killed: what that sentence adds where the system killed it.
    """

    make: Callable[[Site], Worker]
    most: int
    devices: frozenset[tuple[str, str]] = frozenset()
    cards: int = 1
    answer: Callable[..., Any] | None = None
    writes: Path | None = None
    reads: Sequence[Path] = ()
    takes_part: bool = False
    called: str = "its worker process"
    if_killed: str = ""


class WorkerDied(ProbeLabError):
    """Workers ended before they were ready, or at a task that is given up."""


@contextmanager
def deaths_as(kind: type[ProbeLabError], advice: str = "") -> Iterator[None]:
    """The death of workers within the block is an error of another kind, which adds what to do."""
    try:
        yield
    except WorkerDied as error:
        raise kind(f"{error}{advice}") from error


@dataclass(frozen=True)
class Said:
    """A worker reports on its task."""

    task: Any
    value: Any


@dataclass(frozen=True)
class Lost:
    """The worker of a task died: what it said is void, another one begins the task again."""

    task: Any


@dataclass(frozen=True)
class Ended:
    """A task is done, with the result ``value``, or failed with ``error``."""

    task: Any
    error: Exception | None = None
    value: Any = None


Event = Said | Lost | Ended


@dataclass(frozen=True)
class Ready:
    """Message of a member: its worker is made, or cannot be made for this error."""

    error: Exception | None = None


@dataclass(frozen=True)
class Report:
    """Message of a member: what its worker yields."""

    value: Any


@dataclass(frozen=True)
class Finished:
    """Message of a member: its first task is over."""

    value: Any = None
    error: Exception | None = None


@dataclass(frozen=True)
class Died:
    """Message about a member whose end the engine has seen to: ``how`` in words, such as "by signal 9 (SIGKILL)", and
    whether it was ready and had begun its task."""

    how: str
    began: bool


Message = Ready | Report | Finished | Died


@dataclass(eq=False)
class _Task:
    content: Any
    group: Hashable
    deaths: int = 0


class Member(ABC):
    """A worker as its pool sees it.

    Attributes:
        ready: whether its worker is made.
        queues: whether it takes a second task while it works on a first one.
        tasks: what it was given and has not finished.
        group: of the task that it was given last.
    """

    ready = False
    queues = False

    def __init__(self) -> None:
        self.tasks: deque[_Task] = deque()
        self.group: Hashable = None

    @abstractmethod
    def give(self, task: Any) -> None:
        """Let the worker begin a task, or have it for afterwards."""

    def leave(self) -> None:  # noqa: B027  some have nobody to tell
        """Tell the worker to end; all are told before ``end`` waits for the first one."""

    @abstractmethod
    def end(self) -> None:
        """Return when the worker has ended; it may have done so already."""


M = TypeVar("M", bound=Member)


class Pool(ABC, Generic[M]):
    """Up to ``size`` workers, which take tasks; all end with the ``with`` block, however it ends.

    An engine says how a worker starts, and waits for messages. Which task a worker is given, and what the death of one
    means, is decided here, alike for all engines.

    Attributes:
        noun: one of its workers, in messages.
        deaths: workers that may die at one task before it is given up.
    """

    noun = "worker"
    deaths = 3

    def __init__(self, size: int, called: str = "") -> None:
        self.size = size
        self._called = called
        self._members: list[M] = []
        self._waiting: dict[Hashable, deque[_Task]] = {}
        self._urgency: Callable[[Sequence[Any]], Any] = len
        self._false_starts = 0

    @abstractmethod
    def start(self) -> M:
        """Start one more worker."""

    @abstractmethod
    def listen(self, members: Sequence[M]) -> Sequence[tuple[M, Message]]:
        """Wait for messages of members that start or work; at most one of each, and none where it takes long."""

    def __enter__(self) -> Self:
        try:
            self._hire(self.size)
        except BaseException:
            self.__exit__()
            raise
        return self

    def __exit__(self, *_: object) -> None:
        for member in self._members:
            member.leave()
        for member in self._members:
            member.end()
        self._members.clear()

    def one(self, task: Any) -> Any:
        """The result of a single task; its error is raised."""
        return next(value for _, value in self.results({None: [task]}))

    def results(self, groups: Mapping[Any, Sequence[Any]]) -> Iterator[tuple[Any, Any]]:
        """Tasks and their results, as they are done. Errors as in ``run``, and the first one of a task is raised."""
        for event in self.run(groups):
            if isinstance(event, Ended):
                if event.error is not None:
                    raise event.error
                yield event.task, event.value

    def run(
        self, groups: Mapping[Any, Sequence[Any]], urgency: Callable[[Sequence[Any]], Any] = lambda tasks: 0
    ) -> Iterator[Event]:
        """Work on all tasks.

        A worker stays with the group of its last task while that has more, then turns to the most urgent one by
        ``urgency(tasks left)``; among equals to one that nobody works on, then to the largest.

        Raises:
            ConfigError: a worker does not see the files, or can never start.
            ProbeLabError: workers cannot be made; ``WorkerDied`` where they end before they are ready.
        """
        self._urgency = urgency
        self._waiting = {group: deque(_Task(task, group) for task in tasks) for group, tasks in groups.items() if tasks}
        while True:
            for member in self._members:  # idle, and what a lost one was doing waits again
                self._assign(member)
            self._hire(self._left() - sum(not member.ready for member in self._members))
            if not self._waiting and not any(member.tasks for member in self._members):
                return
            heard = self.listen([member for member in self._members if member.tasks or not member.ready])
            # Before anyone looks at an event, which may take a while, the workers have their next tasks.
            events = [self._take(member, message) for member, message in heard]
            yield from (event for event in events if event is not None)

    def _left(self) -> int:
        return sum(map(len, self._waiting.values()))

    def _hire(self, wanted: int) -> None:
        for _ in range(min(wanted, self.size - len(self._members))):
            self._members.append(self.start())

    def _take(self, member: M, message: Message) -> Event | None:
        if isinstance(message, Died):
            return self._remove(member, message)
        if isinstance(message, Ready):
            if message.error is not None:
                raise message.error
            member.ready = True
            self._assign(member)
            return None
        self._false_starts = 0
        if isinstance(message, Report):
            return Said(member.tasks[0].content, message.value)
        event = Ended(member.tasks.popleft().content, message.error, message.value)
        self._assign(member)
        return event

    def _assign(self, member: M) -> None:
        """Give a worker its next task. A second one waits with it only while there is one for every other worker."""
        while self._waiting and member.ready:
            if len(member.tasks) >= (2 if member.queues and self._left() >= self.size else 1):
                return
            member.group = self._next_group(member)
            task = self._waiting[member.group].popleft()
            if not self._waiting[member.group]:
                del self._waiting[member.group]
            member.tasks.append(task)
            member.give(task.content)

    def _next_group(self, member: M) -> Hashable:
        if member.group in self._waiting:
            return member.group
        taken = {other.group for other in self._members if other.tasks}

        def priority(group: Hashable) -> tuple[Any, bool, int]:
            tasks = [task.content for task in self._waiting[group]]
            return self._urgency(tasks), group not in taken, len(tasks)

        return max(self._waiting, key=priority)

    def _remove(self, member: M, died: Died) -> Event | None:
        """A worker is gone: its tasks wait again, before all others, unless the first was too many workers' last."""
        self._members.remove(member)
        event = None
        if died.began:
            event = self._lost(member, died.how)
        else:
            self._false_starts += 1
            if self._false_starts == STARTS:
                raise WorkerDied(f"{STARTS} {self.noun}s ended before they were ready, the last {died.how}")
        for again in reversed(member.tasks):
            self._waiting.setdefault(again.group, deque()).appendleft(again)
        return event

    def _lost(self, member: M, how: str) -> Lost | Ended:
        task = member.tasks[0]
        task.deaths += 1
        if task.deaths < self.deaths:
            _log.warning("a %s is lost (%s): its work is done again", self.noun, how.removeprefix("because "))
            return Lost(task.content)
        member.tasks.popleft()
        several = f"{self.deaths} {self.noun}s died at it, the last {how}"
        return Ended(task.content, WorkerDied(several if self.deaths > 1 else f"{self._called} ended {how}"))


@dataclass(frozen=True)
class EngineKind:
    """What ``engine.name`` names.

    Attributes:
        open: the pool of some workers, for the settings ``engine`` of an experiment.
        shares_machine: whether all workers are on this machine, so that memory, cores and cards are shared out here.
        check: ConfigError for settings of an experiment that do not fit, when it is read.
    """

    open: Callable[[Engine, WorkerSpec], AbstractContextManager[Pool[Any]]]
    shares_machine: bool = False
    check: Callable[[Experiment], None] = lambda experiment: None
