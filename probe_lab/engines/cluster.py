"""A Ray cluster for one run: started here and ended with it, or joined and left as it is."""

from __future__ import annotations

import contextlib
import math
import os
import shutil
import signal
import socket
import tempfile
import threading
from collections.abc import Iterator
from dataclasses import dataclass
from types import ModuleType
from typing import Any

from probe_lab.config import Engine
from probe_lab.errors import ConfigError
from probe_lab.processes import cores

OLDEST = (2, 50)
_OBJECT_STORE = 2**27
"""Bytes of shared memory: arrays travel through files, so a cluster of our own needs little."""
_ANSWER = 10.0
"""Seconds that a cluster gets to answer: Ray itself would try for minutes."""
_LONGEST = 40
"""Letters of a temporary folder: Ray puts sockets below it, whose names the system limits to about 100."""


@dataclass(frozen=True)
class Cluster:
    """A connected cluster, and what one worker reserves on it."""

    cpus: float
    gpus: float

    @property
    def threads(self) -> int:
        """Of one worker."""
        return math.ceil(self.cpus)

    def places(self) -> int:
        """Workers that all living nodes hold together."""
        return sum(self._places_of(*each) for each in _nodes())

    def places_on_one(self) -> int:
        """Workers that the largest node holds."""
        return max((self._places_of(*each) for each in _nodes()), default=0)

    def require_place(self) -> None:
        """ConfigError where no node of the cluster can ever hold one worker."""
        nodes = _nodes()
        if not any(self._places_of(*each) for each in nodes):
            has = " and ".join(sorted({f"{cpus:g} CPUs, {gpus:g} GPUs" for cpus, gpus in nodes})) or "none"
            raise ConfigError(
                f"no node of the Ray cluster can hold a worker with engine.cpus={self.cpus:g} and "
                f"engine.gpus={self.gpus:g} (its nodes: {has}): lower them, or add a node"
            )

    def actor_here(self, what: type, *arguments: Any) -> Any:
        """Handle of an actor on this very machine, which reserves nothing and lasts as long as its handles."""
        import ray
        from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

        here = NodeAffinitySchedulingStrategy(ray.get_runtime_context().get_node_id(), soft=False)
        return ray.remote(what).options(num_cpus=0, scheduling_strategy=here).remote(*arguments)

    def _places_of(self, cpus: float, gpus: float) -> int:
        by_cpu = int(cpus / self.cpus + 1e-6)
        if not self.gpus:
            return by_cpu
        # A share of a card lies on one card: two of three cards' 0.4 do not make another 0.4.
        by_gpu = int(gpus) * int(1 / self.gpus + 1e-6) if self.gpus < 1 else int(gpus / self.gpus)
        return min(by_cpu, by_gpu)


@contextlib.contextmanager
def ray_cluster(engine: Engine) -> Iterator[Cluster]:
    """Connect to ``engine.address``, or start a cluster of this machine that ends with the block, whatever ends it.

    A program that has called ``ray.init`` itself keeps its own connection.

    Raises:
        ConfigError: Ray is not installed or too old, no cluster answers, or no node can hold one worker.
    """
    cluster = Cluster(engine.cpus, engine.gpus)
    if engine.gpus > 1 and engine.gpus != int(engine.gpus):
        raise ConfigError(f"'engine.gpus' is {engine.gpus:g}: a worker has a share of one GPU, or whole ones")
    ray = load_ray()
    if ray.is_initialized():
        cluster.require_place()
        yield cluster
        return
    with _joined(ray, engine.address) if engine.address else _own(ray):
        cluster.require_place()
        yield cluster


def require_gpus(engine: Engine, key: str, device: str) -> None:
    """ConfigError where ``key`` asks for a device that a worker without GPUs does not have."""
    if device not in ("cpu", "auto") and not engine.gpus:
        raise ConfigError(
            f"'{key}' is {device} and 'engine.gpus' is 0: a Ray worker sees only what it reserves, so set "
            "engine.gpus=1, or a share such as 0.5"
        )


def load_ray() -> ModuleType:
    """The library. ConfigError with the command that installs it."""
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")  # nothing is sent anywhere
    try:
        import ray
    except ImportError as error:
        raise ConfigError("'engine.name' is ray and Ray is not installed: pip install 'probe_lab[ray]'") from error
    if tuple(map(int, ray.__version__.split(".")[:2])) < OLDEST:
        raise ConfigError(f"Ray {ray.__version__} is too old: pip install 'probe_lab[ray]' brings 2.50 or later")
    return ray


@contextlib.contextmanager
def _own(ray: ModuleType) -> Iterator[None]:
    parent = tempfile.gettempdir()
    folder = tempfile.mkdtemp(prefix="ray_", dir=parent if len(parent) <= _LONGEST else "/tmp")
    try:
        _connect(
            ray,
            "Ray did not start",
            address="local",
            num_cpus=cores(),
            include_dashboard=False,
            object_store_memory=_OBJECT_STORE,
            _system_config={"worker_niceness": 0},  # of 15 by default, which any other work on the machine starves
            _temp_dir=folder,
        )
        yield
    finally:
        ray.shutdown()
        shutil.rmtree(folder, ignore_errors=True)


@contextlib.contextmanager
def _joined(ray: ModuleType, address: str) -> Iterator[None]:
    if address != "auto":
        _require_answer(address)
    try:
        _connect(ray, f"the Ray cluster at engine.address={address} does not take this run", address=address)
        yield
    finally:
        ray.shutdown()  # leaves the cluster; workers of this run end


def _require_answer(address: str) -> None:
    host, _, port = address.rpartition(":")
    if not (host and port.isdigit()):
        raise ConfigError(
            f"'engine.address' is '{address}': write HOST:PORT as `ray start` prints it, auto for the cluster that "
            "this machine belongs to, or nothing to start one"
        )
    try:
        socket.create_connection((host, int(port)), timeout=_ANSWER).close()
    except (OSError, OverflowError) as error:
        raise ConfigError(
            f"no Ray cluster answers at engine.address={address} ({error}): start it with `ray start --head`, or leave "
            "the address empty"
        ) from error


def _connect(ray: ModuleType, trouble: str, **how: Any) -> None:
    try:
        with _own_sigterm():
            ray.init(log_to_driver=False, logging_level="ERROR", **how)
    except (OSError, RuntimeError, ValueError, ray.exceptions.RayError) as error:
        reason = (str(error).strip().splitlines() or [type(error).__name__])[0]
        raise ConfigError(f"{trouble}: {reason}") from error


@contextlib.contextmanager
def _own_sigterm() -> Iterator[None]:
    """Keep what this process does at SIGTERM: Ray would exit."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    before = signal.getsignal(signal.SIGTERM)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)


def _nodes() -> list[tuple[float, float]]:
    """CPUs and GPUs of each living node, used or not."""
    import ray

    alive = [node["Resources"] for node in ray.nodes() if node["Alive"]]
    return [(has.get("CPU", 0.0), has.get("GPU", 0.0)) for has in alive]
