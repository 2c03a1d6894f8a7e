"""A real cluster of two nodes, one of which is killed in mid-sweep and another one in mid-generation."""

from __future__ import annotations

import shutil
import tempfile
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import psutil
import pytest
from engine_world import HangsOn
from ray.cluster_utils import Cluster as RayCluster
from sweep_world import make_experiment, trained
from test_verbs import experiment_in, files_of

from probe_lab.cache import verify
from probe_lab.config import Engine
from probe_lab.engines import ray_cluster
from probe_lab.errors import ConfigError
from probe_lab.generation.generate import generate
from probe_lab.sweep import Outcome, cells, is_finished
from probe_lab.sweep.cell_pool import cell_outcomes

PATIENCE = 300.0
"""Seconds: the machine may be busy."""
SIZE = {"num_cpus": 1, "object_store_memory": 100 * 2**20}
# A killed node is found out by its silence, for which Ray itself takes half a minute.
SETTINGS = {
    "worker_niceness": 0,
    "health_check_initial_delay_ms": 0,
    "health_check_period_ms": 1000,
    "health_check_failure_threshold": 3,
}


@pytest.fixture(scope="module")
def two_nodes(_importable: None) -> Iterator[RayCluster]:
    """The head; each test adds a second node. A core each, so that two workers are on both."""
    folder = tempfile.mkdtemp(prefix="two_", dir="/tmp")  # a short name: sockets lie below it
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("RAY_TMPDIR", folder)
        head = SIZE | {"include_dashboard": False, "_system_config": SETTINGS}
        made = RayCluster(initialize_head=True, head_node_args=head)
        yield made
        made.shutdown()
    shutil.rmtree(folder, ignore_errors=True)


def wait_for(what: object) -> None:
    deadline = time.monotonic() + PATIENCE
    while not what():  # type: ignore[operator]
        assert time.monotonic() < deadline
        time.sleep(0.1)


def titles(node: object) -> list[str]:
    """What the worker processes of a node are doing."""
    raylet = psutil.Process(node.all_processes["raylet"][0].process.pid)  # type: ignore[attr-defined]
    found = []
    for child in raylet.children():
        try:
            found.append(" ".join(child.cmdline()))
        except psutil.Error:
            continue
    return [title for title in found if "Actor" in title]


def test_a_sweep_gets_all_results_though_a_node_is_killed(two_nodes: RayCluster, tmp_path: Path) -> None:
    node = two_nodes.add_node(**SIZE)
    engine = Engine(name="ray", address=two_nodes.address)
    plan = cells(make_experiment(tmp_path, {"trainer.seed": list(range(6))}))
    trainer = HangsOn(tmp_path / "log", {}, node=node.node_id)
    folder = tmp_path / "runs"
    folder.mkdir()

    def kill() -> None:
        wait_for((tmp_path / "hanging").exists)
        two_nodes.remove_node(node, allow_graceful=False)

    killer = threading.Thread(target=kill, daemon=True)
    killer.start()
    with cell_outcomes(plan, folder, engine=engine, workers=2, trainer=trainer) as outcomes:
        found = [Outcome(each.cell, 0.0, each.error) for each in outcomes]
    killer.join()
    assert sorted(found, key=str) == sorted((Outcome(cell.name, 0.0) for cell in plan), key=str)
    assert all(is_finished(folder / cell.name) for cell in plan)
    assert sorted(trained(tmp_path / "log")) == sorted(cell.name for cell in plan)
    assert (tmp_path / "hanging").read_text() in {cell.name for cell in plan}
    assert len(two_nodes.list_all_nodes()) == 1  # we left the cluster, and it runs


def test_a_generation_gets_all_images_though_a_node_is_killed(
    two_nodes: RayCluster, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    node = two_nodes.add_node(**SIZE)
    # Shards of many small batches: a node is nearly always within one.
    small = ["sampling.batch_size=1", "sampling.steps=2", "capture.steps=[2]", "cache.shard_size=6", "prompts.count=12"]
    experiment = experiment_in(tmp_path / "two", *small, "engine.name=ray", f"engine.address={two_nodes.address}")
    progress: list[int] = []

    def advance(done: int, total: int) -> None:
        if not progress:  # both workers have loaded, and wait for shards
            wait_for(lambda: titles(node) and not any("." in title for title in titles(node)))
        progress.append(done)
        if node in two_nodes.worker_nodes and done >= 4 and any(".do" in title for title in titles(node)):
            two_nodes.remove_node(node, allow_graceful=False)

    generate(experiment, advance, lambda plan: None)
    assert node not in two_nodes.worker_nodes, progress
    assert progress[-1] == 36
    assert "a Ray worker is lost" in caplog.text
    assert verify(experiment.cache_folder) == []
    alone = experiment_in(tmp_path / "one", *small, "workers=1")
    generate(alone, lambda done, total: None, lambda plan: None)
    assert files_of(experiment.cache_folder) == files_of(alone.cache_folder)


def test_a_worker_must_fit_on_one_node_and_a_share_on_one_card(two_nodes: RayCluster) -> None:
    def places(cpus: float, gpus: float) -> tuple[int, int]:
        with ray_cluster(Engine(name="ray", address=two_nodes.address, cpus=cpus, gpus=gpus)) as cluster:
            return cluster.places(), cluster.places_on_one()

    node = two_nodes.add_node(num_cpus=8, num_gpus=3, object_store_memory=SIZE["object_store_memory"])
    assert places(1, 0) == (9, 8)
    assert places(1, 0.4) == (6, 6)
    assert places(1, 2) == (1, 1)
    assert places(4, 0.5) == (2, 2)
    with pytest.raises(ConfigError, match=r"engine\.cpus=9 .*its nodes: 1 CPUs, 0 GPUs and 8 CPUs, 3 GPUs"):
        places(9, 0)
    two_nodes.remove_node(node)
    with pytest.raises(ConfigError, match=r"engine\.gpus=0\.4"):
        places(1, 0.4)
