"""A Ray cluster of this machine that the tests of a module share, and what its workers need to import."""

from __future__ import annotations

import os
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from probe_lab.config import Engine
from probe_lab.engines import Cluster, ray_cluster

HELPERS = [str(Path(__file__).parent), str(Path(__file__).parents[1] / "sweep")]
sys.path[:0] = HELPERS


@pytest.fixture(scope="module")
def _importable() -> Iterator[None]:
    """Workers start with the environment of the process that starts the cluster."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("PYTHONPATH", os.pathsep.join(HELPERS))
        yield


@pytest.fixture(scope="module")
def cluster(_importable: None) -> Iterator[Cluster]:
    """Further ``ray_cluster`` calls of this process use it. Half a core each: two workers on any machine."""
    with ray_cluster(Engine(name="ray", cpus=0.5)) as made:
        yield made
