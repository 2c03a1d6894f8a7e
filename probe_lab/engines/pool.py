"""A pool of Ray actors that take tasks; what a lost one was doing is done again elsewhere."""

from __future__ import annotations

import contextlib
import logging
import os
from collections.abc import Callable, Hashable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol, Self

from probe_lab.engines.cluster import Cluster
from probe_lab.engines.shared import SharedFile
from probe_lab.errors import ProbeLabError

DEATHS = 3
"""Workers that may die at one task, or one after the other before they are ready."""
_TICK = 5.0
"""Seconds between two looks at the nodes while nothing is heard."""
_PATIENCE = 12
"""Such looks without any worker, after which something is said."""
_log = logging.getLogger(__name__)


class Worker(Protocol):
    """What an actor holds: made once in it, then given one task after the other."""

    def do(self, task: Any) -> Iterator[Any]:
        """Work on a task; what is yielded arrives as ``Said``. An exception ends the task and is not tried again."""


class WorkerDied(ProbeLabError):
    """Every worker that was given a task died at it."""


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
    """A task is done, or failed with ``error``."""

    task: Any
    error: Exception | None = None


Event = Said | Lost | Ended


@dataclass(eq=False)
class _Task:
    content: Any
    group: Hashable
    deaths: int = 0


@dataclass(eq=False)
class _Member:
    """An actor; ``heard`` is where its next word comes from, None while it is idle."""

    actor: Any
    heard: Any
    ready: bool = False
    task: _Task | None = None
    group: Hashable = None


class Pool:
    """Up to ``size`` actors with a worker each, made by ``make`` in the actor; all end with the ``with`` block.

    Every actor first checks that its node sees ``shared``.
    """

    def __init__(self, cluster: Cluster, make: Callable[[], Worker], size: int, shared: Sequence[SharedFile]) -> None:
        self.size = min(size, cluster.places())
        self._cluster = cluster
        self._arguments = (make, tuple(shared), os.getcwd(), cluster.threads, not cluster.gpus)
        self._members: list[_Member] = []
        self._waiting: dict[Hashable, list[_Task]] = {}
        self._false_starts = 0
        self._silent = 0

    def __enter__(self) -> Self:
        self._hire(self.size)
        return self

    def __exit__(self, *_: object) -> None:
        for member in self._members:
            _end(member.actor)
        self._members.clear()

    def one(self, task: Any) -> Any:
        """The last word on a single task; its error is raised."""
        value = None
        for event in self.run({None: [task]}):
            if isinstance(event, Said):
                value = event.value
            elif isinstance(event, Ended) and event.error is not None:
                raise event.error
        return value

    def run(self, groups: Mapping[Any, Sequence[Any]]) -> Iterator[Event]:
        """Work on all tasks; a worker stays with the group that it holds while that has tasks, then helps with others.

        Raises:
            ConfigError: a node does not see the shared files, or no node is left that can hold a worker.
            ProbeLabError: workers cannot be made.
        """
        import ray

        self._waiting = {group: [_Task(each, group) for each in tasks] for group, tasks in groups.items() if tasks}
        while self._waiting or any(member.task for member in self._members):
            for member in self._members:
                if member.ready and member.task is None:  # idle, and what a lost one was doing waits again
                    self._assign(member)
            starting = sum(not member.ready for member in self._members)
            self._hire(min(self.size - len(self._members), sum(map(len, self._waiting.values())) - starting))
            ends = {member.heard: member for member in self._members if member.heard is not None}
            heard, _ = ray.wait(list(ends), num_returns=1, timeout=_TICK)
            if not heard and not any(member.ready for member in self._members):
                self._look_around()
            for each in heard:
                event = self._hear(ends[each])
                if event is not None:
                    yield event

    def _hear(self, member: _Member) -> Event | None:
        import ray
        from ray.exceptions import RayError, RayTaskError

        try:
            if not member.ready:
                ray.get(member.heard)
                member.ready, self._false_starts = True, 0
                self._assign(member)
                return None
            value = ray.get(next(member.heard))
        except StopIteration:
            return self._ended(member, None)
        except RayTaskError as error:
            cause = error.cause if isinstance(error.cause, ProbeLabError) else error
            if not member.ready:
                raise cause from error
            return self._ended(member, cause)
        except RayError as error:
            return self._bury(member, error)
        assert member.task is not None  # only workers with a task are listened to
        return Said(member.task.content, value)

    def _ended(self, member: _Member, error: Exception | None) -> Ended:
        assert member.task is not None
        event = Ended(member.task.content, error)
        self._assign(member)
        return event

    def _assign(self, member: _Member) -> None:
        member.task = member.heard = None
        if not self._waiting:
            return
        member.group = self._next_group(member)
        member.task = self._waiting[member.group].pop(0)
        if not self._waiting[member.group]:
            del self._waiting[member.group]
        member.heard = member.actor.do.options(num_returns="streaming").remote(member.task.content)

    def _next_group(self, member: _Member) -> Hashable:
        """The group that the worker holds, or else the largest one, untaken ones first."""
        if member.group in self._waiting:
            return member.group
        taken = {other.group for other in self._members if other.task}
        return max(self._waiting, key=lambda group: (group not in taken, len(self._waiting[group])))

    def _bury(self, member: _Member, error: Exception) -> Event | None:
        """A worker is gone: its task waits again, before all others, unless it was too many workers' last."""
        _end(member.actor)  # Ray may only have lost sight of it
        self._members.remove(member)
        task, how = member.task, _how(error)
        if not member.ready:
            self._false_starts += 1
            if self._false_starts == DEATHS:
                raise WorkerDied(f"{DEATHS} Ray workers ended before they were ready, the last because {how}")
        if task is None:
            return None
        task.deaths += 1
        if task.deaths == DEATHS:
            return Ended(task.content, WorkerDied(f"{DEATHS} Ray workers died at it, the last because {how}"))
        _log.warning("a Ray worker is lost (%s): its work is done again", how)
        self._waiting[task.group] = [task, *self._waiting.get(task.group, [])]
        return Lost(task.content)

    def _hire(self, count: int) -> None:
        import ray

        for _ in range(count):
            how = ray.remote(_Actor).options(
                num_cpus=self._cluster.cpus,
                num_gpus=self._cluster.gpus,
                max_restarts=0,
                max_task_retries=0,
                scheduling_strategy="SPREAD",
            )
            actor = how.remote(*self._arguments)
            self._members.append(_Member(actor, actor.begin.remote()))

    def _look_around(self) -> None:
        """Nobody has started: there is no room yet, or there never will be."""
        self._cluster.require_place()
        self._silent += 1
        if self._silent == _PATIENCE:
            _log.warning("no Ray worker has started for a minute: nodes are slow, or busy with other jobs")


class _Actor:
    """Holds a worker on a node."""

    def __init__(
        self, make: Callable[[], Worker], shared: Sequence[SharedFile], folder: str, threads: int, hide_gpus: bool
    ) -> None:
        self._make, self._shared, self._folder = make, shared, folder
        self._threads, self._hide_gpus = threads, hide_gpus

    def begin(self) -> None:
        """Prepare the process as its node's share, then make the worker."""
        if Path(self._folder).is_dir():  # paths of an experiment are relative to where the command was given
            os.chdir(self._folder)
        for each in self._shared:
            each.require(_node())
        if self._hide_gpus:  # Ray shows those that nobody reserved
            os.environ["CUDA_VISIBLE_DEVICES"] = ""
        os.environ["TOKENIZERS_PARALLELISM"] = "false"
        import torch

        torch.set_num_threads(self._threads)
        self._worker = self._make()

    def do(self, task: Any) -> Iterator[Any]:
        yield from self._worker.do(task)


def _node() -> str:
    import ray

    return str(ray.util.get_node_ip_address())


def _end(actor: Any) -> None:
    import ray

    with contextlib.suppress(ray.exceptions.RayError):
        ray.kill(actor)


def _how(error: Exception) -> str:
    """Why a worker is gone, in words for people, from Ray's."""
    text = str(error)
    if "OutOfMemory" in type(error).__name__ or "memory usage threshold" in text:
        return "its node ran out of memory: lower workers, or raise engine.cpus so that fewer share a node"
    if "its node has died" in text or "NodeDied" in type(error).__name__:
        return "its node is gone"
    return "its process died"
