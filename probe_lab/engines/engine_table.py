"""The engines by the names that experiments give them."""

from __future__ import annotations

from contextlib import AbstractContextManager
from typing import Any

from probe_lab.config import Engine
from probe_lab.engines.local import LOCAL
from probe_lab.engines.pool import EngineKind, Pool, WorkerSpec
from probe_lab.engines.ray_pool import RAY
from probe_lab.registry import Registry

ENGINES = Registry("engine", EngineKind, "engines", {"local": LOCAL, "ray": RAY})
"""What ``engine.name`` may name."""


def engine_of(settings: Engine) -> EngineKind:
    """The engine of an experiment. ConfigError for a name of none."""
    return ENGINES.get(settings.name)


def open_pool(settings: Engine, spec: WorkerSpec) -> AbstractContextManager[Pool[Any]]:
    """The workers of ``spec`` on the engine of an experiment; all end with the block, however it ends.

    Raises:
        ConfigError: the engine is not there, or cannot hold such a worker.
    """
    return engine_of(settings).open(settings, spec)
