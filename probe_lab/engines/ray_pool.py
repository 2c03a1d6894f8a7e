"""The engine ``ray``: actors of a Ray cluster, of this machine or of many."""

from __future__ import annotations

import contextlib
import logging
import os
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from probe_lab.config import Engine, Experiment
from probe_lab.engines.cluster import Cluster, ray_cluster, require_gpus
from probe_lab.engines.in_process import sent_messages
from probe_lab.engines.pool import (
    Died,
    EngineKind,
    Finished,
    Member,
    Message,
    Pool,
    Ready,
    Site,
    Worker,
    WorkerSpec,
)
from probe_lab.engines.shared import SharedFile, same_file, token_in
from probe_lab.errors import ConfigError, ProbeLabError

_TICK = 5.0
"""Seconds between two looks at the nodes while nothing is heard."""
_PATIENCE = 12
"""Such looks without any worker, after which something is said."""
_log = logging.getLogger(__name__)


@contextlib.contextmanager
def open_ray(settings: Engine, spec: WorkerSpec) -> Iterator[RayPool]:
    """Actors of the cluster that ``settings`` name; all end with the block.

    Raises:
        ConfigError: the cluster does not answer or cannot hold a worker, or a device needs GPUs that none reserves.
    """
    for key, device in sorted(spec.devices):
        require_gpus(settings, key, device)
    with contextlib.ExitStack() as stack:
        cluster = stack.enter_context(ray_cluster(settings))
        shared = [same_file(path) for path in spec.reads if path.exists()]
        if spec.writes is not None:
            shared.append(stack.enter_context(token_in(spec.writes)))
        yield stack.enter_context(RayPool(cluster, spec, shared))


class _ActorMember(Member):
    """An actor; ``word`` is where its next message comes from."""

    def __init__(self, actor: Any) -> None:
        super().__init__()
        self.actor, self.word = actor, actor.begin.remote()

    def give(self, task: Any) -> None:
        self.word = self.actor.do.options(num_returns="streaming").remote(task)

    def end(self) -> None:
        import ray

        with contextlib.suppress(ray.exceptions.RayError):
            ray.kill(self.actor)


class RayPool(Pool[_ActorMember]):
    """Actors, as many as the cluster has room for. Each first checks that its node sees ``shared``."""

    noun = "Ray worker"

    def __init__(self, cluster: Cluster, spec: WorkerSpec, shared: Sequence[SharedFile]) -> None:
        super().__init__(min(spec.most, cluster.places()), spec.called)
        self._cluster = cluster
        ask = _Asking(cluster, spec.answer) if spec.answer else None
        site = Site(min(self.size, cluster.places_on_one()), ask, own_cards=True)
        self._arguments = (spec.make, site, tuple(shared), os.getcwd(), cluster.threads, not cluster.gpus)
        self._silent = 0

    def start(self) -> _ActorMember:
        import ray

        how = ray.remote(_Actor).options(
            num_cpus=self._cluster.cpus,
            num_gpus=self._cluster.gpus,
            max_restarts=0,
            max_task_retries=0,
            scheduling_strategy="SPREAD",
        )
        return _ActorMember(how.remote(*self._arguments))

    def listen(self, members: Sequence[_ActorMember]) -> list[tuple[_ActorMember, Message]]:
        import ray

        words = {member.word: member for member in members}
        heard, _ = ray.wait(list(words), num_returns=1, timeout=_TICK)
        if not heard and not any(member.ready for member in self._members):
            self._look_around()
        return [(words[word], _heard(words[word])) for word in heard]

    def _look_around(self) -> None:
        """Nobody has started: there is no room yet, or there never will be."""
        self._cluster.require_place()
        self._silent += 1
        if self._silent == _PATIENCE:
            _log.warning("no Ray worker has started for a minute: nodes are slow, or busy with other jobs")


def _heard(member: _ActorMember) -> Message:
    import ray
    from ray.exceptions import RayError, RayTaskError

    try:
        if not member.ready:
            ray.get(member.word)
            return Ready()
        message: Message = ray.get(next(member.word))
    except RayTaskError as error:
        cause = error.cause if isinstance(error.cause, ProbeLabError) else error
        return Finished(error=cause) if member.ready else Ready(cause)
    except RayError as error:
        member.end()  # Ray may only have lost sight of it
        return Died(f"because {_cause(error)}", began=member.ready)
    return message


class _Actor:
    """Holds a worker on a node."""

    def __init__(
        self,
        make: Callable[[Site], Worker],
        site: Site,
        shared: Sequence[SharedFile],
        folder: str,
        threads: int,
        hide_gpus: bool,
    ) -> None:
        self._make, self._site, self._shared, self._folder = make, site, shared, folder
        self._threads, self._hide_gpus = threads, hide_gpus

    def begin(self) -> None:
        """Prepare the process as its node's share, then make the worker."""
        if Path(self._folder).is_dir():  # paths of an experiment are relative to where the command was given
            os.chdir(self._folder)
        for file in self._shared:
            file.require(_node())
        if self._hide_gpus:  # Ray shows those that nobody reserved
            os.environ["CUDA_VISIBLE_DEVICES"] = ""
        os.environ["TOKENIZERS_PARALLELISM"] = "false"
        import torch

        torch.set_num_threads(self._threads)
        self._worker = self._make(self._site)

    def do(self, task: Any) -> Iterator[Message]:
        yield from sent_messages(self._worker, task)


@dataclass(frozen=True)
class _Answers:
    """Answers questions, in an actor on the machine of the first process."""

    answer: Callable[..., Any]

    def of(self, *asked: Any) -> Any:
        return self.answer(*asked)


class _Asking:
    """Asks, from any node, the one actor that answers."""

    def __init__(self, cluster: Cluster, answer: Callable[..., Any]) -> None:
        self._actor = cluster.actor_here(_Answers, answer)

    def __call__(self, *asked: Any) -> Any:
        import ray

        return ray.get(self._actor.of.remote(*asked))


def _node() -> str:
    import ray

    return str(ray.util.get_node_ip_address())


def _cause(error: Exception) -> str:
    """Why a worker is gone, in words for people, from Ray's."""
    text = str(error)
    if "OutOfMemory" in type(error).__name__ or "memory usage threshold" in text:
        return "its node ran out of memory: lower workers, or raise engine.cpus so that fewer share a node"
    if "its node has died" in text or "NodeDied" in type(error).__name__:
        return "its node is gone"
    return "its process died"


def _check(experiment: Experiment) -> None:
    trainer, engine = experiment.trainer, experiment.engine
    if trainer.accelerator == "gpu" and trainer.devices > max(engine.gpus, 1):
        raise ConfigError(
            f"'trainer.devices' is {trainer.devices} and a Ray worker reserves 'engine.gpus' {engine.gpus:g}: "
            f"set engine.gpus={trainer.devices}"
        )


RAY = EngineKind(open_ray, check=_check)
